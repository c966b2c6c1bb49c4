"""The verdict: what follows from the terms of the votes, step by step, so that it can be derived again (paper 6.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pixelis.learners.arm import VoteSettings
from pixelis.memory.task import AnswerType
from pixelis.tools.measure import agrees

DIGITS = 9
"""Scores that differ by less are a tie: which of them is larger is a matter of rounding."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A rollout in the vote: what it weighs, and its terms, each 0..1."""

    id: str
    answer: str | None
    weight: float
    agreement: float
    behaviour: float
    fidelity: float
    length: float
    calls: int
    invalid: int
    grounding: float = 0.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A neighbour in the vote: how similar its question is (paper 6.2)."""

    id: str
    answer: str | None
    similarity: float


@dataclass(frozen=True, slots=True)
class Choice:
    """An answer that was given: by which rollouts, and what it has."""

    answer: str
    members: tuple[str, ...]
    votes: float
    """What its rollouts weigh."""
    score: float
    """The weighted sum of its rollouts' scores."""
    heard: float
    """What its neighbours add to that."""
    share: float
    """Of all choices' sums, 0..1."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, with all it follows from: `settle` of its own parts gives it again.

    Rollouts and neighbours are in the order of their ids; `scores` and `rewards` (0..1) belong to the rollouts.

    Example: verdict.answer, verdict.margin, verdict.reward_of["r0/t3/1"]
    """

    kind: AnswerType
    settings: VoteSettings
    rollouts: tuple[Counted, ...]
    neighbours: tuple[Heard, ...]
    scores: tuple[float, ...]
    rewards: tuple[float, ...]
    choices: tuple[Choice, ...]
    """The winner first."""
    exemplar: str | None
    """The best of the winner's rollouts; None when no rollout answered."""
    margin: float
    """The winner's share less the largest other one."""
    entropy: float
    """Of the shares, over its largest value: 0 one choice, 1 all alike."""

    @property
    def answer(self) -> str | None:
        """What to answer; None when no rollout did."""
        return None if self.exemplar is None else self.choices[0].answer

    @property
    def share(self) -> float:
        """The winner's, 0..1; 0 without one."""
        return 0.0 if self.exemplar is None else self.choices[0].share

    @property
    def support(self) -> float:
        """How sure the answer is, 0..1: what the winner's rollouts scored, of what all rollouts could have. Unlike `share` it
        falls where rollouts gave no answer, and tells unanimous ones apart."""
        weight = math.fsum(1.0 if self.settings.hard else one.weight for one in self.rollouts)
        return 0.0 if self.exemplar is None else min(1.0, self.choices[0].score / weight)

    @property
    def votes(self) -> float:
        """What the winner's rollouts weigh, without neighbours."""
        return 0.0 if self.exemplar is None else self.choices[0].votes

    @property
    def best(self) -> Counted | None:
        """The exemplar."""
        return next((one for one in self.rollouts if one.id == self.exemplar), None)

    @property
    def reward_of(self) -> dict[str, float]:
        """Rewards by the rollouts' ids."""
        return {one.id: reward for one, reward in zip(self.rollouts, self.rewards, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Verdict:
        """Inverse of `to_dict`."""
        parts: dict[str, Any] = {
            "settings": VoteSettings(**raw["settings"]),
            "rollouts": tuple(Counted(**one) for one in raw["rollouts"]),
            "neighbours": tuple(Heard(**one) for one in raw["neighbours"]),
            "choices": tuple(Choice(**{**one, "members": tuple(one["members"])}) for one in raw["choices"]),
            "scores": tuple(raw["scores"]),
            "rewards": tuple(raw["rewards"]),
        }
        return cls(**{**raw, **parts})


def settle(rollouts: Sequence[Counted], neighbours: Sequence[Heard], kind: AnswerType, settings: VoteSettings) -> Verdict:
    """The verdict that follows from the terms: scores, sums by answer, winner, exemplar, rewards.

    Ties go to the answer with more votes, then to the one that sorts first; among rollouts to fewer calls, then higher
    fidelity, then the id that sorts first. Only what a rollout answered is a choice: a neighbour that says anything else
    answers another question (where answers are codes, nearly all do), and its part of the neighbours' weight is nobody's.
    """
    weights = [1.0 if settings.hard else one.weight for one in rollouts]
    most = max((one.grounding for one in rollouts), default=0.0)
    scores = [_score(one, settings, most) for one in rollouts]
    heard: Sequence[Heard] = () if settings.hard or not settings.neighbours else neighbours
    labels = clusters([*(one.answer for one in rollouts), *(one.answer for one in heard)], kind)
    parts = shares([one.similarity for one in heard], settings.temperature)
    bound = settings.neighbours * math.fsum(weight * score for weight, score in zip(weights, scores, strict=True))
    choices = []
    for label in sorted(set(labels[: len(rollouts)]) - {-1}):
        mine = [i for i in range(len(rollouts)) if labels[i] == label]
        theirs = [j for j in range(len(heard)) if labels[len(rollouts) + j] == label]
        choices.append(
            Choice(
                _commonest([str(rollouts[i].answer) for i in mine], [weights[i] for i in mine]),
                tuple(rollouts[i].id for i in mine),
                votes=math.fsum(weights[i] for i in mine),
                score=math.fsum(weights[i] * scores[i] for i in mine),
                heard=bound * math.fsum(parts[j] for j in theirs),
                share=0.0,
            )
        )
    total = math.fsum(one.score + one.heard for one in choices)
    ranked = sorted(
        (replace(one, share=(one.score + one.heard) / total if total else 1 / len(choices)) for one in choices),
        key=lambda one: (-round(one.share, DIGITS), -round(one.votes, DIGITS), one.answer),
    )
    won = ranked[0].members if ranked else ()
    best = min(
        ((-round(score, DIGITS), one.calls, -round(one.fidelity, DIGITS), one.id)
         for one, score in zip(rollouts, scores, strict=True) if one.id in won),
        default=None,
    )  # fmt: skip
    return Verdict(
        kind,
        settings,
        tuple(rollouts),
        tuple(neighbours),
        tuple(scores),
        tuple(float(one.id in won) for one in rollouts) if settings.hard else tuple(scores),
        tuple(ranked),
        exemplar=best[-1] if best else None,
        margin=ranked[0].share - max((one.share for one in ranked[1:]), default=0.0) if best else 0.0,
        entropy=normalised_entropy([one.share for one in ranked]) if best else 1.0,
    )


def recount(verdict: Verdict, settings: VoteSettings) -> Verdict:
    """What the vote gives when its terms weigh something else: a hundredth of its cost.

    Raises: ValueError for settings that change the terms themselves: then it has to be held again.
    """
    for name in ("order", "neighbours", "temperature", "copies"):
        if getattr(settings, name) != getattr(verdict.settings, name):
            raise ValueError(f"{name} is part of the terms: call vote() with {name} = {getattr(settings, name)}")
    return settle(verdict.rollouts, verdict.neighbours, verdict.kind, settings)


def shares(similarities: Sequence[float], temperature: float) -> list[float]:
    """What each neighbour has of their joint weight: the softmax of the similarities over the temperature."""
    top = max(similarities, default=0.0)
    raised = [math.exp((one - top) / temperature) for one in similarities]
    return [one / math.fsum(raised) for one in raised]


def clusters(answers: Sequence[str | None], kind: AnswerType) -> list[int]:
    """Which answers are the same one, as numbers from 0; -1 for none.

    Answers that agree with a common third are one: agreement within a tolerance is not transitive.

    Example:
        >>> clusters(["1200", "3", None, "1,200.0"], "number")
        [0, 1, -1, 0]
    """
    distinct = sorted({answer for answer in answers if answer is not None})
    group = {answer: answer for answer in distinct}
    for i, a in enumerate(distinct):
        for b in distinct[:i]:
            if group[a] != group[b] and agrees(a, b, kind):
                old, new = group[a], group[b]
                group = {answer: new if of == old else of for answer, of in group.items()}
    numbers = {name: number for number, name in enumerate(sorted(set(group.values())))}
    return [-1 if answer is None else numbers[group[answer]] for answer in answers]


def normalised_entropy(shares: Sequence[float]) -> float:
    """Entropy of some shares over that of as many equal ones, 0..1; 0 for a single one.

    Example:
        >>> round(normalised_entropy([0.6, 0.3, 0.1]), 4)
        0.8173
    """
    if len(shares) < 2:
        return 0.0
    return min(1.0, max(0.0, -math.fsum(p * math.log(p) for p in shares if p > 0) / math.log(len(shares))))


def _score(one: Counted, settings: VoteSettings, most: float) -> float:
    """`most`: the largest grounding of any rollout. Where no tool found any answer, none loses by it."""
    if one.answer is None:
        return 0.0
    if settings.hard:
        return 1.0
    gained = settings.answer * one.agreement + settings.behaviour * one.behaviour + settings.fidelity * one.fidelity
    scored = min(1.0, max(0.0, gained - settings.length * one.length))
    return scored * (1 - settings.grounding * (most - one.grounding))


def _commonest(said: Sequence[str], weights: Sequence[float]) -> str:
    """The spelling that weighs most, of several the one that sorts first."""
    total = {text: math.fsum(w for t, w in zip(said, weights, strict=True) if t == text) for text in said}
    return min(total, key=lambda text: (-round(total[text], DIGITS), text))
