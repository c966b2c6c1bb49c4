"""Adaptive rollouts: few where they agree, more where they do not, never more than there may be."""

import pytest
from ballots import ballots, neighbours, rollouts, said
from hypothesis import given

from pixelis.learners.arm import VoteSettings
from pixelis.learners.effort import EffortSettings, more
from pixelis.learners.vote import Ballot, Neighbour, vote

EFFORT = EffortSettings()


def asked(answers: str, settings: EffortSettings = EFFORT) -> int:
    """Rollouts to add after these; "-" is one without an answer."""
    some = ballots(*(said(None if answer == "-" else answer) for answer in answers))
    return more(vote(some, [], "text", VoteSettings()), settings)


@pytest.mark.parametrize(
    ("answers", "adds"),
    [
        ("AAAA", 0), ("AABB", 4), ("ABCD", 4), ("AA--", 4), ("AAA-", 0), ("----", 4), ("AAAAAAAA", 0), ("AAAABBBB", 8),
        ("AB" * 8, 0), ("ABC", 3), ("AB" * 5, 6),
    ],
)  # fmt: skip
def test_four_become_eight_and_eight_sixteen_while_the_vote_is_close(answers: str, adds: int) -> None:
    assert asked(answers) == adds


def test_the_margin_says_what_is_close() -> None:
    assert asked("AAAAABBB", EffortSettings(margin=0.0)) == 0 and asked("AAAAABBB", EffortSettings(margin=0.9)) == 8
    assert asked("AAAA", EffortSettings(margin=1.0)) == 0


def test_as_many_as_at_first_is_a_fixed_number() -> None:
    assert asked("AABB", EffortSettings(first=4, most=4)) == 0


@given(rollouts(), neighbours())
def test_it_comes_to_an_end(some: list[Ballot], near: list[Neighbour]) -> None:
    """However the further rollouts vote: there are more each time, and never more than `most`."""
    settings = EffortSettings(first=1, most=9)
    while adds := more(vote(some, near, "text", VoteSettings()), settings):
        some = ballots(*(Ballot("", one.answer, one.media, one.looks) for one in [*some, *some[:adds]]))
        assert len(some) <= 9


@pytest.mark.parametrize("wrong", [{"first": 0}, {"first": 17}, {"margin": 1.1}])
def test_settings_out_of_range_are_told(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EffortSettings(**wrong)  # type: ignore[arg-type]
