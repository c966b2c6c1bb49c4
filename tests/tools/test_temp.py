from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.tools.frame import frame_at, time_of
from pixelis.tools.temp import FADE, change_points, pick, slow_changes
from tests.fakes_media import BLUE, GREEN, RED, avi, moving_square, mp4, plate
from tests.tools.bench import Bench, refusal


def segments(*lengths: int) -> list[np.ndarray]:
    """Frames whose plate changes colour and text at the borders."""
    looks = [("K7P", RED), ("A4F", GREEN), ("M39", BLUE), ("T6N", RED)]
    return [plate(*looks[i]) for i, n in enumerate(lengths) for _ in range(n)]


@pytest.mark.parametrize("encode", [avi, mp4])
def test_changes_are_found_where_they_are(encode) -> None:
    bench = Bench(encode(segments(4, 7, 5)))
    result = bench("TEMP", on="img0", query="change")
    assert result.data == {"windows": [[0, 250], [250, 687], [687, 1000]]} and result.ref == "w1"
    assert result.shown == () and list(bench.workspace.handles) == ["img0", "w1", "w2", "w3"]


def test_a_still_clip_has_no_change() -> None:
    assert refusal(Bench(avi(segments(8)))("TEMP", on="img0", query="change")) == ("tool", "no_change")
    assert refusal(Bench(avi(moving_square(12, 2)[0]))("TEMP", on="img0", query="change")) == ("tool", "no_change")


def test_changes_one_after_the_other_are_both_found() -> None:
    found = Bench(avi(segments(6, 1, 6)))("TEMP", on="img0", query="change").data["windows"]
    assert found == [[0, 461], [461, 538], [538, 1000]]


def test_a_dissolve_is_found_at_its_middle() -> None:
    rng = np.random.default_rng(2)
    before, after = (rng.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(2))
    shares = np.concatenate((np.zeros(20), np.linspace(0, 1, 10), np.ones(20)))
    frames = [(before * (1 - s) + after * s).astype(np.uint8) for s in shares]
    (first, second) = Bench(avi(frames))("TEMP", on="img0", query="change").data["windows"]
    assert first[1] == second[0] == pytest.approx(500, abs=40)


@given(st.lists(st.floats(0, 255), max_size=80), st.lists(st.integers(0, 80), max_size=4))
def test_dissolves_lie_apart(across: list[float], cuts: list[int]) -> None:
    found = slow_changes(np.array(across), cuts)
    assert found == sorted(found) and all(b - a > 2 * FADE for a, b in pairwise(found))
    assert all(abs(f - c) > 2 * FADE for f in found for c in cuts)


def test_other_queries_are_the_tools_failure() -> None:
    assert refusal(Bench(avi(segments(4)))("TEMP", on="img0", query="a dog")) == ("tool", "unknown_query")


def test_a_window_shows_its_frames() -> None:
    bench = Bench(avi(segments(8, 8)))
    result = bench("TEMP", on="img0", window=[0, 1000], k=4)
    assert result.data == {"times": [time_of(n, 16) for n in (2, 6, 10, 14)]}
    assert result.shown == ("f1", "f2", "f3", "f4") and result.ref == "f1"
    assert [v.frame for v in result.views] == [2, 6, 10, 14]


def test_an_instant_shows_one_frame() -> None:
    bench = Bench(avi(segments(8, 8)))
    for t in (0, 125, 500, 1000):
        result = bench("TEMP", on="img0", window=[t, t], k=3)
        assert [v.frame for v in result.views] == [frame_at(t, 16)]


@given(st.integers(1, 40), st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 8))
def test_picked_frames_lie_in_the_window(frames: int, a: int, b: int, k: int) -> None:
    t0, t1 = min(a, b), max(a, b)
    numbers = pick(frames, (t0, t1), k)
    assert 1 <= len(numbers) <= k and numbers == sorted(set(numbers))
    assert all(frame_at(t0, frames) <= n <= frame_at(t1, frames) for n in numbers)


@given(st.lists(st.floats(0, 255), max_size=40))
def test_change_points_are_few_and_in_order(steps: list[float]) -> None:
    points = change_points(np.array(steps))
    assert len(points) <= 7 and points == sorted(set(points)) and all(1 <= p <= len(steps) for p in points)
