"""The gate: each bound by itself, on the bound, and what abstaining says."""

import json
from dataclasses import replace

import pytest
from ballots import neighbours, rollouts
from hypothesis import given

from pixelis.learners.arm import VoteSettings
from pixelis.learners.gate import Decision, GateSettings, judge
from pixelis.learners.verdict import Choice, Counted, Verdict, settle
from pixelis.learners.vote import Ballot, Neighbour, vote

BEST = Counted("a", "Y", 1.0, agreement=1.0, behaviour=1.0, fidelity=0.5, length=0.0, calls=2, invalid=0)
ON_THE_BOUND = Verdict(
    "text", VoteSettings(), (BEST,), (), (1.0,), (1.0,), (Choice("Y", ("a",), 3.0, 1.0, 0.0, 1.0),), "a", 0.3, 0.6
)
GATE = GateSettings()


def refused(verdict: Verdict, settings: GateSettings = GATE) -> list[str]:
    return [one.gate for one in judge(verdict, settings).refusals]


def test_what_lies_on_all_bounds_is_accepted() -> None:
    assert judge(ON_THE_BOUND, GATE).accepted
    assert judge(replace(ON_THE_BOUND, margin=0.1 + 0.2 - 1e-12, entropy=0.6 + 1e-12), GATE).accepted


@pytest.mark.parametrize(
    ("verdict", "gate"),
    [
        (replace(ON_THE_BOUND, margin=0.29), "margin"),
        (replace(ON_THE_BOUND, entropy=0.61), "entropy"),
        (replace(ON_THE_BOUND, choices=(Choice("Y", ("a",), 2.5, 1.0, 0.0, 1.0),)), "votes"),
        (replace(ON_THE_BOUND, rollouts=(replace(BEST, fidelity=0.49),)), "fidelity"),
        (replace(ON_THE_BOUND, rollouts=(replace(BEST, invalid=1),)), "invalid"),
        (replace(ON_THE_BOUND, margin=float("nan")), "margin"),
        (replace(ON_THE_BOUND, entropy=float("nan")), "entropy"),
    ],
)
def test_each_bound_alone_is_enough_to_abstain(verdict: Verdict, gate: str) -> None:
    assert refused(verdict) == [gate]
    assert judge(verdict, GateSettings(abstain=False)).accepted


def test_the_papers_golden_entropy_abstains() -> None:
    """Shares of 0.6, 0.3 and 0.1: an entropy of 0.8173."""
    scored = [
        Counted(answer, answer, 1.0, agreement=share, behaviour=0, fidelity=0, length=0, calls=1, invalid=0)
        for answer, share in (("A", 0.6), ("B", 0.3), ("C", 0.1))
    ]
    verdict = settle(scored, [], "text", VoteSettings(answer=1.0, behaviour=0, fidelity=0))
    decision = judge(verdict, GateSettings(votes=1, fidelity=0))
    assert str(decision) == "abstained: entropy 0.8173 (bound 0.6)"


def test_without_an_answer_nothing_is_learned_abstaining_or_not() -> None:
    nobody = vote([Ballot("a", None)], [], "text", VoteSettings())
    for settings in (GATE, GateSettings(abstain=False)):
        assert refused(nobody, settings) == ["answer"]


@given(rollouts(), neighbours())
def test_what_is_accepted_keeps_every_bound_and_a_decision_survives_json(some: list[Ballot], near: list[Neighbour]) -> None:
    verdict = vote(some, near, "text", VoteSettings())
    decision = judge(verdict, GATE)
    best = verdict.best
    keeps = best is not None and (
        verdict.margin > 0.3 - 1e-6 and verdict.entropy < 0.6 + 1e-6 and verdict.votes >= 3
        and best.fidelity > 0.5 - 1e-6 and best.invalid == 0
    )  # fmt: skip
    assert decision.accepted == keeps
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision
