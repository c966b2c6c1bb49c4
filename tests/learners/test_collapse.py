"""The collapse alarm: each thing that collapses is named, and nothing else is."""

import json

import pytest
from ballots import ballots, read, said
from hypothesis import given
from hypothesis import strategies as st

from pixelis.learners.arm import VoteSettings
from pixelis.learners.collapse import Collapse, CollapseSettings, Seen, seen
from pixelis.learners.gate import GateSettings, judge
from pixelis.learners.vote import vote

SOUND: list[Seen] = [(letter, letter != "D", 2.0) for letter in "ABCD"]


def alarms(*then: Seen) -> list[str]:
    alarm = Collapse(CollapseSettings(window=4))
    for question in (*SOUND, *then):
        alarm.see(question)
    return alarm.alarms()


def test_nothing_is_said_before_the_first_window_is_full_or_while_all_stays() -> None:
    alarm = Collapse(CollapseSettings(window=4))
    assert alarm.alarms() == [] and set(alarm.figures().values()) == {0.0}
    for question in (*SOUND, *SOUND[::-1]):
        alarm.see(question)
        assert alarm.alarms() == []


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ([("A", True, 2.0)] * 4, ["entropy 0 after 1.39"]),
        ([(letter, letter == "A", 2.0) for letter in "ABCD"], ["accepted 0.25 after 0.75"]),
        ([(letter, True, 0.5) for letter in "ABCD"], ["calls 0.5 after 2"]),
        ([(letter, True, 4.5) for letter in "ABCD"], ["calls 4.5 after 2"]),
        ([(None, False, 0.0)] * 4, ["entropy 0 after 1.39", "accepted 0 after 0.75", "calls 0 after 2"]),
    ],
)
def test_what_collapses_is_named_with_its_figures(now: list[Seen], named: list[str]) -> None:
    assert alarms(*now) == named


def test_half_and_double_are_no_collapse_yet() -> None:
    assert alarms(("A", True, 1.0), ("A", False, 1.0), ("B", True, 1.0), ("B", False, 1.0)) == []
    assert alarms(*[(letter, True, 4.0) for letter in "ABCD"]) == []


@given(st.lists(st.tuples(st.sampled_from(["A", "B", None]), st.booleans(), st.floats(0, 9)), max_size=12))
def test_restored_it_says_the_same(questions: list[Seen]) -> None:
    alarm, other = Collapse(CollapseSettings(window=3)), Collapse(CollapseSettings(window=3))
    for question in questions:
        alarm.see(question)
    other.restore(json.loads(json.dumps(alarm.state())))
    for one in (alarm, other):
        one.see(("A", True, 1.0))
    assert other.alarms() == alarm.alarms() and other.figures() == alarm.figures()


def test_it_sees_a_question_by_its_verdict() -> None:
    verdict = vote(ballots(*[said("K7P", read("K7P"))] * 3, said(None)), [], "text", VoteSettings())
    assert seen(verdict, judge(verdict, GateSettings())) == ("K7P", True, 0.75)
    with pytest.raises(ValueError, match="window = 0"):
        CollapseSettings(window=0)
