"""A judged question: what it carries, how it is stored, and what may not be one."""

import json
from dataclasses import asdict, replace

import pytest

from pixelis.learners import judged
from pixelis.learners.arm import VoteSettings
from pixelis.learners.gate import GateSettings, judge
from pixelis.learners.judged import Judged
from pixelis.learners.vote import Ballot, vote
from pixelis.memory import codec
from pixelis.memory.journal import Judgement
from pixelis.memory.trajectory import Group, Trajectory, Turn
from pixelis.tools.call import ToolCall, ToolResult


def rollout(name: str, answer: str | None, status: str = "finished", **rewards: float) -> Trajectory:
    call, result = ToolCall("OCR", {"on": "img0"}), ToolResult(True, "OCR", data={"text": answer or ""})
    version = (0, len(name))
    turns = (Turn((5,), (ord(name),), (-0.5,), (), call, result, version), Turn((5,), (7,), (-0.5,), version=version))
    return Trajectory(name, "t3", "?", (), turns, answer, status, dict(rewards))  # type: ignore[arg-type]


SOME = [rollout(name, "K7P", invalid=-0.1) for name in ("a", "b", "c")] + [rollout("d", "B2"), rollout("e", None, "infra")]


def made(some: list[Trajectory] = SOME, voters: list[Trajectory] | None = None) -> Judged:
    verdict = vote([Ballot.of(t) for t in voters or some if t.status != "infra"], [], "text", VoteSettings())
    return Judged.of(Group("t3", tuple(some)), verdict, judge(verdict, GateSettings()))


def test_rewards_are_those_of_the_verdict_beside_what_chains_cost() -> None:
    one = made()
    earned = one.verdict.reward_of
    assert [t.rewards for t in one.group.trajectories[:4]] == [
        *({"invalid": -0.1, "vote": earned[name]} for name in "abc"), {"vote": earned["d"]},
    ]  # fmt: skip
    assert one.group.trajectories[4].rewards == {} and earned["a"] > earned["d"]
    assert one.exemplar == one.group.trajectories[0] and one.decision.accepted
    nobody = made([rollout("a", None), rollout("b", None)])
    assert nobody.exemplar is None and not nobody.decision.accepted


def test_a_verdict_on_other_rollouts_and_a_reward_by_a_key_are_refused() -> None:
    with pytest.raises(ValueError, match=r"group t3 of \['a', 'b', 'c', 'd'\] with a verdict on \['a', 'b', 'c'\]"):
        made(SOME, SOME[:3])
    with pytest.raises(ValueError, match="d was rewarded by an answer key"):
        made([*SOME[:3], replace(SOME[3], rewards={"answer": 0.0})])


def test_it_is_stored_as_groups_with_judgements_and_read_again() -> None:
    one, other = made(), made([replace(t, id=f"{t.id}{t.id}") for t in SOME])
    data = judged.encode([one, other])
    assert judged.decode(data) == [one, other]
    assert codec.decode(data) == [one.group, other.group], "as any reader of groups sees it"
    again = json.loads(json.dumps(asdict(one.judgement)))
    assert Judged.read(one.group, Judgement(**{**again, "version": tuple(again["version"])})) == one
    assert one.judgement.version == (0, 1)
    with pytest.raises(codec.CodecError, match="nobody voted"):
        judged.decode(codec.encode([one.group]))
