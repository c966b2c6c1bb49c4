"""Pixel fidelity: what stands in for a key is never the chain's own finding."""

import numpy as np
import pytest
from ballots import looks, read
from hypothesis import given
from hypothesis import strategies as st

from pixelis.learners.fidelity import fidelity, median
from pixelis.memory.look import WHOLE, Look, Region

LEFT = WHOLE.inner([0, 0, 500, 1000])
RIGHT = WHOLE.inner([500, 0, 1000, 1000])
chains = st.lists(looks, max_size=3)


def alone(look: Look, *partners: Look, weights: list[float] | None = None) -> float:
    return fidelity([look], [[p] for p in partners], weights or [1.0] * len(partners))


def test_the_reference_is_of_the_others_only() -> None:
    """Two that read the same vouch for each other; the third's reading is no part of what it is held against."""
    texts = [read("K7P"), read("K7P"), read("ZZZ")]
    marks = [alone(look, *(other for other in texts if other is not look)) for look in texts]
    assert marks == [pytest.approx(1.0), pytest.approx(1.0), 0.0]


@given(looks, chains)
def test_a_chain_alone_has_its_tools_own_scores(look: Look, chain: list[Look]) -> None:
    sure = [0.0 if not one.ok else one.sure for one in [look, *chain]]
    known = [mark for mark in sure if mark is not None]
    assert fidelity([look, *chain], [], []) == pytest.approx(sum(known) / len(known) if known else 0.0)
    assert fidelity([look, *chain], [[look, *chain]], [0.0]) == fidelity([look, *chain], [], [])


@given(chains, st.lists(st.tuples(chains, st.floats(0.1, 2)), max_size=4))
def test_it_is_a_share_and_a_chain_like_all_others_has_all_of_it(chain: list[Look], others: list) -> None:
    found = fidelity(chain, [other for other, _ in others], [weight for _, weight in others])
    assert 0 <= found <= 1
    if chain and all(look.ok for look in chain) and others:
        same = [look for look in chain if sum(look.like(other) for other in chain) == 1]
        assert fidelity(same, [same] * len(others), [weight for _, weight in others]) == pytest.approx(float(bool(same)))


def test_failed_calls_count_nothing_and_no_call_is_vouched_for_by_nobody() -> None:
    assert alone(Look("OCR", (WHOLE,), ok=False), read("K7P")) == 0.0
    assert fidelity([], [[read("K7P")]], [1.0]) == 0.0
    assert fidelity([read("K7P"), Look("OCR", ok=False)], [[read("K7P")]], [1.0]) == 0.5


def test_one_wild_box_among_three_does_not_move_the_reference() -> None:
    box = Look("ZOOM", (LEFT,))
    assert alone(box, box, box, Look("ZOOM", (RIGHT,))) == 1.0
    assert alone(box, box, Look("ZOOM", (RIGHT,)), weights=[1.0, 3.0]) == 0.0


def test_readings_are_compared_by_their_character_error() -> None:
    assert alone(read("K7"), read("K7P")) == pytest.approx(2 / 3)
    assert alone(read("K7PK7PK7P"), read("K7P")) == 0.0
    assert alone(read(""), read("")) == 1.0


def test_measurements_agree_within_a_tenth() -> None:
    area = [Look("PROP", (WHOLE,), values={"area": value, "color": "red"}) for value in (100, 109, 120)]
    assert alone(area[1], area[0]) == 1.0 and alone(area[2], area[0]) == 0.5
    assert alone(area[0], Look("PROP", (WHOLE,), values={"spots": 4})) == 0.0, "other keys are another question"
    boxes = [Look("PROP", (WHOLE,), values={"box": [x, 0, 200, 300]}) for x in (100, 105, 150)]
    assert alone(boxes[1], boxes[0]) == 1.0 and alone(boxes[2], boxes[0]) == 0.0


def test_of_several_looks_the_one_at_the_same_place_answers() -> None:
    left, right = Look("OCR", (LEFT,), text="AB"), Look("OCR", (RIGHT,), text="CD")
    assert fidelity([left, right], [[right, left]], [1.0]) == 1.0
    assert fidelity([left], [[Look("OCR", (RIGHT,), text="AB")]], [1.0]) == 1.0, "no overlap: the one that comes as late"


def test_windows_and_tracks_are_held_against_one_another() -> None:
    window, half = (Look("TEMP", (Region(WHOLE.box, span),)) for span in ((0.0, 400.0), (200.0, 400.0)))
    assert alone(half, window, window) == pytest.approx(0.5)
    track = Look("TRK", tuple(Region(LEFT.box, (t, t + 62.5)) for t in (0.0, 500.0)))
    assert alone(track, track, track) == 1.0
    assert alone(Look("TRK", track.regions[:1]), track) == pytest.approx(0.75), "one of two places: all of it, and half of them"
    still = Look("TEMP", (WHOLE,))
    assert alone(still, window) == 0.0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3)), min_size=1, max_size=6))
def test_the_weighted_median_is_the_median_of_as_many_copies(pairs: list[tuple[int, int]]) -> None:
    values, weights = zip(*pairs, strict=True)
    assert median(values, weights) == float(np.median(np.repeat(values, weights)))
