"""Selective prediction: how often the answers are wrong that are given with most confidence (Geifman and El-Yaniv 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

DRAWS = 2000
Measure = Callable[[np.ndarray, np.ndarray], float]
"""A figure of confidence [N] and of what is right, bool [N]."""


def curve(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Risk float64 [N]: the share of wrong ones among the n most confident, n = 1 .. N (coverage n / N).

    Where confidence is the same it is the mean over all orders, so that the order of the items is no matter.

    Raises: ValueError without items, on other lengths, or for a confidence that is no number.

    Example:
        >>> curve(np.array([0.9, 0.5, 0.5]), np.array([True, True, False])).round(3).tolist()
        [0.0, 0.25, 0.333]
    """
    confidence, right = np.asarray(confidence, float), np.asarray(right, bool)
    if confidence.ndim != 1 or not len(confidence) or confidence.shape != right.shape or np.isnan(confidence).any():
        raise ValueError(f"confidence {confidence.shape} and right {right.shape}: no lists of numbers of one length")
    _, block, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(block, weights=~right) / size
    return np.cumsum(wrong[np.sort(block)]) / np.arange(1, len(right) + 1)


def aurc(confidence: np.ndarray, right: np.ndarray, low: float = 0.0, high: float = 1.0) -> float:
    """Area under the risk-coverage curve: the mean risk over the coverages above `low` and up to `high`.

    Example:
        >>> aurc(np.array([0.9, 0.8, 0.1]), np.array([True, True, False])) * 9
        1.0
    """
    risk = curve(confidence, right)
    first = min(math.floor(low * len(risk) + 1e-9), len(risk) - 1)
    return float(risk[first : max(first + 1, math.floor(high * len(risk) + 1e-9))].mean())


def error_at(coverage: float, confidence: np.ndarray, right: np.ndarray) -> float:
    """Share of wrong ones among the most confident `coverage` (above 0, up to 1) of the items, rounded up to whole ones."""
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage {coverage} is not above 0 and at most 1")
    risk = curve(confidence, right)
    return float(risk[math.ceil(coverage * len(risk) - 1e-9) - 1])


def selected(accepted: np.ndarray, right: np.ndarray) -> tuple[float, float | None]:
    """(coverage, share of wrong ones among the accepted: Err@Sel, None when there is none). ValueError without items."""
    accepted, right = np.asarray(accepted, bool), np.asarray(right, bool)
    if not len(accepted) or accepted.shape != right.shape:
        raise ValueError(f"accepted {accepted.shape} and right {right.shape}: two lists of one length are needed")
    return float(accepted.mean()), float(1 - right[accepted].mean()) if accepted.any() else None


@dataclass(frozen=True, slots=True)
class Paired:
    """A figure of two ways to answer the same items, ours less theirs, and where 95 % of the bootstrap's draws lie.

    Example:
        >>> str(Paired(0.03, 0.05, -0.02, -0.03, -0.01))
        '0.0300 and 0.0500: -0.0200 [-0.0300, -0.0100]'
    """

    ours: float
    theirs: float
    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ours:.4f} and {self.theirs:.4f}: {self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def paired(
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray], measure: Measure = aurc, seed: int = 0,
    draws: int = DRAWS,
) -> Paired:  # fmt: skip
    """A measure of (confidence, right) of two ways to answer the same items; items are drawn anew, the same for both.

    Raises: ValueError when the numbers of items differ.

    Example:
        >>> right = np.arange(50) % 5 > 0
        >>> paired((right * 1.0, right), (right * 1.0, right)).difference
        0.0
    """
    if len({len(part) for part in (*ours, *theirs)}) != 1:
        raise ValueError(f"not the same items: {[len(part) for part in (*ours, *theirs)]}")
    a, b = (tuple(map(np.asarray, side)) for side in (ours, theirs))
    rng = np.random.default_rng(seed)
    values = np.empty(draws)
    for i in range(draws):
        pick = rng.integers(len(a[0]), size=len(a[0]))
        values[i] = measure(a[0][pick], a[1][pick]) - measure(b[0][pick], b[1][pick])
    low, high = np.quantile(values, [0.025, 0.975])
    one, other = measure(*a), measure(*b)
    return Paired(one, other, one - other, float(low), float(high))


def error_of(coverage: float) -> Measure:
    """`error_at` of one coverage, as a measure.

    Example:
        >>> error_of(0.5)(np.array([1, 0]), np.array([True, False]))
        0.0
    """
    return partial(error_at, coverage)
