"""The canary: success on labelled *source* questions, looked at now and then; when it falls, learning ends (paper 6.8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CHANCE = 2.0
"""Standard deviations: of what was lost beyond what was gained, if questions change sides by chance alone (McNemar 1947)."""


@dataclass(frozen=True, slots=True)
class CanarySettings:
    """When it is looked at, and how far it may fall."""

    every: int = 250
    """Kept updates between two looks; 0: there is no canary."""
    n: int = 64
    """Labelled questions of the source, the same each time: never of the stream that is adapted to."""
    drop: float = 0.02
    """Success that may be lost since the start: more, and more than chance explains, and the last good weights are put back and
    nothing is learned."""


class Canary:
    """What it has read so far. The caller asks the questions and acts on what is said.

    Example:
        >>> canary, well = Canary(CanarySettings(every=2)), [True] * 60 + [False] * 20
        >>> canary.look(0, well), canary.due(1), canary.due(2), canary.look(2, well[1:] + [True])
        (None, False, True, None)
        >>> canary.look(4, [False] * 6 + well[6:])
        'canary 0.675 after 0.750 at the start'
    """

    def __init__(self, settings: CanarySettings) -> None:
        self.settings = settings
        self.start: list[bool] | None = None
        """Which questions the start policy had right."""
        self.looked = -1
        """Kept updates at the last look."""

    def due(self, commits: int) -> bool:
        """Whether to look at the weights that so many updates have led to. At 0 it is: what they had is the measure."""
        every = self.settings.every
        return every > 0 and commits % every == 0 and commits != self.looked

    def look(self, commits: int, right: Sequence[bool]) -> str | None:
        """Take which questions the weights have right now, [n]. Why they must go, or None: then they are the last good ones.

        ValueError for another number of questions than at the start.
        """
        self.looked = commits
        if self.start is None:
            self.start = list(right)
        lost = sum(before and not now for before, now in zip(self.start, right, strict=True))
        gained = sum(now and not before for before, now in zip(self.start, right, strict=True))
        # a drop of exactly so much is none: rounding must not decide
        far = lost - gained > self.settings.drop * len(right) + 1e-9
        if not far or lost - gained <= CHANCE * (lost + gained) ** 0.5:
            return None
        return f"canary {sum(right) / len(right):.3f} after {sum(self.start) / len(right):.3f} at the start"

    def state(self) -> dict[str, Any]:
        """JSON-able."""
        return {"start": self.start, "looked": self.looked}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.start, self.looked = state["start"], state["looked"]
