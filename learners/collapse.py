"""The collapse alarm: what a policy that learns from itself does when it goes wrong, seen without a key (paper 6.8)."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pixelis.learners.gate import Decision
from pixelis.learners.verdict import Verdict

Seen = tuple[str | None, bool, float]
"""Of a question: the answer, whether it was accepted, the mean calls of its rollouts."""


@dataclass(frozen=True, slots=True)
class CollapseSettings:
    """What is compared with the start, and what is a collapse.

    Raises: ValueError for a window of less than one question.
    """

    window: int = 64
    """Questions: the first so many are the start, the last so many are now. Of the same kind, or it compares the stream."""
    fall: float = 0.5
    """A figure below this share of what it was at the start has collapsed."""
    rise: float = 2.0
    """Chains that are longer than this many times those of the start have run away."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window = {self.window} questions")


class Collapse:
    """Three figures over a window of questions, against those of the first window.

    - `entropy` of the answers to different questions, in nats: a policy that says the same to everything has none.
    - `accepted`: the share of questions that give a pseudo-label.
    - `calls`: mean calls of a rollout; a policy that no longer looks makes none.

    Example:
        >>> alarm = Collapse(CollapseSettings(window=2))
        >>> for answer in ("A", "B", "B", "B"):
        ...     alarm.see((answer, True, 2.0))
        >>> alarm.alarms()
        ['entropy 0 after 0.693']
    """

    def __init__(self, settings: CollapseSettings) -> None:
        self.settings = settings
        self.start: dict[str, float] | None = None
        self._recent: deque[Seen] = deque(maxlen=settings.window)

    def see(self, question: Seen) -> None:
        """Take one more question; `seen` makes it from a verdict."""
        self._recent.append(question)
        if self.start is None and len(self._recent) == self.settings.window:
            self.start = self.figures()

    def figures(self) -> dict[str, float]:
        """Of the last window; all 0 before the first question."""
        count = max(1, len(self._recent))
        said = Counter(answer for answer, _, _ in self._recent if answer is not None)
        answers = max(1, sum(said.values()))
        return {
            "entropy": abs(math.fsum(n / answers * math.log(n / answers) for n in said.values())),
            "accepted": sum(accepted for _, accepted, _ in self._recent) / count,
            "calls": math.fsum(calls for _, _, calls in self._recent) / count,
        }

    def alarms(self) -> list[str]:
        """What has collapsed, each with its figures; nothing before the first window is full, or where it was 0 then."""
        if self.start is None:
            return []
        now, fall, rise = self.figures(), self.settings.fall, self.settings.rise
        gone = [name for name, was in self.start.items() if now[name] < fall * was - 1e-9]
        gone += ["calls"] if self.start["calls"] and now["calls"] > rise * self.start["calls"] + 1e-9 else []
        return [f"{name} {now[name]:.3g} after {self.start[name]:.3g}" for name in gone]

    def state(self) -> dict[str, Any]:
        """JSON-able."""
        return {"start": self.start, "recent": [list(one) for one in self._recent]}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.start = state["start"]
        recent: Sequence[Sequence[Any]] = state["recent"]
        self._recent = deque(((a, b, c) for a, b, c in recent), maxlen=self.settings.window)


def seen(verdict: Verdict, decision: Decision) -> Seen:
    """What the alarm looks at of a question."""
    calls = [one.calls for one in verdict.rollouts]
    return verdict.answer, decision.accepted, sum(calls) / max(1, len(calls))
