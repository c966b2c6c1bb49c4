"""The audit: an honest journal is derived again to the digit, and each kind of lie is told."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from ballots import ballots, neighbours, read, rollouts, said
from hypothesis import given

from pixelis.learners.arm import VoteSettings
from pixelis.learners.audit import lineage, rederive
from pixelis.learners.gate import GateSettings, judge
from pixelis.learners.vote import Ballot, Neighbour, vote
from pixelis.memory import journal
from pixelis.memory.journal import Abstained, Accepted, Discarded, Entry, Frozen, Journal, Judgement, RolledBack

SAID = ballots(*[said("K7P", read("K7P"))] * 3, said("B2", read("B2")))
NEAR = [Neighbour(Ballot("n0", "K7P", ("x",)), 0.8), Neighbour(Ballot("n1", "B2", ("y",)), 0.7)]


def judged(some: list[Ballot], near: list[Neighbour], gate: GateSettings | None = None) -> Judgement:
    """As a run writes it and an audit reads it."""
    verdict = vote(some, near, "text", VoteSettings())
    entry = Judgement("t3", (0, 4), verdict.to_dict(), judge(verdict, gate or GateSettings()).to_dict())
    return Judgement(**{**json.loads(json.dumps(asdict(entry))), "version": (0, 4)})


@given(rollouts(), neighbours())
def test_an_honest_judgement_stands(some: list[Ballot], near: list[Neighbour]) -> None:
    assert rederive(judged(some, near), some[::-1], near[::-1]) == []


def test_rounding_of_another_machine_is_no_difference() -> None:
    entry = judged(SAID, NEAR)
    entry.verdict["margin"] += 1e-13
    assert rederive(entry, SAID, NEAR) == []


def lied(entry: Judgement, *path: Any, value: Any) -> Judgement:
    at: Any = {"verdict": entry.verdict, "decision": entry.decision}
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return entry


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("verdict", "exemplar"), "b", "verdict.exemplar: b in the journal, a by its trajectories"),
        (("verdict", "scores", 3), 0.9, "verdict.scores[3]"),
        (("verdict", "rollouts", 0, "fidelity"), 0.2, "verdict.rollouts[0].fidelity"),
        (("verdict", "choices", 0, "share"), 0.5, "verdict.choices[0].share"),
        (("verdict", "settings", "answer"), 0.4, "verdict.scores[0]"),
        (("verdict", "neighbours", 0, "similarity"), 0.9, "verdict.neighbours[0].similarity"),
        (("decision", "refusals"), [{"gate": "margin", "value": 0.1, "bound": 0.3}], "decision.refusals"),
        (("decision", "settings", "margin"), 1.1, "decision.refusals"),
        (("verdict", "rewards"), [1.0], "verdict.rewards"),
    ],
)
def test_a_lie_is_told_with_its_place(path: tuple, value: Any, place: str) -> None:
    assert any(line.startswith(place) for line in rederive(lied(judged(SAID, NEAR), *path, value=value), SAID, NEAR))


def test_trajectories_that_are_others_than_then_are_told() -> None:
    entry = judged(SAID, NEAR)
    assert rederive(entry, [*SAID[:3], replace(SAID[3], answer="K7P")], NEAR)
    assert rederive(entry, SAID[:3], NEAR) == ["rollout d: in the journal, but not stored"]
    assert rederive(judged(SAID[:3], NEAR), SAID, NEAR) == ["rollout d: stored, but not in the journal"]
    assert rederive(entry, SAID, NEAR[:1]) == ["neighbour n1: in the journal, but not stored"]
    assert rederive(entry, [], []) == [
        *(f"rollout {name}: in the journal, but not stored" for name in "abcd"),
        *(f"neighbour {name}: in the journal, but not stored" for name in ("n0", "n1")),
    ]


ACCEPTED, ABSTAINED = judged(SAID, []), judged(SAID[2:], [])
UPDATE = Accepted(1, (ACCEPTED,), ("a", "b"), 0.1, 0.12, 0.3, 0.02, "w0", "w1")
HISTORY: list[Entry] = [
    Abstained(ABSTAINED),
    UPDATE,
    Discarded(2, (ACCEPTED,), ("c",), 0.12, 0.4, 0.3, 0.02, "w1", "w1"),
    replace(UPDATE, step=2, weights_in="w1", weights_out="w2"),
    RolledBack("canary", 1, "w2", "w1"),
    Frozen("canary", 1, "w1"),
    Abstained(ACCEPTED),
]


def test_a_history_that_can_have_been_stands_also_when_read_from_its_file(tmp_path: Path) -> None:
    assert ACCEPTED.decision["refusals"] == [] and ABSTAINED.decision["refusals"]
    assert lineage(HISTORY) == lineage([]) == []
    written = Journal(tmp_path / "journal.jsonl")
    for entry in HISTORY:
        written.write(entry)
    written.close()
    assert lineage(line.entry for line in journal.read(tmp_path / "journal.jsonl")) == []


@pytest.mark.parametrize(
    ("at", "changed", "line"),
    [
        (0, {"judgement": ACCEPTED}, "line 1: abstained, though no bound was broken"),
        (1, {"judgements": (ACCEPTED, ABSTAINED)}, "line 2: learned from t3, which was abstained"),
        (1, {"kl_after": 0.31}, "line 2: kept with a KL of 0.31, above 0.3"),
        (1, {"kl_after": None}, "line 2: kept with a KL of None, above 0.3"),
        (2, {"weights_out": "w9"}, "line 3: discarded, but weights w9 are served"),
        (3, {"weights_in": "w0"}, "line 4: begins from weights w0, but w1 were served"),
        (4, {"weights_out": "w9"}, "line 5: puts back weights w9, which were never served"),
        (5, {"weights": "w2"}, "line 6: begins from weights w2, but w1 were served"),
    ],
)
def test_a_history_that_cannot_have_been_is_told(at: int, changed: dict, line: str) -> None:
    history: list[Entry] = [*HISTORY[:at], replace(HISTORY[at], **changed), *HISTORY[at + 1 :]]
    assert lineage(history)[0] == line


def test_learning_while_frozen_is_told() -> None:
    late = replace(UPDATE, weights_in="w1", weights_out="w3")
    assert lineage([*HISTORY, late]) == ["line 8: learned while frozen"]


def test_without_a_limit_no_kl_is_too_large() -> None:
    assert lineage([replace(UPDATE, limit=0.0, kl_after=9.0)]) == []
