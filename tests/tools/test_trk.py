import cv2
import numpy as np
import pytest

from pixelis.tools.handle import Track
from pixelis.tools.measure import box_iou
from tests.fakes_media import RED, avi, blank, moving_square, mp4, plate, png
from tests.tools.bench import Bench, refusal


def start_of(boxes: list[tuple[int, int, int, int]]) -> list[int]:
    x0, y0, x1, y1 = boxes[0]
    return [round(x0 / 0.32), round(y0 / 0.24), round(x1 / 0.32), round(y1 / 0.24)]


def track(bench: Bench, name: str | None) -> Track:
    payload = bench.workspace.get(str(name)).payload
    assert isinstance(payload, Track)
    return payload


@pytest.mark.parametrize("encode", [avi, mp4])
def test_a_moving_square_is_followed(encode) -> None:
    frames, boxes = moving_square(12)
    bench = Bench(encode(frames))
    result = bench("TRK", on="img0", box=start_of(boxes), t0=0)
    spots = track(bench, result.ref).spots
    assert [s.frame for s in spots] == list(range(12)) and all(s.visible for s in spots)
    assert np.mean([box_iou(s.box, b) for s, b in zip(spots, boxes, strict=True)]) > 0.75
    assert 2 <= len(result.data["boxes"]) <= 8 and result.data["boxes"][0][1:] == pytest.approx(start_of(boxes), abs=2)


def test_window_and_stride_choose_the_frames() -> None:
    frames, boxes = moving_square(16)
    bench = Bench(avi(frames))
    x0, y0, x1, y1 = boxes[4]
    box = [round(x0 / 0.32), round(y0 / 0.24), round(x1 / 0.32), round(y1 / 0.24)]
    result = bench("TRK", on="img0", box=box, t0=250, t1=700, stride=2)
    assert [s.frame for s in track(bench, result.ref).spots] == [4, 6, 8, 10]


def test_a_mask_can_start_a_track() -> None:
    frames, boxes = moving_square(8)
    bench = Bench(avi(frames))
    bench("TEMP", on="img0", window=[0, 0])
    bench("SEG", on="f1", box=start_of(boxes))
    result = bench("TRK", on="img0", init="m1", t0=0)
    spots = track(bench, result.ref).spots
    assert np.mean([box_iou(s.box, b) for s, b in zip(spots, boxes, strict=True)]) > 0.6


def test_only_a_mask_of_this_clip_can_start_a_track() -> None:
    bench = Bench(avi(moving_square(4)[0]))
    assert refusal(bench("TRK", on="img0", init="img0", t0=0)) == ("policy", "wrong_modality")
    other = Bench(png(plate("K7P")))
    other("SEG", on="img0", point=[380, 400])
    mask = other.workspace.get("m1")
    bench.workspace.new("mask", mask.view, mask.payload)
    assert refusal(bench("TRK", on="img0", init="m1", t0=0)) == ("policy", "bad_args")


def test_what_disappears_is_out_of_sight() -> None:
    frames, boxes = moving_square(6, 4)
    rng = np.random.default_rng(5)
    empty = [np.clip(blank().astype(int) + rng.integers(-4, 5, (240, 320, 3)), 0, 255).astype(np.uint8)] * 6
    bench = Bench(avi(frames + empty))
    spots = track(bench, bench("TRK", on="img0", box=start_of(boxes), t0=0).ref).spots
    assert all(s.visible for s in spots[:6]) and not any(s.visible for s in spots[7:])
    gone = Bench(avi(frames[:1] + empty))
    assert refusal(gone("TRK", on="img0", box=start_of(boxes), t0=0)) == ("tool", "lost_at_once")


@pytest.mark.slow
def test_what_comes_back_elsewhere_is_found_again() -> None:
    frames, boxes = moving_square(6, 4)
    away = [np.asarray(cv2.GaussianBlur(frames[0], (0, 0), 1)) for _ in range(5)]
    x0, y0, x1, y1 = boxes[0]
    for pixels in away:
        pixels[y0 - 4 : y1 + 4, x0 - 4 : x1 + 4] = pixels[:56, :56]  # ground over the square
    back = [pixels.copy() for pixels in away]
    for pixels in back:
        pixels[150:198, 220:268] = frames[0][y0:y1, x0:x1]
    bench = Bench(avi(frames + away + back))
    spots = track(bench, bench("TRK", on="img0", box=start_of(boxes), t0=0).ref).spots
    assert all(s.visible for s in spots[:6]) and not any(s.visible for s in spots[7:11])
    assert all(s.visible and box_iou(s.box, (220, 150, 268, 198)) > 0.6 for s in spots[13:])


@pytest.mark.slow
def test_what_changes_its_colour_in_place_is_kept() -> None:
    frames, boxes = moving_square(10, 0)
    x0, y0, x1, y1 = boxes[0]
    for pixels in frames[5:]:
        pixels[y0:y1, x0:x1] = pixels[y0:y1, x0:x1][..., ::-1] // 2
    bench = Bench(avi(frames))
    spots = track(bench, bench("TRK", on="img0", box=start_of(boxes), t0=0).ref).spots
    assert all(s.visible and box_iou(s.box, b) > 0.6 for s, b in zip(spots, boxes, strict=True))


def test_one_frame_is_a_track_of_one() -> None:
    frames, boxes = moving_square(4)
    bench = Bench(avi(frames))
    result = bench("TRK", on="img0", box=start_of(boxes), t0=0, t1=0)
    assert len(track(bench, result.ref).spots) == 1 and len(result.data["boxes"]) == 1


def test_tiny_and_huge_boxes_do_not_raise() -> None:
    bench = Bench(avi([plate("K7P", RED)] * 3))
    for box in ([0, 0, 1, 1], [999, 999, 1000, 1000], [0, 0, 1000, 1000], [0, 500, 1000, 501]):
        result = bench("TRK", on="img0", box=box, t0=0)
        assert result.ok or refusal(result)[0] == "tool"


def test_too_many_frames_are_refused() -> None:
    bench = Bench(avi([blank(16, 16)] * 410))
    assert refusal(bench("TRK", on="img0", box=[0, 0, 500, 500], t0=0)) == ("policy", "too_many_frames")


@pytest.mark.parametrize("size", [(600, 2), (2, 96), (1000, 16), (40, 12)])
def test_thin_clips_are_no_crash(size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(0)
    bench = Bench(avi([rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(3)]))
    for box in ([25, 118, 248, 231], [254, 445, 969, 861], [0, 0, 1000, 1000], [700, 900, 800, 1000]):
        result = bench("TRK", on="img0", box=box, t0=0)
        assert result.ok or refusal(result) == ("tool", "lost_at_once")
