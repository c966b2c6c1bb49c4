import hashlib

import pytest
from ballots import ballots, read, said

from pixelis.learners.arm import VoteSettings
from pixelis.learners.gate import GateSettings, judge
from pixelis.learners.remember import neighbours, remembered
from pixelis.learners.vote import Ballot, Neighbour, vote
from pixelis.memory.select import Found, Hit
from pixelis.memory.task import Task

SHA = hashlib.sha256(b"picture").hexdigest()
TASK = Task("t3", "What is the code on the red plate?", (SHA,))


def held(*answers):
    some = ballots(*(said(answer, read(answer)) for answer in answers))
    verdict = vote(some, (), "text", VoteSettings())
    return some, verdict, judge(verdict, GateSettings())


def test_the_exemplar_of_an_accepted_verdict_is_remembered_and_votes_again():
    some, verdict, decision = held("K7P", "K7P", "K7P", "k7p")
    item = remembered(TASK, some, verdict, decision, (1, 7))
    best = next(one for one in some if one.id == verdict.exemplar)
    assert (item.id, item.answer, item.media, item.version) == (best.id, verdict.answer, (SHA,), (1, 7))
    assert item.looks == best.looks and item.ops == ("OCR",) and item.gate == "accepted"
    assert item.scores["margin"] == verdict.margin and item.scores["fidelity"] == verdict.best.fidelity
    [voter] = neighbours(Found((Hit(item, 0.83, 0.9, 0.8, None),)))
    assert voter == Neighbour(Ballot(best.id, "K7P", (SHA,), best.looks), 0.83)
    fresh = [Ballot(f"new/{one.id}", one.answer, one.media, one.looks) for one in some]
    assert vote(fresh, [voter], "text", VoteSettings()).choices[0].heard > 0


def test_what_was_not_accepted_is_not_remembered():
    some, verdict, decision = held("K7P", "QQ", "B2", "K7P")
    assert not decision.accepted
    with pytest.raises(ValueError, match=r"t3: abstained: .* not to be remembered"):
        remembered(TASK, some, verdict, decision, (0, 0))
