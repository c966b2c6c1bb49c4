import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.tools.frame import SCALE, Box, View, edge_time, frame_at, time_of
from tests.fakes_media import blank, png
from tests.tools.bench import Bench

BIG = View("ab" * 32, (0, 0, 8000, 6000))
SPAN = st.tuples(st.integers(0, SCALE - 1), st.integers(1, SCALE)).map(lambda p: (p[0], max(p[0] + 1, p[1])))
BOX = st.tuples(SPAN, SPAN).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))


@given(BOX, BOX, BOX, st.floats(0, 1000), st.floats(0, 1000))
def test_points_of_crops_of_crops_of_crops_map_back(a: Box, b: Box, c: Box, x: float, y: float) -> None:
    view = BIG.crop(a).crop(b).crop(c)
    sx, sy = view.to_source(x, y)
    assert view.rect[0] - 1e-6 <= sx <= view.rect[2] + 1e-6
    bx, by = view.from_source(sx, sy)
    assert math.isclose(bx, x, abs_tol=1e-6) and math.isclose(by, y, abs_tol=1e-6)
    # An integer coordinate names the point within half a source pixel while the crop is at most 1000 pixels wide.
    rx, ry = view.to_source(round(bx), round(by))
    assert abs(rx - sx) <= 0.5 * max(1, view.width / SCALE) + 1e-6
    assert abs(ry - sy) <= 0.5 * max(1, view.height / SCALE) + 1e-6


@given(BOX, BOX)
def test_crop_rounds_outward_and_stays_inside(a: Box, b: Box) -> None:
    parent = BIG.crop(a)
    child = parent.crop(b)
    exact = (*parent.to_source(b[0], b[1]), *parent.to_source(b[2], b[3]))
    assert child.rect[0] <= exact[0] + 1e-6 and child.rect[1] <= exact[1] + 1e-6
    assert child.rect[2] >= exact[2] - 1e-6 and child.rect[3] >= exact[3] - 1e-6
    assert all(abs(c - e) < 1 for c, e in zip(child.rect, exact, strict=True))
    assert parent.rect[0] <= child.rect[0] < child.rect[2] <= parent.rect[2]
    assert parent.rect[1] <= child.rect[1] < child.rect[3] <= parent.rect[3]


@given(BOX)
def test_box_of_a_crop_is_the_box_that_made_it(box: Box) -> None:
    near = BIG.box_of(*BIG.crop(box).rect)
    assert all(abs(n - b) <= 1 for n, b in zip(near, box, strict=True))


def test_a_marker_pixel_is_found_through_real_zooms() -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        pixels = blank(1200, 900)
        x, y = int(rng.integers(1200)), int(rng.integers(900))
        pixels[y, x] = (255, 0, 0)
        bench = Bench(png(pixels))
        name = "img0"
        for _ in range(3):
            view = bench.workspace.get(name).view
            u, v = view.from_source(x + 0.5, y + 0.5)
            box = [max(0, int(u) - 150), max(0, int(v) - 150), min(1000, int(u) + 170), min(1000, int(v) + 170)]
            name = str(bench("ZOOM", on=name, box=box).ref)
        view = bench.workspace.get(name).view
        part = bench.store.pixels(view)
        rows, columns = np.nonzero(part[:, :, 0] == 255)
        found = view.to_source((columns[0] + 0.5) * 1000 / view.width, (rows[0] + 0.5) * 1000 / view.height)
        assert len(rows) == 1 and math.dist(found, (x + 0.5, y + 0.5)) < 0.5


def test_an_empty_box_is_refused() -> None:
    with pytest.raises(ValueError, match="x0 < x1"):
        BIG.crop((5, 5, 5, 9))
    with pytest.raises(ValueError, match="at least one pixel"):
        View("ab", (3, 3, 3, 4))


@given(st.integers(1, 500), st.data())
def test_every_frame_has_a_time_that_names_it(frames: int, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, frames - 1))
    assert frame_at(time_of(number, frames), frames) == number
    assert edge_time(number, frames) <= time_of(number, frames) < edge_time(number + 1, frames)


def test_views_go_through_json() -> None:
    view = View("ab", (1, 2, 3, 4), 7)
    assert View.from_list(view.to_list()) == view
