"""Looks: where each tool's call fell in the source, however deep its handles are nested."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import trajectories

from pixelis.memory.look import BINS, WHOLE, Look, Region, looks
from pixelis.memory.trajectory import Trajectory, Turn
from pixelis.tools.call import Failure, ToolCall, ToolResult
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox
from tests.fakes_media import avi, moving_square, png, rectangles

FULL = WHOLE.box


def chain(*pairs: tuple[ToolCall, ToolResult | None]) -> Trajectory:
    turns = tuple(Turn((1,), (2,), (-0.5,), call=call, result=result) for call, result in pairs)
    return Trajectory("t", "task", "?", (), turns)


def run(media: bytes, *calls: ToolCall) -> tuple[Look, ...]:
    """What the real tools make of some calls, as looks."""
    store = MediaStore(None)
    workspace, toolbox = Workspace(store, store.put(media)), Toolbox(store)
    return looks(chain(*((call, toolbox.run(workspace, call)) for call in calls)))


def zoom(on: str, *box: int) -> ToolCall:
    return ToolCall("ZOOM", {"on": on, "box": list(box)})


def answered(op: str, given: dict, ref: str | None = None, **data: object) -> tuple[ToolCall, ToolResult]:
    return ToolCall(op, given), ToolResult(True, op, ref=ref, data=data)


def failed(op: str, cls: str, **given: object) -> tuple[ToolCall, ToolResult]:
    return ToolCall(op, given), ToolResult(False, op, failure=Failure(cls, "code", ""))  # type: ignore[arg-type]


def test_boxes_of_crops_are_told_in_the_source() -> None:
    first, second, third = run(
        png(rectangles(0, 224)), zoom("img0", 500, 0, 1000, 500), zoom("img1", 0, 500, 500, 1000), zoom("img0", 0, 0, 100, 100)
    )
    assert first.regions == (Region((500, 0, 1000, 500)),) and second.regions == (Region((500, 250, 750, 500)),)
    assert third.regions == (Region((0, 0, 100, 100)),)
    assert all(look.ok and look.sure is None for look in (first, second, third))


def test_a_mask_is_where_it_was_found_and_what_is_measured_of_it_too() -> None:
    pixels = rectangles(0, 200)
    pixels[:] = 180
    pixels[100:150, 20:60] = (225, 40, 40)
    seg, prop = run(
        png(pixels), ToolCall("SEG", {"on": "img0", "point": [200, 625]}), ToolCall("PROP", {"of": "m1", "keys": ["color"]})
    )
    (mask,) = seg.regions
    assert mask.overlap(Region((100, 500, 300, 750))) > 0.9 and seg.sure is not None and 0 < seg.sure <= 1
    assert prop.regions == seg.regions and prop.values == {"color": "red"}


def test_frames_windows_and_tracks_of_a_clip_have_their_time() -> None:
    frames, boxes = moving_square(12)
    x0, y0, x1, y1 = boxes[0]
    start = [round(1000 * x0 / 320), round(1000 * y0 / 240), round(1000 * x1 / 320), round(1000 * y1 / 240)]
    temp, zoomed, trk = run(
        avi(frames),
        ToolCall("TEMP", {"on": "img0", "window": [0, 1000], "k": 2}),
        zoom("f2", 0, 0, 500, 500),
        ToolCall("TRK", {"on": "img0", "box": start, "t0": 0}),
    )
    assert [look.ok for look in (temp, zoomed, trk)] == [True] * 3
    early, late = temp.regions
    assert early.box == late.box == FULL and early.span and late.span and early.span[1] <= 500 <= late.span[0]
    assert all(region.span and region.span[1] - region.span[0] == pytest.approx(1000 / BINS) for region in temp.regions)
    assert zoomed.regions == (Region((0, 0, 500, 500), late.span),), "a crop of a frame is at the frame's time"
    assert len(trk.regions) > 2 and trk.regions[0].box[0] < trk.regions[-1].box[0]
    spans = [region.span for region in trk.regions]
    assert spans == sorted(spans, key=lambda span: span or (0, 0)) and None not in spans


def test_several_windows_are_several_regions() -> None:
    pair = answered("TEMP", {"on": "img0", "query": "change"}, "w1", windows=[[0, 300], [300, 1000]])
    assert [region.span for region in looks(chain(pair))[0].regions] == [(0, 300), (300, 1000)]


def test_what_is_read_has_its_text_and_the_readers_confidence() -> None:
    items = [{"text": "K7P", "box": [0, 0, 9, 9], "conf": 980}, {"text": "B", "box": [0, 0, 9, 9], "conf": 900}]
    block, line = looks(
        chain(
            answered("OCR", {"on": "img0"}, text="K7P\nB", items=items),
            answered("OCR", {"on": "img0", "box": [0, 0, 500, 500], "level": "line"}, text="K7P"),
        )
    )
    assert (block.text, block.sure, block.regions) == ("K7P\nB", pytest.approx(0.94), (WHOLE,))
    assert (line.text, line.sure, line.regions) == ("K7P", None, (Region((0, 0, 500, 500)),))


def test_a_distance_looks_at_both_its_ends() -> None:
    (look,) = looks(chain(answered("PROP", {"of": "img0", "to": "img0", "keys": ["distance"]}, distance=3.5)))
    assert look.regions == (WHOLE, WHOLE)


def test_invalid_calls_look_nowhere_and_empty_ones_where_they_were_asked_to() -> None:
    box = [0, 0, 500, 500]
    empty, invalid, broken, none = looks(
        chain(
            failed("OCR", "tool", on="img0", box=box), failed("ZOOM", "policy", on="img9", box="x"),
            failed("SEG", "infra", on="img0", box=box), (ToolCall("ZOOM", {"on": "img0"}), None),
        )
    )  # fmt: skip
    assert (empty.ok, empty.regions) == (False, (Region((0, 0, 500, 500)),))
    assert [(look.ok, look.regions) for look in (invalid, broken, none)] == [(False, ())] * 3


def test_a_handle_of_a_failed_call_is_nowhere() -> None:
    assert looks(chain(failed("ZOOM", "policy"), answered("OCR", {"on": "img1"}, text="A")))[1].regions == ()


@given(trajectories())
def test_any_trajectory_with_failures_has_a_look_for_each_call(trajectory: Trajectory) -> None:
    turns = tuple(
        turn for turn in trajectory.turns if turn.call is None or (turn.result and turn.result.failure and not turn.result.ok)
    )
    found = looks(Trajectory("t", "task", "?", trajectory.media, turns))
    assert len(found) == sum(turn.call is not None for turn in turns) and not any(look.ok for look in found)


edge = st.integers(0, 900)
boxes = st.builds(lambda x, y, w, h: [x, y, x + w, y + h], edge, edge, st.integers(1, 100), st.integers(1, 100))
spans = st.none() | st.builds(lambda t, d: (float(t), float(t + d)), edge, st.integers(1, 100))
regions = st.builds(lambda box, span: Region(WHOLE.inner(box).box, span), boxes, spans)
some = st.lists(regions, max_size=3).map(lambda found: Look("SEG", tuple(found)))


@given(some, some)
def test_overlap_is_the_same_both_ways_and_whole_with_itself(a: Look, b: Look) -> None:
    assert a.overlap(b) == pytest.approx(b.overlap(a)) and 0 <= a.overlap(b) <= 1
    assert a.overlap(a) == pytest.approx(float(bool(a.regions)))


@given(boxes, boxes)
def test_the_box_of_a_box_lies_within_it(outer: list[int], inner: list[int]) -> None:
    out = WHOLE.inner(outer)
    x0, y0, x1, y1 = out.inner(inner).box
    assert out.box[0] <= x0 < x1 <= out.box[2] + 1e-9 and out.box[1] <= y0 < y1 <= out.box[3] + 1e-9
    assert out.inner([0, 0, 1000, 1000]) == out


@given(some, st.dictionaries(st.text(max_size=4), st.integers() | st.lists(st.integers(), max_size=4), max_size=2))
def test_a_look_survives_json(look: Look, values: dict) -> None:
    look = Look("PROP", look.regions, values=values, sure=0.5)
    assert Look.from_dict(json.loads(json.dumps(asdict(look)))) == look
