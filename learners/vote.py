"""The vote: which answer the rollouts of one question stand for, and what each of them earns by it, without a key (paper 6.3).

A pure function, called once: the answer that is served and the rewards that are learned from are of one verdict.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pixelis.learners.arm import VoteSettings
from pixelis.learners.fidelity import fidelity, grounding, median
from pixelis.learners.similarity import footprint, ruzicka, sequence, timed
from pixelis.learners.verdict import Counted, Heard, Verdict, clusters, settle, shares
from pixelis.memory.look import Look, looks
from pixelis.memory.task import AnswerType
from pixelis.memory.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Ballot:
    """What the vote knows of a trajectory.

    Example: Ballot("r0/t3/1", "K7P", (sha,), (Look("OCR", text="K7P"),))
    """

    id: str
    answer: str | None
    """None for an episode that ended without one; it votes for nothing, but counts among the voters."""
    media: tuple[str, ...] = ()
    looks: tuple[Look, ...] = ()
    invalid: int = 0
    """Steps that were the policy's own fault."""
    tokens: str = ""
    """sha256 of what was sampled: exact copies have the same. "" is nobody's copy."""
    likelihood: float = 0.0
    """Of what was sampled, 0..1, by its log-probs at temperature 1; 0 where it is not known."""

    @classmethod
    def of(cls, trajectory: Trajectory) -> Ballot:
        """ValueError for an episode that ended by infrastructure: it has no vote."""
        if trajectory.status in ("infra", "cancelled"):
            raise ValueError(f"{trajectory.id} ended by {trajectory.status}: it must not vote")
        sampled = hashlib.sha256(b"".join(np.array(turn.sampled, "<i8").tobytes() + b"|" for turn in trajectory.turns))
        answer = trajectory.answer if trajectory.answer and trajectory.answer.strip() else None
        likely = math.exp(min(0.0, math.fsum(log for turn in trajectory.turns for log in turn.logprobs)))
        seen = looks(trajectory)
        return cls(trajectory.id, answer, trajectory.media, seen, trajectory.n_invalid, sampled.hexdigest(), likely)

    @property
    def ops(self) -> tuple[str, ...]:
        """The operations called, in order."""
        return tuple(look.op for look in self.looks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Ballot:
        """Inverse of `to_dict`."""
        return cls(**{**raw, "media": tuple(raw["media"]), "looks": tuple(map(Look.from_dict, raw["looks"]))})


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A remembered episode that votes too: whoever retrieves it sees to it that its answer can answer this question.

    `similarity` to the question (paper 6.2). Example: Neighbour(ballot, 0.83)
    """

    ballot: Ballot
    similarity: float


def vote(rollouts: Sequence[Ballot], neighbours: Sequence[Neighbour], kind: AnswerType, settings: VoteSettings) -> Verdict:
    """The verdict of the rollouts of one question and of its neighbours, on answers of one kind. Their order is no matter.

    Raises: ValueError without rollouts, or when two have one id.
    """
    ballots = sorted(rollouts, key=lambda one: one.id)
    if not ballots or len({one.id for one in ballots}) < len(ballots):
        raise ValueError(f"a vote needs rollouts with an id each, got {[one.id for one in ballots]}")
    near = sorted(neighbours, key=_place)
    own = weights(ballots, settings.copies)
    voters = [*ballots, *(one.ballot for one in near)]
    named = np.array(clusters([one.answer for one in voters], kind))
    mine, others = named[: len(ballots)], named[len(ballots) :]
    said = np.isin(others, mine) & (others >= 0)  # what no rollout says answers another question than this one
    theirs = settings.neighbours * own.sum() * np.array(shares([one.similarity for one in near], settings.temperature))
    seen = _seen(ballots, own, settings.copies, theirs * said)
    same = (mine[:, None] == named) & (named >= 0)
    alike = _alike(ballots, voters, same, settings.order)
    typical = max(1.0, median([len(one.looks) for one in ballots], own.tolist()))
    counted = []
    for i, one in enumerate(ballots):
        fellows = [k for k in range(len(ballots)) if same[i, k] and seen[i, k] > 0]
        with_me = seen[i] * same[i]
        faith = fidelity(one.looks, [ballots[k].looks for k in fellows], seen[i, fellows].tolist())
        counted.append(
            Counted(
                one.id, one.answer, float(own[i]),
                agreement=_ratio(with_me.sum(), seen[i].sum()),
                behaviour=_ratio((with_me * alike[i]).sum(), with_me.sum()),
                fidelity=faith,
                length=min(1.0, max(0.0, len(one.looks) - typical) / typical),
                calls=len(one.looks),
                invalid=one.invalid,
                grounding=0.0 if one.answer is None else grounding(one.answer, one.looks),
            )
        )  # fmt: skip
    heard = [Heard(one.ballot.id, one.ballot.answer, one.similarity) for one in near]
    return settle(counted, heard, kind, settings)


def weights(ballots: Sequence[Ballot], copies: float) -> np.ndarray:
    """What each rollout weighs, float64 [K]: 1, or less for one of more copies than chance explains (`_together`)."""
    together, number = _together(ballots, copies)
    return together / number


def _together(ballots: Sequence[Ballot], copies: float) -> tuple[np.ndarray, np.ndarray]:
    """What all that are the same token by token as each rollout weigh together, and how many they are, [K] each.

    A sure policy repeats itself: beside a rollout that is p likely, K - 1 others bring (K - 1) p copies of it, give or take the
    standard deviation of their number. Where there are n, more than e = 1 + both, they weigh n (e / n) ** copies.
    """
    twins = [[other for other in ballots if _copied(one, other)] for one in ballots]
    number = np.array([len(some) for some in twins], float)
    likely = np.array([max(one.likelihood for one in some) for some in twins])
    others = len(ballots) - 1
    expected = 1 + others * likely + np.sqrt(others * likely * (1 - likely))
    return number * np.minimum(1.0, expected / number) ** copies, number


def _seen(ballots: Sequence[Ballot], own: np.ndarray, copies: float, neighbours: np.ndarray) -> np.ndarray:
    """What each voter weighs to each rollout, [K, K + N]: nothing to itself; copies of it, what they add to it."""
    out = np.tile(np.concatenate([own, neighbours]), (len(ballots), 1))
    together, _ = _together(ballots, copies)
    for i, one in enumerate(ballots):
        twins = [k for k, other in enumerate(ballots) if k != i and _copied(one, other)]
        if twins:
            out[i, twins] = (together[i] - 1) / len(twins)
        out[i, i] = 0.0
    return out


def _alike(ballots: Sequence[Ballot], voters: Sequence[Ballot], same: np.ndarray, order: float) -> np.ndarray:
    """Likeness of behaviour [K, K + N], 0 where answers differ; footprints are compared on one and the same medium only."""
    media = {one.media for one in ballots}
    clip = any(timed(one.looks) for one in voters if one.media in media)
    grids = {k: footprint(one.looks, clip) for k, one in enumerate(voters) if one.media in media}
    out = np.zeros(same.shape)
    for i, k in zip(*np.nonzero(same), strict=True):
        a, b = ballots[i], voters[k]
        if k < i:
            out[i, k] = out[k, i]
        elif i != k:
            out[i, k] = sequence(a.ops, b.ops)
            if a.media == b.media:
                out[i, k] = order * out[i, k] + (1 - order) * ruzicka(grids[i], grids[k])
    return out


def _copied(a: Ballot, b: Ballot) -> bool:
    return a.id == b.id or (a.tokens != "" and a.tokens == b.tokens)


def _place(one: Neighbour) -> tuple[str, str, float]:
    return one.ballot.id, one.ballot.answer or "", one.similarity


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else 0.0
