"""The vote: who may vote, what each is worth, and what cannot change the outcome."""

from dataclasses import replace

import pytest
from ballots import ballots, neighbours, read, rollouts, said
from hypothesis import given
from hypothesis import strategies as st

from pixelis.learners.arm import ARMS, VoteSettings, arm
from pixelis.learners.verdict import recount
from pixelis.learners.vote import Ballot, Neighbour, vote
from pixelis.memory.look import WHOLE, Look
from pixelis.memory.trajectory import Trajectory, Turn

FULL = VoteSettings(neighbours=0.5)
COPIES = st.sampled_from([FULL, replace(FULL, copies=0.0), replace(FULL, copies=0.5)])


def trajectory(status: str = "finished", answer: str | None = "K7P", sampled: tuple[int, ...] = (1, 2)) -> Trajectory:
    turn = Turn((5,), sampled, (-0.5,) * len(sampled))
    return Trajectory("t0", "task", "?", (), (turn,), answer, status)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", ["infra", "cancelled"])
def test_what_infrastructure_ended_cannot_vote(status: str) -> None:
    with pytest.raises(ValueError, match=f"t0 ended by {status}"):
        Ballot.of(trajectory(status))


def test_an_episode_without_an_answer_votes_for_nothing_but_is_counted() -> None:
    assert Ballot.of(trajectory("over_budget", None)).answer is Ballot.of(trajectory(answer="  ")).answer is None
    verdict = vote(ballots(said("A"), said("A"), said(None), said(None)), [], "text", FULL)
    assert [one.agreement for one in verdict.rollouts] == pytest.approx([1 / 3, 1 / 3, 0, 0])
    assert verdict.answer == "A" and verdict.rewards[2:] == (0.0, 0.0)
    nobody = vote(ballots(said(None), said(None)), [], "text", FULL)
    assert (nobody.answer, nobody.exemplar, nobody.choices, nobody.margin, nobody.entropy) == (None, None, (), 0.0, 1.0)


def test_a_vote_needs_rollouts_with_names_of_their_own() -> None:
    for none in ([], [Ballot("a", "A"), Ballot("a", "B")]):
        with pytest.raises(ValueError, match="an id each"):
            vote(none, [], "text", FULL)


def test_copies_are_told_by_what_was_sampled() -> None:
    same, other = Ballot.of(trajectory()), Ballot.of(trajectory(sampled=(1, 2, 3)))
    assert same.tokens == Ballot.of(replace(trajectory(), id="t1")).tokens != other.tokens
    split = Turn((5,), (1,), (-0.5,)), Turn((6,), (2,), (-0.5,))
    assert Ballot.of(replace(trajectory(), turns=split)).tokens != same.tokens


@given(rollouts(), neighbours(), COPIES, st.randoms())
def test_the_order_of_the_voters_is_no_matter(some: list[Ballot], near: list[Neighbour], settings: VoteSettings, rng) -> None:
    before = vote(some, near, "text", settings)
    rng.shuffle(some)
    rng.shuffle(near)
    assert vote(some, near, "text", settings) == before


@given(rollouts(), neighbours(), COPIES)
def test_all_terms_scores_and_rewards_are_shares(some: list[Ballot], near: list[Neighbour], settings: VoteSettings) -> None:
    verdict = vote(some, near, "text", settings)
    for one in verdict.rollouts:
        assert all(-1e-9 <= term <= 1 + 1e-9 for term in (one.agreement, one.behaviour, one.fidelity, one.length))
    assert all(0 <= score <= 1 for score in (*verdict.scores, *verdict.rewards))
    assert sum(choice.share for choice in verdict.choices) == pytest.approx(1.0 if verdict.choices else 0.0)
    assert 0 <= verdict.entropy <= 1 and -1 <= verdict.margin <= 1


@given(rollouts(), neighbours(), COPIES)
def test_neighbours_weigh_at_most_half_of_the_rollouts_and_choose_no_answer_of_their_own(
    some: list[Ballot], near: list[Neighbour], settings: VoteSettings
) -> None:
    verdict = vote(some, near, "text", settings)
    own = sum(choice.score for choice in verdict.choices)
    assert sum(choice.heard for choice in verdict.choices) <= settings.neighbours * own + 1e-9
    given_answers = {one.answer.lower() for one in some if one.answer}
    assert verdict.answer is None if not given_answers else (verdict.answer or "").lower() in given_answers


@given(st.integers(1, 8), neighbours())
def test_no_neighbours_outvote_rollouts_that_agree(k: int, near: list[Neighbour]) -> None:
    verdict = vote(ballots(*[said("AA", read("AA"))] * k), near, "text", FULL)
    assert verdict.answer == "AA" and (verdict.margin >= 1 / 3 - 1e-9 or not verdict.choices[0].score)


def test_similar_neighbours_weigh_more() -> None:
    near = [Neighbour(Ballot("n0", "A", ("o",)), 0.9), Neighbour(Ballot("n1", "B", ("o",)), 0.6)]
    one, other = vote(ballots(said("A"), said("B")), near, "text", FULL).rollouts
    assert one.agreement / other.agreement == pytest.approx(2.718281828**3)
    assert one.agreement + other.agreement == pytest.approx(0.5)


def test_a_copy_that_chance_does_not_explain_adds_nothing() -> None:
    """Three times the same wrong rollout against two right ones that were found apart."""
    some = ballots(said("B", tokens="x"), said("B", tokens="x"), said("B", tokens="x"), said("A"), said("A"))
    assert vote(some, [], "text", replace(FULL, copies=0.0)).answer == "B"
    verdict = vote(some, [], "text", FULL)
    assert verdict.answer == "A" and [one.weight for one in verdict.rollouts] == pytest.approx([1 / 3] * 3 + [1.0] * 2)
    assert verdict.rollouts[0].agreement == 0.0
    alone = vote([some[0], *some[3:]], [], "text", FULL)
    assert verdict.rollouts[3].agreement == pytest.approx(alone.rollouts[1].agreement)
    assert verdict.margin == pytest.approx(alone.margin)


@given(st.integers(1, 16), st.integers(0, 8), st.floats(0, 1))
def test_copies_weigh_as_many_as_their_likelihood_explains(n: int, others: int, p: float) -> None:
    some = ballots(*[replace(said("A", tokens="x"), likelihood=p)] * n, *[said("B")] * others)
    together, most = vote(some, [], "text", FULL).choices, n + others - 1
    expected = 1 + most * p + (most * p * (1 - p)) ** 0.5
    assert sum(one.votes for one in together if one.answer == "A") == pytest.approx(min(n, expected))


def test_likelihood_is_that_of_what_was_sampled() -> None:
    assert Ballot.of(trajectory(sampled=(1, 2, 3))).likelihood == pytest.approx(2.718281828**-1.5)


def test_what_its_tools_did_not_find_is_no_answer_where_others_found_theirs() -> None:
    """Three that say what they did not read, against two that read it."""
    guessed, found = said("B", read("K7")), said("A", read("a"))
    some = ballots(guessed, guessed, guessed, found, found)
    verdict = vote(some, [], "text", FULL)
    assert verdict.answer == "A" and verdict.scores[:3] == (0.0, 0.0, 0.0)
    assert vote(some, [], "text", replace(FULL, grounding=0.0)).answer == "B"
    nobody = vote(ballots(guessed, guessed, said("C", read("K7"))), [], "text", FULL)
    assert nobody == replace(
        vote(ballots(guessed, guessed, said("C", read("K7"))), [], "text", replace(FULL, grounding=0.0)), settings=FULL
    )


def test_support_falls_with_silence_and_tells_unanimous_votes_apart() -> None:
    sure, unlike = said("A", read("A")), said("A", Look("ZOOM", (WHOLE,)), read("A", [500, 500, 1000, 1000]))
    full, silent, apart = (
        vote(ballots(*some), [], "text", FULL)
        for some in ([sure] * 4, [sure, sure, said(None), said(None)], [sure, sure, sure, unlike])
    )
    assert full.share == silent.share == apart.share == pytest.approx(1.0)
    assert 1 >= full.support > apart.support > silent.support > 0
    assert vote(ballots(sure, sure, said("B"), said(None)), [], "text", replace(FULL, hard=True)).support == 0.5


def test_footprints_are_compared_on_one_medium_only() -> None:
    here = Look("OCR", (WHOLE.inner([0, 0, 250, 250]),), text="A")
    there = Look("OCR", (WHOLE.inner([750, 750, 1000, 1000]),), text="A")
    same = vote(ballots(said("A", here)), [Neighbour(Ballot("n", "A", ("m",), (there,)), 1.0)], "text", FULL)
    other = vote(ballots(said("A", here)), [Neighbour(Ballot("n", "A", ("x",), (there,)), 1.0)], "text", FULL)
    assert same.rollouts[0].behaviour == pytest.approx(0.5) and other.rollouts[0].behaviour == pytest.approx(1.0)


def test_the_one_that_looked_elsewhere_is_not_the_exemplar() -> None:
    odd = said("A", read("A", [500, 500, 1000, 1000]))
    verdict = vote(ballots(odd, said("A", read("A")), said("A", read("A"))), [], "text", FULL)
    assert verdict.exemplar == "b" and verdict.scores[0] < verdict.scores[1]


def test_a_long_chain_pays_for_its_length() -> None:
    long, short = said("A", *[read("A")] * 4), said("A", read("A"), read("A"))
    one, other, _ = vote(ballots(long, short, short), [], "text", FULL).rollouts
    assert (one.length, other.length) == (1.0, 0.0)


@pytest.mark.parametrize(("kind", "answers"), [("number", ["1200", "1,200.0", "1200"]), ("choice", ["B", "(b)", "b."])])
def test_answers_that_mean_the_same_are_one_choice(kind, answers: list[str]) -> None:
    (choice,) = vote(ballots(*map(said, answers)), [], kind, FULL).choices
    assert len(choice.members) == 3


@given(rollouts(), neighbours())
def test_a_verdict_counted_again_is_that_of_a_vote_with_those_weights(some: list[Ballot], near: list[Neighbour]) -> None:
    full = vote(some, near, "text", FULL)
    for name in ARMS.keys() - {"no_neighbours", "no_copies", "answer_only"}:
        assert recount(full, arm(name, FULL)) == vote(some, near, "text", arm(name, FULL))
    with pytest.raises(ValueError, match=r"neighbours = 0\.0"):
        recount(full, arm("no_neighbours", FULL))


@given(rollouts(), neighbours())
def test_arms_without_neighbours_are_deaf_to_them(some: list[Ballot], near: list[Neighbour]) -> None:
    for name in ("no_neighbours", "hard_majority"):
        one, other = vote(some, near, "text", arm(name, FULL)), vote(some, [], "text", arm(name, FULL))
        assert one.choices == other.choices and one.rewards == other.rewards and one.exemplar == other.exemplar


@given(rollouts())
def test_a_ballot_survives_json(some: list[Ballot]) -> None:
    import json

    for one in some:
        assert Ballot.from_dict(json.loads(json.dumps(one.to_dict()))) == one
