import json
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pixelis.tools.call import ToolCall
from pixelis.tools.frame import SCALE, Box, View, edge_time, frame_at, time_of
from pixelis.tools.handle import Mask, Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox
from tests.fakes_media import BLUE, GREEN, RED, blank, png, saved
from tests.tools.bench import Bench

BIG = View("ab" * 32, (0, 0, 8000, 6000))
SPAN = st.tuples(st.integers(0, SCALE - 1), st.integers(1, SCALE)).map(lambda p: (p[0], max(p[0] + 1, p[1])))
BOX = st.tuples(SPAN, SPAN).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))


@given(BOX, BOX, BOX, st.floats(0, 1000), st.floats(0, 1000))
def test_points_of_crops_of_crops_of_crops_map_back(a: Box, b: Box, c: Box, x: float, y: float) -> None:
    view = BIG.crop(a).crop(b).crop(c)
    sx, sy = view.to_source(x, y)
    assert view.rect[0] - 0.5 <= sx <= view.rect[2] + 0.5 and view.rect[1] - 0.5 <= sy <= view.rect[3] + 0.5
    bx, by = view.from_source(sx, sy)
    assert math.isclose(bx, x, abs_tol=1e-6) and math.isclose(by, y, abs_tol=1e-6)
    # An integer coordinate names the point within half a source pixel while the crop is at most 1000 pixels wide.
    rx, ry = view.to_source(round(bx), round(by))
    assert abs(rx - sx) <= 0.5 * max(1, (view.width + 0.5) / SCALE) + 1e-6
    assert abs(ry - sy) <= 0.5 * max(1, (view.height + 0.5) / SCALE) + 1e-6


@given(BOX, BOX)
def test_crop_rounds_to_the_nearest_pixels_and_stays_inside(a: Box, b: Box) -> None:
    parent = BIG.crop(a)
    child = parent.crop(b)
    exact = (*parent.to_source(b[0], b[1]), *parent.to_source(b[2], b[3]))
    for low, high in ((0, 2), (1, 3)):
        if exact[high] - exact[low] >= 1:
            assert abs(child.rect[low] - exact[low]) <= 0.5 + 1e-5 and abs(child.rect[high] - exact[high]) <= 0.5 + 1e-5
        else:
            assert child.rect[high] - child.rect[low] == 1
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
        assert len(rows) == 1 and max(abs(found[0] - x - 0.5), abs(found[1] - y - 0.5)) <= 0.5


Ideal = tuple[Fraction, Fraction, Fraction, Fraction]


def real(frame: Ideal, box: Box) -> Ideal:
    """A box of a frame on real numbers."""
    x0, y0, x1, y1 = frame
    at = [Fraction(n, SCALE) for n in box]
    return x0 + (x1 - x0) * at[0], y0 + (y1 - y0) * at[1], x0 + (x1 - x0) * at[2], y0 + (y1 - y0) * at[3]


def chains(count: int, least: int, most: int) -> list[list[Box]]:
    """Random boxes in boxes in boxes in boxes of an 8000x6000 picture, the third least..most pixels wide and high."""
    rng, found = random.Random(0), []
    while len(found) < count:
        spans = [[sorted(rng.sample(range(SCALE + 1), 2)) for _ in "xy"] for _ in range(4)]
        boxes: list[Box] = [(x[0], y[0], x[1], y[1]) for x, y in spans]
        third = real(real(real((Fraction(0), Fraction(0), Fraction(8000), Fraction(6000)), boxes[0]), boxes[1]), boxes[2])
        last = real(third, boxes[3])
        if all(least <= third[i + 2] - third[i] <= most and last[i + 2] - last[i] >= 1 for i in (0, 1)):
            found.append(boxes)
    return found


def zoomed(store: MediaStore, box: Toolbox, sha: str, boxes: list[Box]) -> tuple[Workspace, View]:
    """A workspace and its innermost view after a ZOOM into each box in turn."""
    workspace, name = Workspace(store, sha), "img0"
    for one in boxes:
        name = str(box.run(workspace, ToolCall("ZOOM", {"on": name, "box": list(one)})).ref)
    return workspace, workspace.get(name).view


def test_boxes_through_three_zooms_at_8000x6000_are_less_than_a_pixel_off() -> None:
    """Against the box of boxes on real numbers, and against the same box drawn into the pixels that are shown."""
    store = MediaStore()
    sha, box = store.put(saved(Image.new("L", (8000, 6000), 200), "PNG", compress_level=1)), Toolbox(store)
    of_real, of_shown = [], []
    for a, b, c, d in chains(1000, 1, 8000):
        _, view = zoomed(store, box, sha, [a, b, c])
        ideal: Ideal = (Fraction(0), Fraction(0), Fraction(8000), Fraction(6000))
        for one in (a, b, c, d):
            ideal = real(ideal, one)
        rect = view.pixels_of(d)
        x0, y0, x1, y1 = (Fraction(n) for n in view.rect)
        of_real.append(max(abs(float(r - i)) for r, i in zip(rect, ideal, strict=True)))
        of_shown.append(max(abs(float(r - i)) for r, i in zip(rect, real((x0, y0, x1, y1), d), strict=True)))
    assert max(of_real) <= 0.5001 and max(of_shown) < 1


@pytest.mark.slow
def test_masks_through_three_zooms_at_8000x6000_are_less_than_a_pixel_off() -> None:
    """Squares of 40 pixels: the mask of the one in the middle of the innermost view, back in source pixels."""
    colors = np.tile(np.array([[RED, GREEN], [BLUE, (255, 255, 255)]], np.uint8), (75, 100, 1))
    picture = Image.fromarray(colors.repeat(40, axis=0).repeat(40, axis=1))
    store = MediaStore()
    sha, box = store.put(saved(picture, "PNG", compress_level=1)), Toolbox(store)
    found = 0
    for boxes in chains(60, 60, 900):
        workspace, view = zoomed(store, box, sha, boxes[:3])
        x, y = (int(v) for v in view.to_source(500, 500))
        column, row = x // 40, y // 40
        if not (2 <= x % 40 < 38 and 2 <= y % 40 < 38):
            continue  # the point is at the square's edge
        result = box.run(workspace, ToolCall("SEG", {"on": f"img{len(boxes) - 1}", "point": [500, 500]}))
        handle = workspace.get(str(result.ref))
        assert isinstance(handle.payload, Mask) and handle.view == view
        inside = handle.payload.array()
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        left, top = view.rect[:2]
        seen = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
        low = max(column * 40, view.rect[0]), max(row * 40, view.rect[1])
        truth = (*low, min(column * 40 + 40, view.rect[2]), min(row * 40 + 40, view.rect[3]))
        assert seen == truth and inside.sum() == (truth[2] - truth[0]) * (truth[3] - truth[1])
        found += 1
    assert found >= 30


def test_views_go_through_json_with_their_exact_edges() -> None:
    view = BIG.crop((1, 2, 334, 667)).crop((333, 333, 667, 999))
    back = View.from_list(json.loads(json.dumps(view.to_list())))
    assert back == view and back.to_source(1, 999) == view.to_source(1, 999) and back.edges == view.edges
    assert View.from_list(BIG.to_list()) == BIG and BIG.to_list() == ["ab" * 32, [0, 0, 8000, 6000], None]


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
