"""Differences between two policies, question by question, with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and where 95 % of the bootstrap's draws lie.

    Example:
        >>> str(Interval(0.1, 0.05, 0.15))
        '+0.100 [+0.050, +0.150]'
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], seed: int = 0) -> Interval:
    """Ours less theirs, in the mean over seeds and questions.

    Each list has one array for each seed: float [N], a value for each question, or [N, 2], a count and what it is a share
    of (pooled over questions). Questions are drawn anew within each seed, the same for both sides.

    Raises: ValueError when the seeds or the questions of the two sides differ in number.

    Example:
        >>> difference([np.ones(50)], [np.zeros(50)])
        Interval(mean=1.0, low=1.0, high=1.0)
    """
    if len(ours) != len(theirs) or any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        raise ValueError(f"seeds or questions differ: {[a.shape for a in ours]} and {[b.shape for b in theirs]}")
    rng = np.random.default_rng(seed)
    draws, means = np.zeros(DRAWS), 0.0
    for a, b in zip(ours, theirs, strict=True):
        # how often each question is drawn: a draw's mean is then one product
        times = rng.multinomial(len(a), np.full(len(a), 1 / len(a)), size=DRAWS)
        draws += _mean(times, a) - _mean(times, b)
        once = np.ones((1, len(a)), int)
        means += float((_mean(once, a) - _mean(once, b))[0])
    low, high = np.quantile(draws / len(ours), [0.025, 0.975])
    return Interval(means / len(ours), float(low), float(high))


def spread(values: Sequence[float | None], form: str = ".3g") -> str:
    """Mean, and the lowest and highest, of what several seeds have; "" when none has it.

    Example:
        >>> spread([0.1, None, 0.3])
        '0.2 [0.1, 0.3]'
    """
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = format(np.mean(known), form)
    return mean if len(known) == 1 else f"{mean} [{min(known):{form}}, {max(known):{form}}]"


def _mean(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means [D] of values, each question counted so many times [D, N]."""
    if values.ndim == 1:
        return times @ values / len(values)
    counts = times @ values
    return counts[:, 0] / np.maximum(1, counts[:, 1])
