"""What the terms of the vote weigh, and the arms of its ablation (paper 6.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class VoteSettings:
    """Weights of the terms; 0 leaves a term out.

    Raises: ValueError for a negative weight, weights of more than 1 in all, or another value out of its range.
    """

    answer: float = 0.5
    """Of the share of the other voters that answer the same."""
    behaviour: float = 0.25
    """Of the likeness to the other voters that answer the same."""
    fidelity: float = 0.25
    """Of the agreement of tool results with those of the rollouts that answer the same."""
    length: float = 0.05
    """Taken off for a chain twice as long as the median, or longer; less for less."""
    grounding: float = 1.0
    """Share of its score that a rollout loses whose answer its tools did not find, where another's did."""
    order: float = 0.5
    """Share of the sequence of operations in the likeness; the rest is the footprint's."""
    neighbours: float = 0.1
    """What all neighbours weigh together, as a share of what all rollouts weigh."""
    temperature: float = 0.1
    """Of the softmax that shares this among the neighbours by their similarity."""
    copies: float = 1.0
    """What rollouts lose that are the same token by token more often than their likelihood explains: n where e are to be
    expected weigh n (e / n) ** copies together, at 1 as much as e."""
    hard: bool = False
    """One vote each, no terms, no neighbours; the winner's rollouts earn 1 (the hard majority of TTRL)."""

    def __post_init__(self) -> None:
        weights = (self.answer, self.behaviour, self.fidelity)
        if min(*weights, self.length) < 0 or sum(weights) > 1 + 1e-9:
            raise ValueError(f"weights must not be negative, those of answer, behaviour and fidelity at most 1 in all: {self}")
        for name in ("order", "neighbours", "copies", "length", "grounding"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} is not between 0 and 1")
        if self.temperature <= 0:
            raise ValueError(f"temperature = {self.temperature} is not above 0")


ARMS: dict[str, dict[str, Any]] = {
    "full": {},
    "no_answer": {"answer": 0.0},
    "no_behaviour": {"behaviour": 0.0},
    "no_fidelity": {"fidelity": 0.0},
    "no_length": {"length": 0.0},
    "no_grounding": {"grounding": 0.0},
    "no_neighbours": {"neighbours": 0.0},
    "no_copies": {"copies": 0.0},
    "answer_only": {
        "answer": 1.0,
        "behaviour": 0.0,
        "fidelity": 0.0,
        "length": 0.0,
        "grounding": 0.0,
        "copies": 0.0,
        "neighbours": 0.0,
    },
    "hard_majority": {"hard": True},
}
"""What is changed in the settings for each arm of an ablation."""


def arm(name: str, settings: VoteSettings) -> VoteSettings:
    """The settings with one of ARMS' changes. KeyError for a name that is none.

    Example:
        >>> arm("no_fidelity", VoteSettings()).fidelity
        0.0
    """
    return replace(settings, **ARMS[name])
