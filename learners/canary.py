"""The canary: success on labelled *source* questions, looked at now and then; when it falls, learning ends (paper 6.8)."""

from __future__ import annotations

from collections.abc import Mapping
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
        >>> canary, well = Canary(CanarySettings(every=2)), {f"q{i}": i < 60 for i in range(80)}
        >>> canary.look(0, well), canary.due(1), canary.due(2), canary.look(2, well | {"q0": False, "q60": True})
        (None, False, True, None)
        >>> canary.look(4, well | {f"q{i}": False for i in range(6)})
        'canary 0.675 after 0.750 at the start'
    """

    def __init__(self, settings: CanarySettings) -> None:
        self.settings = settings
        self.start: dict[str, bool] | None = None
        """Whether the start policy had each question right."""
        self.looked = -1
        """Kept updates at the last look."""

    def due(self, commits: int) -> bool:
        """Whether to look at the weights that so many updates have led to. At 0 it is: what they had is the measure."""
        every = self.settings.every
        return every > 0 and commits % every == 0 and commits != self.looked

    def look(self, commits: int, right: Mapping[str, bool]) -> str | None:
        """Take whether the weights have each question right now, by its id. Why they must go, or None: then they are the last
        good ones. Compared are questions that were answered both times: infrastructure may have ended others."""
        self.looked = commits
        if self.start is None:
            self.start = dict(right)
        both = [(self.start[name], now) for name, now in right.items() if name in self.start]
        before, after = (sum(side) for side in zip(*both, strict=True)) if both else (0, 0)
        changed = sum(one != other for one, other in both)
        # a drop of exactly so much is none: rounding must not decide
        if before - after <= max(self.settings.drop * len(both) + 1e-9, CHANCE * changed**0.5):
            return None
        return f"canary {after / len(both):.3f} after {before / len(both):.3f} at the start"

    def state(self) -> dict[str, Any]:
        """JSON-able."""
        return {"start": self.start, "looked": self.looked}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.start, self.looked = state["start"], state["looked"]
