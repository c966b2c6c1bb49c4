"""Who meddles with a vote: remembered episodes that say something wrong, and a wrong rollout repeated token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pixelis.learners.vote import Ballot, Neighbour
from pixelis.tools.measure import agrees


@dataclass(frozen=True, slots=True)
class Attack:
    """What is done to the voters of a question on their way to the vote; by who has the key, as an attacker may.

    Raises: ValueError for a share outside 0..1.

    Example: Attack(neighbours=0.2).neighbours_of(found, ballots, "K7P", others, rng)
    """

    neighbours: float = 0.0
    """Share of the neighbours that say what a wrong rollout said (else what is right of another question), as similar as the
    most similar of them."""
    copied: float = 0.0
    """Share of the questions in which one wrong rollout, if there is one, stands in the place of half of the others too."""

    def __post_init__(self) -> None:
        if not (0 <= self.neighbours <= 1 and 0 <= self.copied <= 1):
            raise ValueError(f"shares must be between 0 and 1: {self}")

    def rollouts(self, ballots: Sequence[Ballot], gold: str, rng: np.random.Generator) -> list[Ballot]:
        """The rollouts that vote: as many, under the same ids."""
        wrong = _wrong(ballots, gold)
        if rng.random() >= self.copied or not wrong:
            return list(ballots)
        model = wrong[int(rng.integers(len(wrong)))]
        others = [one.id for one in ballots if one.id != model.id]
        replaced = {others[i] for i in rng.permutation(len(others))[: len(ballots) // 2]}
        return [replace(model, id=one.id) if one.id in replaced else one for one in ballots]

    def neighbours_of(
        self, found: Sequence[Neighbour], ballots: Sequence[Ballot], gold: str, others: Sequence[str], rng: np.random.Generator
    ) -> list[Neighbour]:
        """The neighbours that vote: as many. `others`: what is right of earlier questions."""
        wrong, near = _wrong(ballots, gold), list(found)
        nearest = max((one.similarity for one in near), default=0.0)
        sayings = [str(one.answer) for one in wrong] or list(others)
        told = sayings[int(rng.integers(len(sayings)))] if sayings else ""
        for i, one in enumerate(near):
            if told and rng.random() < self.neighbours:
                near[i] = Neighbour(replace(one.ballot, answer=told), nearest)
        return near


def _wrong(ballots: Sequence[Ballot], gold: str) -> list[Ballot]:
    return [one for one in ballots if one.answer is not None and not agrees(one.answer, gold, "text")]
