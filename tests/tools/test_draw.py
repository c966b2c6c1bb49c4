from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.draw import DrawError, Said, check_target, overlay, save
from pixelis.tools.inspect import run_steps
from tests.fakes_media import avi, blank, h264, moving_square, plate, png
from tests.tools.bench import Bench


def said(bench: Bench, op: str, **arguments: object) -> Said:
    result: ToolResult = bench(op, **arguments)
    assert result.ok, result
    return ToolCall(op, arguments), result


def drawn(bench: Bench, *calls: Said, side: int = 1280) -> Image.Image:
    return overlay(bench.store, list(bench.workspace.handles.values()), side, calls)


def test_masks_and_crops_are_drawn_where_they_are() -> None:
    pixels = plate("K7P")
    bench = Bench(png(pixels))
    bench("SEG", on="img0", point=[360, 400])
    bench("ZOOM", on="img0", box=[100, 100, 250, 250])
    picture = np.array(drawn(bench))
    changed = (picture != pixels).any(axis=2)
    assert picture.shape == pixels.shape and changed[95:135, 115:215].mean() > 0.5 and changed[24, 40]
    assert not changed[200:].any()


def test_a_track_is_a_sheet_of_frames() -> None:
    bench = Bench(avi(moving_square(8)[0]))
    bench("TRK", on="img0", box=[125, 375, 275, 575], t0=0)
    bench("TEMP", on="img0", window=[0, 1000], k=3)
    assert drawn(bench).size == (4 * 320, 2 * 240)


def test_text_that_was_read_stands_beside_its_box() -> None:
    bench = Bench(png(plate("K7P")))
    call = said(bench, "OCR", on="img0")
    x0, y0, x1, y1 = (round(v * s / 1000) for v, s in zip(call[1].data["items"][0]["box"], (320, 240) * 2, strict=True))
    changed = (np.array(drawn(bench, call)) != plate("K7P")).any(axis=2)
    assert changed[y0, x0:x1].all() and changed[y0:y1, x0].all()  # the box
    assert not changed[y0 + 3 : y1 - 4, x0 + 3 : x1 - 4].any()  # what was read can still be read
    beside = changed.copy()
    beside[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1] = False
    assert beside.sum() > 60  # the text
    assert not (np.array(drawn(bench)) != plate("K7P")).any()  # without the result: nothing


def test_many_texts_are_numbered_and_stand_at_the_foot() -> None:
    lines = np.concatenate([plate(f"K{n}P")[80:150] for n in range(2, 8)])
    bench = Bench(png(lines))
    call = said(bench, "OCR", on="img0")
    count = len(call[1].data["items"])
    assert count > 4
    assert drawn(bench, call).height - lines.shape[0] > count * 13


def test_measured_values_stand_at_the_foot() -> None:
    bench = Bench(png(plate("K7P")))
    measured = [said(bench, "PROP", of="img0", keys=["color"]), said(bench, "PROP", of="img0", keys=["brightness"])]
    one, two = drawn(bench, measured[0]), drawn(bench, *measured)
    assert 240 < one.height < two.height and one.width == 320
    foot = np.array(one)[240:]
    assert 0.5 < (foot > 250).mean() < 1
    failed = ToolCall("PROP", {"of": "img9", "keys": ["color"]}), bench("PROP", of="img9", keys=["color"])
    assert drawn(bench, failed).height == 240


def test_windows_are_a_bar_of_the_whole_time() -> None:
    bench = Bench(avi([blank(160, 120, (200, 0, 0))] * 6 + [blank(160, 120, (0, 0, 200))] * 2))
    call = said(bench, "TEMP", on="img0", query="change")
    sheet = np.array(drawn(bench, call))
    bar = sheet[-16].astype(int)
    edges = np.flatnonzero(np.abs(np.diff(bar, axis=0)).max(axis=1) > 100) / sheet.shape[1]
    assert sheet.shape[0] > 2 * 180 and any(abs(edge - 0.75) < 0.02 for edge in edges)


@pytest.mark.parametrize("size", [(4000, 1), (4000, 20), (9, 2000), (1, 1), (64, 48), (4096, 2160)])
def test_every_shape_gives_a_picture_one_can_look_at(size: tuple[int, int]) -> None:
    bench = Bench(png(blank(*size)))
    bench("ZOOM", on="img0", box=[250, 250, 750, 750])
    picture = drawn(bench)
    assert min(picture.size) >= 24 and 200 <= max(picture.size) <= 5200
    colors = {tuple(color) for color in np.array(picture).reshape(-1, 3).tolist()}
    assert (255, 64, 64) in colors or (64, 200, 64) in colors or size == (1, 1)  # of one pixel all is shown, and no box drawn


def frames_of(path: Path) -> tuple[list[np.ndarray], float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        return [f.to_ndarray(format="rgb24") for f in container.decode(stream)], float(stream.average_rate)


def test_an_annotated_clip_shows_the_box_on_every_frame_at_the_speed_of_the_source(tmp_path: Path) -> None:
    pictures, boxes = moving_square(24, 4)
    bench = Bench(avi(pictures, rate=8))
    track = said(bench, "TRK", on="img0", box=[125, 375, 275, 575], t0=0)
    speed = said(bench, "PROP", of="t1", keys=["speed"])
    save(bench.workspace, [track, speed], tmp_path / "t.mp4")
    frames, rate = frames_of(tmp_path / "t.mp4")
    assert len(frames) == 24 and rate == 8 and frames[0].shape[0] > 240 and frames[0].shape[1] == 320
    for frame, picture, (x0, y0, _, y1) in list(zip(frames, pictures, boxes, strict=True))[::5]:
        off = np.abs(frame[:240].astype(int) - picture).max(axis=2)
        assert np.median(off[y0 + 4 : y1 - 4, x0 - 2 : x0 + 3].max(axis=1)) > 40 and np.median(off[:60]) < 15


def test_a_stretch_is_as_long_as_what_it_shows(tmp_path: Path) -> None:
    frames, _ = moving_square(40, 3)
    bench = Bench(avi(frames, rate=8))
    bench("TRK", on="img0", box=[125, 375, 275, 575], t0=250, t1=600, stride=3)
    save(bench.workspace, [], tmp_path / "t.mp4")
    assert len(frames_of(tmp_path / "t.mp4")[0]) in (13, 14, 15)


def test_a_variable_frame_rate_and_odd_sizes_can_be_written(tmp_path: Path) -> None:
    frames, _ = moving_square(6)
    bench = Bench(h264(frames, [0, 400, 3000, 3400, 9000, 9100]))
    save(bench.workspace, [], tmp_path / "t.mp4")
    assert len(frames_of(tmp_path / "t.mp4")[0]) == 6
    odd = Bench(avi([blank(255, 249)] * 3))
    save(odd.workspace, [], tmp_path / "odd.mp4")
    assert frames_of(tmp_path / "odd.mp4")[0][0].shape == (250, 256, 3)


def test_what_cannot_be_drawn_is_one_clear_line(tmp_path: Path) -> None:
    bench = Bench(png(plate("K7P")))
    with pytest.raises(DrawError, match="nothing"):
        overlay(bench.store, [])
    with pytest.raises(DrawError, match=r"x.gif: drawings are written as \.png or \.jpg"):
        check_target("x.gif")
    with pytest.raises(DrawError, match=r"an image has no time: name a \.png"):
        save(bench.workspace, [], tmp_path / "x.mp4")
    assert not list(tmp_path.iterdir())
    save(bench.workspace, [], tmp_path / "x.JPG")
    assert Image.open(tmp_path / "x.JPG").format == "JPEG"


def test_a_chain_by_hand_can_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png(plate("K7P")))
    calls = [ToolCall("ZOOM", {"box": [300, 300, 800, 700]}), ToolCall("OCR", {"on": "img1"})]
    results, workspace = run_steps(tmp_path / "p.png", [{"name": c.name, "arguments": c.arguments} for c in calls])
    save(workspace, list(zip(calls, results, strict=True)), tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").size == (320, 240)
