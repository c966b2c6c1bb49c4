"""Risk and coverage: hand-counted values, and what the order of the items cannot change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.learners.risk import aurc, curve, error_at, error_of, paired, selected

items = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30)


def split(some: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([c for c, _ in some], float), np.array([r for _, r in some])


RANKED = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True])


def test_hand_counted_values() -> None:
    assert curve(*RANKED).tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    assert aurc(*RANKED) == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert aurc(*RANKED, low=0.5, high=1.0) == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert error_at(0.5, *RANKED) == 0.5 and error_at(1.0, *RANKED) == 0.25
    assert error_at(0.51, *RANKED) == pytest.approx(1 / 3), "rounded up to whole items"
    assert error_of(0.5)(*RANKED) == 0.5


@given(items, st.randoms())
def test_items_of_equal_confidence_count_alike_in_whatever_order(some: list[tuple[int, bool]], rng) -> None:
    before = curve(*split(some))
    rng.shuffle(some)
    assert np.allclose(curve(*split(some)), before)


@given(items)
def test_the_curve_is_the_mean_over_all_orders_of_ties_and_ends_at_the_error(some: list[tuple[int, bool]]) -> None:
    confidence, right = split(some)
    rng = np.random.default_rng(0)
    drawn = [curve(confidence + rng.random(len(right)) * 0.1, right) for _ in range(400)]
    assert np.abs(np.mean(drawn, 0) - curve(confidence, right)).max() < 0.15
    assert curve(confidence, right)[-1] == pytest.approx(1 - right.mean())


@given(items)
def test_only_the_order_of_confidences_matters(some: list[tuple[int, bool]]) -> None:
    confidence, right = split(some)
    assert np.array_equal(curve(confidence, right), curve(np.exp(confidence) - 7, right))


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_no_ranking_is_better_than_the_right_ones_first_nor_worse_than_last(right: list[bool]) -> None:
    truth = np.array(right)
    best, worst = aurc(truth * 1.0, truth), aurc(truth * -1.0, truth)
    random = np.random.default_rng(1).random(len(right))
    assert best - 1e-12 <= aurc(random, truth) <= worst + 1e-12
    assert aurc(np.zeros(len(right)), truth) == pytest.approx(1 - truth.mean()), "no ranking: the error at every coverage"


def test_err_at_sel_has_its_coverage_beside_it() -> None:
    accepted = np.array([True, True, False, False])
    assert selected(accepted, np.array([True, False, False, True])) == (0.5, 0.5)
    assert selected(np.zeros(4, bool), np.ones(4, bool)) == (0.0, None)


def test_a_difference_is_paired() -> None:
    """Two rankings of the same items: what both get wrong is no noise."""
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.7
    ours, theirs = right + rng.normal(0, 0.5, 400), right + rng.normal(0, 2.0, 400)
    found = paired((ours, right), (theirs, right), draws=200)
    assert found.low <= found.difference <= found.high < 0
    assert found.difference == pytest.approx(aurc(ours, right) - aurc(theirs, right))
    assert paired((ours, right), (theirs, right), draws=200) == found
    same = paired((ours, right), (ours, right), draws=50)
    assert same.low == same.high == same.difference == 0.0


@pytest.mark.parametrize(
    ("confidence", "right"), [([], []), ([0.5], [True, False]), ([float("nan")], [True]), ([[0.5]], [[True]])]
)
def test_what_is_no_ranking_is_told(confidence: list[float], right: list[bool]) -> None:
    with pytest.raises(ValueError, match="confidence"):
        curve(np.array(confidence), np.array(right, bool))


def test_other_wrong_input_is_told() -> None:
    with pytest.raises(ValueError, match="coverage 0"):
        error_at(0, *RANKED)
    with pytest.raises(ValueError, match="two lists"):
        selected(np.array([], bool), np.array([], bool))
    with pytest.raises(ValueError, match="not the same items"):
        paired(RANKED, (RANKED[0][:2], RANKED[1][:2]))
