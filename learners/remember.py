"""From a verdict to what is remembered of it, and from what is remembered to voters (paper 6.2, 6.9)."""

from __future__ import annotations

from collections.abc import Sequence

from pixelis.learners.gate import Decision
from pixelis.learners.verdict import Verdict
from pixelis.learners.vote import Ballot, Neighbour
from pixelis.memory.remembered import Remembered
from pixelis.memory.select import Found
from pixelis.memory.task import Task
from pixelis.memory.trajectory import Version


def remembered(task: Task, ballots: Sequence[Ballot], verdict: Verdict, decision: Decision, version: Version) -> Remembered:
    """The exemplar of an accepted verdict, as it is remembered. ValueError when it was not accepted.

    `version`: the oldest weights that sampled a rollout.
    """
    best = verdict.best
    if not decision.accepted or best is None or verdict.answer is None:
        raise ValueError(f"{task.id}: {decision}, which is not to be remembered")
    ballot = next(one for one in ballots if one.id == best.id)
    scores = {
        "score": verdict.reward_of[best.id], "agreement": best.agreement, "behaviour": best.behaviour,
        "fidelity": best.fidelity, "length": best.length, "share": verdict.share, "margin": verdict.margin,
        "entropy": verdict.entropy,
    }  # fmt: skip
    return Remembered(
        best.id, task.question, task.answer_type, verdict.answer, task.media, ballot.looks, ballot.invalid, ballot.tokens,
        scores, str(decision), version,
    )  # fmt: skip


def neighbours(found: Found) -> tuple[Neighbour, ...]:
    """What was found, as voters."""
    return tuple(neighbour(hit.item, hit.similarity) for hit in found.hits)


def neighbour(item: Remembered, similarity: float) -> Neighbour:
    """A remembered episode as a voter."""
    return Neighbour(Ballot(item.id, item.answer, item.media, item.looks, item.invalid, item.tokens), similarity)
