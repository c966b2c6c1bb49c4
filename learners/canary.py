"""The canary: success on labelled *source* questions, looked at now and then; when it falls, learning ends (paper 6.8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CanarySettings:
    """When it is looked at, and how far it may fall."""

    every: int = 250
    """Kept updates between two looks; 0: there is no canary."""
    n: int = 64
    """Labelled questions of the source, the same each time: never of the stream that is adapted to."""
    drop: float = 0.02
    """Success that may be lost since the start: more, and the last good weights are put back and nothing is learned."""


class Canary:
    """What it has read so far. The caller asks the questions and acts on what is said.

    Example:
        >>> canary = Canary(CanarySettings(every=2))
        >>> canary.look(0, 0.75), canary.due(1), canary.due(2), canary.look(2, 0.74)
        (None, False, True, None)
        >>> canary.look(4, 0.71)
        'canary 0.710 after 0.750 at the start'
    """

    def __init__(self, settings: CanarySettings) -> None:
        self.settings = settings
        self.start: float | None = None
        """What the start policy had."""
        self.looked = -1
        """Kept updates at the last look."""

    def due(self, commits: int) -> bool:
        """Whether to look at the weights that so many updates have led to. At 0 it is: what they had is the measure."""
        every = self.settings.every
        return every > 0 and commits % every == 0 and commits != self.looked

    def look(self, commits: int, success: float) -> str | None:
        """Take the success of the weights now, 0..1. Why they must go, or None: then they are the last good ones."""
        self.looked = commits
        if self.start is None:
            self.start = success
        # a drop of exactly so much is none: rounding must not decide
        if success >= self.start - self.settings.drop - 1e-9:
            return None
        return f"canary {success:.3f} after {self.start:.3f} at the start"

    def state(self) -> dict[str, Any]:
        """JSON-able."""
        return {"start": self.start, "looked": self.looked}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.start, self.looked = state["start"], state["looked"]
