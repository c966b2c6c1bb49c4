"""How many rollouts a question is worth: more of them while its vote is close (paper 6.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pixelis.learners.verdict import Verdict


@dataclass(frozen=True, slots=True)
class EffortSettings:
    """Rollouts of a question: doubled until the vote is clear.

    Raises: ValueError when `first` is not at least 1 and at most `most`, or the margin is not between 0 and 1.
    """

    first: int = 4
    most: int = 16
    """As many as `first` give every question the same number."""
    margin: float = 0.5
    """Lead of the winner's share from which a vote is clear."""

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.most:
            raise ValueError(f"first = {self.first} rollouts must be at least 1 and at most most = {self.most}")
        if not 0 <= self.margin <= 1:
            raise ValueError(f"margin = {self.margin} is not between 0 and 1")


def more(verdict: Verdict, settings: EffortSettings) -> int:
    """How many rollouts to add and vote on again; 0 when the vote is clear, or there are as many as there may be.

    It is clear when the winner leads by the margin, and more than half of the rollouts stand behind it: two equal answers
    of four, the others without one, are not clear.

    Example:
        >>> from pixelis.learners.arm import VoteSettings
        >>> from pixelis.learners.vote import Ballot, vote
        >>> def split(*answers):
        ...     return vote([Ballot(str(i), said) for i, said in enumerate(answers)], [], "text", VoteSettings())
        >>> [more(split(*said), EffortSettings()) for said in ("AAAA", "AABB", "AB" * 4, "AB" * 8)]
        [0, 4, 8, 0]
    """
    drawn = len(verdict.rollouts)
    weight = math.fsum(one.weight for one in verdict.rollouts)
    if verdict.margin >= settings.margin - 1e-9 and verdict.votes > weight / 2 + 1e-9:
        return 0
    return max(0, min(2 * drawn, settings.most) - drawn)
