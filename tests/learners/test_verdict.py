"""The verdict: golden values (paper, section 15), ties, and that it follows from its own parts."""

import json
import math
from dataclasses import replace

import pytest
from ballots import neighbours, rollouts
from hypothesis import given
from hypothesis import strategies as st

from pixelis.learners.arm import ARMS, VoteSettings, arm
from pixelis.learners.verdict import Counted, Heard, Verdict, clusters, normalised_entropy, settle, shares
from pixelis.learners.vote import Ballot, Neighbour, vote


def counted(
    id: str, answer: str | None, a: float, b: float = 0.0, f: float = 0.0, calls: int = 2, weight: float = 1.0
) -> Counted:
    return Counted(id, answer, weight, agreement=a, behaviour=b, fidelity=f, length=0.0, calls=calls, invalid=0)


GOLDEN = [
    counted("a", "Y", 1, 0.9, 0.8), counted("b", "Y", 1, 0.7, 0.6),
    counted("c", "N", 0, 0.3, 0.9), counted("d", "Y", 1, 0.8, 0.7),
]  # fmt: skip


def settled(rollouts: list[Counted], heard: list[Heard] | None = None, **changed: float) -> Verdict:
    return settle(rollouts, heard or [], "text", VoteSettings(**{"neighbours": 0.5, **changed}))


def test_golden_values_of_the_vote() -> None:
    verdict = settled(GOLDEN)
    assert verdict.scores == pytest.approx((0.925, 0.825, 0.300, 0.875))
    assert (verdict.answer, verdict.exemplar) == ("Y", "a"), "a lone dissenter that is faithful does not win"
    assert verdict.share == pytest.approx(2.625 / 2.925) and verdict.margin == pytest.approx(2.325 / 2.925)
    assert verdict.rewards == verdict.scores and verdict.votes == 3 and verdict.best == GOLDEN[0]
    assert verdict.reward_of["c"] == pytest.approx(0.3)


def test_golden_value_of_the_entropy() -> None:
    assert normalised_entropy([0.6, 0.3, 0.1]) == pytest.approx(0.8173, abs=5e-5)
    assert normalised_entropy([1.0]) == normalised_entropy([]) == normalised_entropy([1.0, 0.0]) == 0.0
    assert normalised_entropy([0.25] * 4) == pytest.approx(1.0)


@given(rollouts(), neighbours(), st.sampled_from(list(ARMS)), st.floats(0, 1))
def test_a_verdict_follows_from_its_parts_also_when_read_from_json(
    some: list[Ballot], near: list[Neighbour], name: str, copies: float
) -> None:
    verdict = vote(some, near, "text", arm(name, VoteSettings(copies=copies)))
    assert settle(verdict.rollouts, verdict.neighbours, verdict.kind, verdict.settings) == verdict
    again = Verdict.from_dict(json.loads(json.dumps(verdict.to_dict())))
    assert again == verdict
    assert settle(again.rollouts, again.neighbours, again.kind, again.settings) == verdict


def test_equal_answers_are_settled_by_votes_then_by_name() -> None:
    even = settled([counted("a", "N", 0.5), counted("b", "Y", 0.5)])
    assert (even.answer, even.margin, even.entropy) == ("N", 0.0, pytest.approx(1.0))
    votes = settled([counted("a", "N", 1.0), counted("b", "Y", 0.5), counted("c", "Y", 0.5)])
    assert (votes.answer, votes.margin) == ("Y", 0.0)


def test_equal_rollouts_are_settled_by_calls_then_fidelity_then_name() -> None:
    assert settled([counted("a", "Y", 1, calls=3), counted("b", "Y", 1, calls=2)]).exemplar == "b"
    faithful = [counted("a", "Y", 1, b=0.4, f=0.2), counted("b", "Y", 1, b=0.2, f=0.4)]
    assert settled(faithful).exemplar == "b"
    assert settled([counted("b", "Y", 1), counted("a", "Y", 1)]).exemplar == "a"


def test_the_exemplar_is_one_of_the_winners_though_another_has_more() -> None:
    verdict = settled([counted("a", "N", 0.9), counted("b", "Y", 0.5), counted("c", "Y", 0.6)])
    assert (verdict.answer, verdict.exemplar) == ("Y", "c")


def test_rounding_settles_no_tie() -> None:
    """0.1 + 0.2 is more than 0.3 to a computer only."""
    ordered = settled([counted("a", "Y", 0.6 * (0.1 + 0.2), calls=3), counted("b", "Y", 0.6 * 0.3, calls=2)])
    assert ordered.exemplar == "b"


def test_copies_share_a_choice_and_the_commonest_spelling_speaks_for_it() -> None:
    verdict = settled([counted("a", "k7p", 1), counted("b", "K7P", 1), counted("c", "K7P", 1)])
    assert [choice.answer for choice in verdict.choices] == ["K7P"] and verdict.entropy == 0.0 and verdict.margin == 1.0


def test_without_any_score_every_choice_is_as_good() -> None:
    verdict = settled([counted("a", "A", 0), counted("b", "B", 0)])
    assert [choice.share for choice in verdict.choices] == [0.5, 0.5] and verdict.answer == "A" and verdict.margin == 0.0


def test_neighbours_add_half_of_all_scores_shared_by_their_similarity() -> None:
    heard = [Heard("n0", "Y", 0.9), Heard("n1", "N", 0.9), Heard("n2", None, 0.9)]
    verdict = settled(GOLDEN, heard)
    assert [choice.heard for choice in verdict.choices] == pytest.approx([2.925 / 6, 2.925 / 6])
    assert verdict.neighbours == tuple(heard)
    assert settled(GOLDEN, heard, neighbours=0.0).choices == settled(GOLDEN).choices


def test_what_no_rollout_answered_is_no_choice() -> None:
    """A code that was read elsewhere says nothing about this one: it must not make a clear vote look unclear."""
    rollouts = [counted(name, name, 0.1) for name in "AB"]
    alone, beside = settled(rollouts), settled(rollouts, [Heard("n", "Z", 1.0), Heard("o", None, 1.0)])
    assert beside.choices == alone.choices and beside.margin == alone.margin and beside.entropy == alone.entropy


def test_a_neighbour_weighs_its_own_part_even_where_others_are_not_heard() -> None:
    verdict = settled(GOLDEN, [Heard("n0", "Y", 0.9), Heard("n1", "Z", 0.9)])
    assert [choice.heard for choice in verdict.choices if choice.answer == "Y"] == pytest.approx([2.925 / 4])


@given(st.lists(st.floats(-1, 1), max_size=6), st.floats(0.01, 2))
def test_shares_of_neighbours_add_up_and_follow_their_similarity(similar: list[float], temperature: float) -> None:
    found = shares(similar, temperature)
    assert math.fsum(found) == pytest.approx(1.0 if similar else 0.0)
    assert [x for _, x in sorted(zip(similar, found, strict=True))] == sorted(found)


def test_hard_majority_counts_heads() -> None:
    some = [counted("a", "A", 0.1), counted("b", "A", 0.1), counted("c", "B", 1.0, 1.0, 1.0)]
    verdict = settled(some, [Heard("n", "B", 1)], hard=True)
    assert verdict.answer == "A" and verdict.rewards == (1.0, 1.0, 0.0) and verdict.share == pytest.approx(2 / 3)


def test_weights_of_rollouts_weigh() -> None:
    some = [counted("a", "A", 0.5, weight=0.25), counted("b", "A", 0.5, weight=0.25), counted("c", "B", 0.5)]
    assert settled(some).answer == "B" and settled(some).share == pytest.approx(2 / 3)


def test_answers_that_agree_with_a_common_third_are_one() -> None:
    assert clusters(["1.0", "1.0000009", "1.0000018", "2"], "number") == [0, 0, 0, 1]
    assert clusters([], "text") == [] and clusters([None, None], "text") == [-1, -1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("answer", -0.1),
        ("answer", 0.9),
        ("length", 2),
        ("order", 1.5),
        ("neighbours", -1),
        ("temperature", 0),
        ("copies", 2),
        ("grounding", -1),
    ],
)
def test_settings_out_of_range_are_told(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        VoteSettings(**{name: value})


def test_arms_change_what_they_say() -> None:
    assert arm("full", VoteSettings(order=0.3)) == VoteSettings(order=0.3)
    assert replace(arm("no_fidelity", VoteSettings()), fidelity=0.25) == VoteSettings()
    assert settle(GOLDEN, [], "text", arm("answer_only", VoteSettings())).scores == (1.0, 1.0, 0.0, 1.0)
    with pytest.raises(KeyError):
        arm("none", VoteSettings())
