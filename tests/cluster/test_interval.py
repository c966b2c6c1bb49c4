"""The bootstrap's intervals: where they lie is known for some pairs."""

import numpy as np
import pytest

from pixelis.cluster.interval import difference


def test_an_interval_holds_the_true_difference_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        ours, theirs = (rng.random(400) < 0.6).astype(float), (rng.random(400) < 0.5).astype(float)
        found = difference([ours], [theirs])
        held += found.low <= 0.1 <= found.high
    assert 52 <= held <= 60


def test_questions_that_both_answer_alike_add_no_doubt() -> None:
    """The same questions on both sides: what they share cancels."""
    rng = np.random.default_rng(1)
    theirs = (rng.random(500) < 0.5).astype(float)
    found = difference([theirs + 1.0], [theirs])
    assert (found.low, found.mean, found.high) == (1.0, 1.0, 1.0)


def test_shares_are_pooled_over_questions() -> None:
    """One hop of four pairs, and none of none: a quarter, not an eighth."""
    ours, theirs = np.array([[1.0, 4.0], [0.0, 0.0]]), np.array([[0.0, 4.0], [0.0, 0.0]])
    assert difference([ours], [theirs]).mean == pytest.approx(0.25)


def test_seeds_count_alike() -> None:
    ours = [np.ones(10), np.zeros(10)]
    assert difference(ours, [np.zeros(10), np.zeros(10)]).mean == pytest.approx(0.5)
    with pytest.raises(ValueError, match="seeds or questions differ"):
        difference(ours, [np.zeros(10)])
    with pytest.raises(ValueError, match="seeds or questions differ"):
        difference(ours, [np.zeros(10), np.zeros(9)])
