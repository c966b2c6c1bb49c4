"""Judged questions for the tests of the third phase: rollouts of a nano policy on a picture each, voted on and gated."""

from dataclasses import replace

from pixelis.learners.arm import VoteSettings
from pixelis.learners.gate import GateSettings, judge
from pixelis.learners.judged import Judged
from pixelis.learners.vote import Ballot, Neighbour, vote
from pixelis.memory.model import Model
from pixelis.memory.trajectory import Group, Trajectory
from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.media import MediaStore
from tests.learners.test_learner import episode, honest


def looked(trajectory: Trajectory) -> Trajectory:
    """As if its first turn had read the picture, and found there what it answered."""
    call = ToolCall("OCR", {"on": "img0", "box": [100, 100, 500, 300]})
    result = ToolResult(True, "OCR", data={"text": trajectory.answer or ""})
    return replace(trajectory, turns=(replace(trajectory.turns[0], call=call, result=result), *trajectory.turns[1:]))


def rollouts(model: Model, store: MediaStore, number: int, answers: str, looks: bool = True) -> list[Trajectory]:
    """One for each letter, as the policy would sample it now."""
    some = []
    for k, letter in enumerate(answers):
        one = replace(episode(model, store, number, letter), id=f"q{number}/{k}", task_id=f"q{number}")
        some.append(honest(model, store, looked(one) if looks else one))
    return some


def question(some: list[Trajectory], near: list[Neighbour] | None = None, gate: GateSettings | None = None) -> Judged:
    """Voted on and gated; episodes of infrastructure stay in the group."""
    ballots = [Ballot.of(t) for t in some if t.status not in ("infra", "cancelled")]
    verdict = vote(ballots, near or [], "text", VoteSettings(copies=0.0))  # one letter is the same tokens each time here
    return Judged.of(Group(some[0].task_id, tuple(some)), verdict, judge(verdict, gate or GateSettings()))


def asked(model: Model, store: MediaStore, number: int, answers: str = "KKKA") -> Judged:
    """A question that its rollouts answer like this."""
    return question(rollouts(model, store, number, answers))
