"""How far the kept updates of a phase were from its reference: shares under, inside and over the corridor (paper 6.7)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixelis.learners.corridor import CorridorSettings


class Drift:
    """The KL of each kept update, in nats a token.

    Example:
        >>> drift = Drift(CorridorSettings(low=0.1, high=0.2, window=2))
        >>> for kl in (0.05, 0.15, 0.3):
        ...     drift.add(kl)
        >>> {name: round(value, 3) for name, value in drift.figures().items()}
        {'kl_under': 0.333, 'kl_inside': 0.333, 'kl_over': 0.333, 'kl_median': 0.15, 'kl_p95': 0.285, 'kl_window': 0.225, \
'kl_window_over': 0.333}
    """

    def __init__(self, settings: CorridorSettings) -> None:
        self.settings = settings
        self.readings: list[float] = []

    def add(self, kl: float) -> None:
        """Take that of one more kept update."""
        self.readings.append(kl)

    def figures(self) -> dict[str, float]:
        """Shares of all kept updates, their median and 95th percentile; the mean of the last `window` updates, and the share
        of updates at which that was above the upper edge. Nothing before the first."""
        if not self.readings:
            return {}
        all_of = np.array(self.readings)
        means = _means(all_of, self.settings.window)
        over = float((all_of > self.settings.high).mean())
        under = float((all_of < self.settings.low).mean())
        return {
            "kl_under": under,
            "kl_inside": max(0.0, 1.0 - under - over),
            "kl_over": over,
            "kl_median": float(np.median(all_of)),
            "kl_p95": float(np.quantile(all_of, 0.95)),
            "kl_window": float(means[-1]),
            "kl_window_over": float((means > self.settings.high).mean()),
        }

    def state(self) -> list[float]:
        """JSON-able."""
        return list(self.readings)

    def restore(self, state: Sequence[float]) -> None:
        """Inverse of `state`."""
        self.readings = list(state)


def _means(readings: np.ndarray, window: int) -> np.ndarray:
    """At each update the mean of it and up to `window - 1` before it."""
    sums = np.concatenate([[0.0], readings.cumsum()])
    ends = np.arange(1, len(sums))
    begins = np.maximum(0, ends - window)
    return (sums[ends] - sums[begins]) / (ends - begins)
