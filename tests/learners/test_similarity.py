"""Likeness of chains: golden values (paper, section 15), and what holds for all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.learners.similarity import footprint, ruzicka, sequence, timed
from pixelis.memory.look import WHOLE, Look, Region

ops = st.lists(st.sampled_from(["ZOOM", "OCR", "SEG"]), max_size=5)
edge = st.integers(0, 900)


@st.composite
def regions(draw: st.DrawFn, clip: bool) -> Region:
    x, y, t = draw(edge), draw(edge), draw(edge)
    box = (x, y, x + draw(st.integers(1, 100)), y + draw(st.integers(1, 100)))
    return Region(tuple(map(float, box)), (float(t), float(t + 100)) if clip else None)


chains = st.booleans().flatmap(
    lambda clip: st.lists(st.lists(regions(clip), max_size=3).map(lambda some: Look("SEG", tuple(some))), max_size=4)
)


@pytest.mark.parametrize(
    ("a", "b", "like"),
    [
        (["ZOOM", "OCR"], ["ZOOM", "ZOOM", "OCR"], 2 / 3), (["ZOOM"], ["OCR"], 0.0), ([], [], 1.0), ([], ["OCR"], 0.0),
        (["ZOOM", "OCR"], ["OCR", "ZOOM"], 0.0),
    ],
)  # fmt: skip
def test_golden_values_of_sequences(a: list[str], b: list[str], like: float) -> None:
    assert sequence(a, b) == pytest.approx(like)


def test_golden_value_of_footprints() -> None:
    assert ruzicka(np.array([1, 1, 0, 0.5]), np.array([1, 0, 0, 1])) == 0.5
    assert ruzicka(np.zeros(4), np.zeros(4)) == 1.0 and ruzicka(np.zeros(4), np.ones(4)) == 0.0


@given(ops, ops)
def test_sequences_are_alike_both_ways_and_wholly_when_equal(a: list[str], b: list[str]) -> None:
    assert sequence(a, b) == sequence(b, a)
    assert 0 <= sequence(a, b) <= 1 and (sequence(a, b) == 1) == (a == b)


@given(chains, chains)
def test_footprints_are_alike_both_ways_and_wholly_when_equal(a: list[Look], b: list[Look]) -> None:
    clip = timed(a) or timed(b)
    one, other = footprint(a, clip), footprint(b, clip)
    assert ruzicka(one, other) == ruzicka(other, one)
    assert 0 <= ruzicka(one, other) <= 1 and ruzicka(one, one.copy()) == 1


@given(chains)
def test_a_footprint_is_the_mean_of_its_calls_whatever_their_order(chain: list[Look]) -> None:
    grid = footprint(chain)
    assert grid.shape == ((16, 32, 32) if timed(chain) else (1, 32, 32))
    assert grid.min() >= 0 and grid.max() <= 1 + 1e-9
    assert np.allclose(footprint(chain[::-1], timed(chain)), grid)


def test_a_cell_has_the_share_that_was_looked_at() -> None:
    grid = footprint([Look("ZOOM", (WHOLE.inner([0, 0, 250, 500]),)), Look("PROP")], side=4)
    assert grid.sum() == pytest.approx(1000 * 1000 / 8 / 250**2 / 2)
    half = footprint([Look("TEMP", (Region(WHOLE.box, (0.0, 500.0)),))], side=1)
    assert half.ravel().tolist() == [1.0] * 8 + [0.0] * 8
    twice = WHOLE.inner([0, 0, 500, 500])
    assert footprint([Look("TRK", (twice, twice))]).max() == 1.0


def test_a_still_in_a_clips_grid_is_there_all_the_time() -> None:
    still = footprint([Look("ZOOM", (WHOLE.inner([0, 0, 500, 500]),))], clip=True, side=4)
    assert still.shape == (16, 4, 4) and (still == still[0]).all()
