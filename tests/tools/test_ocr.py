import cv2
import numpy as np
import pytest

from pixelis.tools.ocr import reading_order
from tests.fakes_media import blank, jpeg, plate, png
from tests.tools.bench import Bench, refusal

PLATE = [343, 375, 690, 584]


@pytest.mark.parametrize("text", ["K7P", "A4F", "M39"])
def test_a_line_is_read(text: str) -> None:
    bench = Bench(jpeg(plate(text)))
    assert bench("OCR", on="img0", box=PLATE, level="line").data == {"text": text}


def test_a_line_read_does_not_depend_on_what_was_read_before() -> None:
    bench = Bench(jpeg(plate("K7P")), memo_count=0)
    first = bench("OCR", on="img0", box=PLATE, level="line").digest()
    bench("OCR", on="img0", level="block")
    bench("OCR", on="img0", box=[0, 400, 1000, 500], level="line")
    assert bench("OCR", on="img0", box=PLATE, level="line").digest() == first


def test_blocks_come_with_boxes_in_the_frame_of_on() -> None:
    bench = Bench(jpeg(plate("K7P")))
    for on, box in (("img0", None), ("img0", [200, 200, 900, 800])):
        result = bench("OCR", on=on, **({"box": box} if box else {}))
        assert result.data["text"] == "K7P"
        (item,) = result.data["items"]
        assert item["text"] == "K7P" and item["conf"] > 500
        assert item["box"] == pytest.approx([420, 420, 600, 520], abs=45)


def test_a_tight_crop_is_read_too() -> None:
    bench = Bench(jpeg(plate("K7P")))
    zoom = bench("ZOOM", on="img0", box=[400, 400, 625, 540])
    assert bench("OCR", on=zoom.ref).data["text"] == "K7P"


@pytest.mark.parametrize("level", ["line", "block"])
def test_no_text_is_the_tools_failure(level: str) -> None:
    assert refusal(Bench(png(blank()))("OCR", on="img0", level=level)) == ("tool", "no_text")
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    assert refusal(Bench(png(noise))("OCR", on="img0", level=level)) == ("tool", "no_text")


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (400, 1), (3000, 2)])
def test_odd_shapes_do_not_raise(size: tuple[int, int]) -> None:
    for level in ("line", "block"):
        result = Bench(png(blank(*size)))("OCR", on="img0", level=level)
        assert result.ok or refusal(result) == ("tool", "no_text")


def test_reading_order_is_rows_then_columns() -> None:
    def item(text: str, x: int, y: int) -> tuple:
        return text, (x, y, x + 40, y + 20), 0.9

    items = [item("d", 60, 52), item("b", 60, 3), item("a", 0, 0), item("c", 0, 50), item("e", 0, 100)]
    assert "".join(text for text, _, _ in reading_order(items)) == "abcde"


def test_two_lines_are_read_from_top_to_bottom() -> None:
    pixels = blank(400, 200, (250, 250, 250))
    for y, text in ((60, "first line"), (140, "second row")):
        cv2.putText(pixels, text, (40, y), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (10, 10, 10), 2, cv2.LINE_AA)
    assert Bench(png(pixels))("OCR", on="img0").data["text"] == "first line\nsecond row"


@pytest.mark.parametrize("turn", [cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE])
def test_turned_text_is_read_where_it_is(turn: int) -> None:
    pixels = blank(400, 300, (250, 250, 250))
    for y, text in ((80, "first line of it"), (200, "second row here")):
        cv2.putText(pixels, text, (40, y), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (10, 10, 10), 2, cv2.LINE_AA)
    turned = cv2.rotate(pixels, turn)
    data = Bench(png(turned))("OCR", on="img0").data
    assert data["text"] == "first line of it\nsecond row here"
    x0, y0, x1, y1 = data["items"][0]["box"]
    height, width = turned.shape[:2]
    there = turned[y0 * height // 1000 : y1 * height // 1000, x0 * width // 1000 : x1 * width // 1000]
    ink = (turned < 128).any(axis=2).sum()
    assert 0.4 < (there < 128).any(axis=2).sum() / ink < 0.6  # the box holds one of the two lines
    line = Bench(png(cv2.rotate(pixels[40:100], turn)))("OCR", on="img0", level="line")
    assert line.data == {"text": "first line of it"}
