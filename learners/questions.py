"""The questions that one update of the third phase learns from, with what is imitated beside them (paper 6.8)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pixelis.learners.judged import Judged
from pixelis.memory.journal import Abstained, Entry
from pixelis.memory.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Questions:
    """Every question, replayed exemplar and demonstration counts alike.

    Example: Questions({0: judged, 2: other}, replayed=(exemplar,)).size == 3
    """

    accepted: dict[int, Judged]
    """By their number among the questions that the update was given."""
    replayed: tuple[Trajectory, ...] = ()
    """Exemplars of earlier questions."""
    rehearsed: tuple[Trajectory, ...] = ()
    """Labelled demonstrations of the source."""

    @property
    def size(self) -> int:
        """How many things there are to learn from."""
        return len(self.accepted) + len(self.replayed) + len(self.rehearsed)

    @property
    def exemplars(self) -> list[Trajectory]:
        """Of the questions themselves."""
        return [one.exemplar for one in self.accepted.values() if one.exemplar is not None]

    def figures(self) -> dict[str, float]:
        """What it is made of."""
        counts = {"accepted": self.accepted, "replayed": self.replayed, "rehearsed": self.rehearsed}
        return {name: float(len(some)) for name, some in counts.items()}

    def refused(self, judged: Iterable[Judged]) -> list[Entry]:
        """The journal's entries of the questions that are not learned from."""
        return [Abstained(one.judgement) for n, one in enumerate(judged) if n not in self.accepted]
