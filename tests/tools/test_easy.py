"""EasyOCR's true networks, untrained: what they read is noise, that we ask them as EasyOCR does is not."""

import copy
import hashlib
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pixelis.tools.call import OcrArgs, ToolCall, ToolFailure
from pixelis.tools.easy import DETECTOR, HEIGHT, RECOGNISER, EasyOcr, _strips, characters
from pixelis.tools.handle import Workspace
from pixelis.tools.local import Local, work
from pixelis.tools.tool import Ask, Outcome
from tests.fakes_media import blank, jpeg, plate, png, rectangles
from tests.tools.bench import Bench, refusal
from tests.tools.learned import Counted, ocr_networks

pytestmark = pytest.mark.slow  # the networks take seconds to build
PLATE = (343, 375, 690, 584)


@pytest.fixture(scope="module")
def ocr() -> EasyOcr:
    return EasyOcr(*ocr_networks(), "easyocr-test")


def reader(ocr: EasyOcr) -> Any:
    """EasyOCR's own Reader around the same networks; its constructor would look for files, and fetch them."""
    from easyocr import Reader
    from easyocr.detection import get_textbox

    theirs = Reader.__new__(Reader)
    theirs.detector, theirs.recognizer, theirs.converter = ocr.detector, ocr.recogniser, ocr.converter
    theirs.get_textbox, theirs.device, theirs.model_lang = get_textbox, "cpu", "english"
    theirs.character = theirs.lang_char = characters()
    return theirs


def page() -> np.ndarray:
    """Text at several heights, some of it slanted."""
    pixels = blank(360, 300, (245, 245, 240))
    for y, text in ((50, "first line"), (120, "K7P 42"), (190, "the third, longer line")):
        cv2.putText(pixels, text, (15, y), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (10, 10, 10), 2, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((180, 150), 12, 1.0)
    return cv2.warpAffine(pixels, turn, (360, 300), borderMode=cv2.BORDER_REPLICATE)


@pytest.mark.parametrize("pixels", [page(), plate("K7P"), rectangles(3, 256)])
def test_a_block_holds_what_easyocrs_reader_finds(ocr: EasyOcr, pixels: np.ndarray) -> None:
    theirs = reader(ocr)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    (level,), (slanted,) = theirs.detect(pixels, reformat=False)
    height, width = grey.shape
    level = [b for b in level if min(b[1], width) - max(0, b[0]) >= 4 and min(b[3], height) - max(0, b[2]) >= 4]
    wanted = theirs.recognize(grey, level, slanted, reformat=False)
    wanted = [(corners, text.strip(), sure) for corners, text, sure in wanted if sure >= 0.5 and text.strip()]
    assert wanted  # or this test would say nothing
    bench = Bench(png(pixels), {"OCR": ocr})
    found = bench("OCR", on="img0").data["items"]
    assert sorted(item["text"] for item in found) == sorted(text for _, text, _ in wanted)
    for corners, text, sure in wanted:
        item = min((i for i in found if i["text"] == text), key=lambda i: abs(i["conf"] - 1000 * sure))
        assert item["conf"] == pytest.approx(1000 * sure, abs=2)
        across, down = [1000 * x / width for x, _ in corners], [1000 * y / height for _, y in corners]
        box = [min(across), min(down), max(across), max(down)]
        assert item["box"] == pytest.approx(np.clip(box, 0, 1000).tolist(), abs=1)


def test_a_line_is_read_as_easyocr_reads_it(ocr: EasyOcr) -> None:
    for pixels in (page(), plate("K7P"), page()[30:60], page().transpose(1, 0, 2)):
        bench = Bench(png(pixels), {"OCR": ocr})
        ((_, text, sure),) = reader(ocr).recognize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), reformat=False)
        result = bench("OCR", on="img0", level="line")
        assert sure >= 0.5 and result.data == {"text": text.strip()}
        assert result.tool == "ocr-easyocr@1#easyocr-test"


def test_what_is_faint_is_read_again_with_more_contrast(ocr: EasyOcr) -> None:
    unsure = copy.deepcopy(ocr.recogniser)
    with torch.no_grad():
        unsure.Prediction.weight.mul_(0.005)
        unsure.Prediction.bias.mul_(0.005)
    tool = EasyOcr(ocr.detector, unsure, "easyocr-test")
    changed = 0
    for pixels in (page()[30:60], page()[90:140], plate("K7P")[90:140, 110:220]):
        pixels = (pixels.astype(np.float32) / 6 + 90).astype(np.uint8)
        with torch.inference_mode():
            ((first, sure),) = tool._pass([(0, _whole(pixels))], 0.0, time.monotonic() + 60).values()
            (mine,) = tool._read([_whole(pixels)], time.monotonic() + 60)
        ((_, text, score),) = reader(tool).recognize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), reformat=False)
        assert sure < 0.1 and mine == (text.strip(), pytest.approx(score, abs=1e-6))
        changed += (first, sure) != mine
    assert changed


def _whole(pixels: np.ndarray) -> tuple[Any, int]:
    ((_, strip),) = _strips([[0, pixels.shape[1], 0, pixels.shape[0]]], [], pixels)
    return strip


def test_boxes_are_in_the_frame_of_on(ocr: EasyOcr) -> None:
    bench = Bench(png(page()), Local().tools | {"OCR": ocr})
    box = [0, 111, 500, 888]
    zoom = bench("ZOOM", on="img0", box=box)
    inner, outer = bench("OCR", on=zoom.ref).data["items"], bench("OCR", on="img0", box=box).data["items"]
    view, part = (bench.workspace.get(str(name)).view for name in ("img0", zoom.ref))
    assert [i["text"] for i in inner] == [i["text"] for i in outer] and inner
    for i, o in zip(inner, outer, strict=True):
        corners = [*part.to_source(*i["box"][:2]), *part.to_source(*i["box"][2:])]
        assert o["box"] == pytest.approx(list(view.box_of(*corners)), abs=3)


def test_lines_of_all_questions_are_read_together_and_as_one_by_one(ocr: EasyOcr) -> None:
    bench, other = Bench(png(page())), Bench(png(plate("A4F")))
    asked: list[tuple[Workspace, OcrArgs]] = [
        (bench.workspace, OcrArgs(on="img0", level="line", box=(0, 100, 1000, 250))),
        (other.workspace, OcrArgs(on="img0", level="line", box=PLATE)),
        (bench.workspace, OcrArgs(on="img0")),
        (bench.workspace, OcrArgs(on="img0", level="line", box=(0, 400, 1000, 560))),
        (other.workspace, OcrArgs(on="img0", level="line", box=(330, 370, 700, 600))),
    ]
    calls = Counted(ocr.recogniser)
    found = ocr.batch(asked, time.monotonic() + 60)
    together = calls.calls
    alone = [ocr.run(*one, time.monotonic() + 60) for one in asked]
    for one, wanted in zip(found, alone, strict=True):
        assert isinstance(one, Outcome) and one.data["text"] == wanted.data["text"]
    assert together < calls.calls - together  # fewer passes for all than for each


def test_a_question_that_finds_nothing_fails_alone(ocr: EasyOcr) -> None:
    good, tiny = Bench(png(page())), Bench(png(blank(3, 3)))
    args = OcrArgs(on="img0", level="line")
    first, second = ocr.batch([(tiny.workspace, args), (good.workspace, args)], time.monotonic() + 60)
    assert isinstance(first, ToolFailure) and (first.cls, first.code) == ("tool", "no_text")
    assert isinstance(second, Outcome)
    (third,) = ocr.batch([(tiny.workspace, OcrArgs(on="img0"))], time.monotonic() + 60)
    assert isinstance(third, ToolFailure) and third.code == "no_text"


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (400, 1), (1500, 4), (4, 900), (33, 31)])
def test_odd_shapes_do_not_raise(ocr: EasyOcr, size: tuple[int, int]) -> None:
    for level in ("line", "block"):
        result = Bench(png(blank(*size)), {"OCR": ocr})("OCR", on="img0", level=level)
        assert result.ok or refusal(result) == ("tool", "no_text")


def test_a_thin_strip_is_read_at_bounded_width(ocr: EasyOcr) -> None:
    seen: list[tuple[int, ...]] = []
    hook = ocr.recogniser.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    try:
        Bench(png(blank(9000, 5)), {"OCR": ocr})("OCR", on="img0", level="line")
    finally:
        hook.remove()
    assert seen and all(shape[1:] == (1, HEIGHT, 40 * HEIGHT) for shape in seen)


@pytest.mark.parametrize("part", [0, 1])
def test_numbers_that_are_none_are_infrastructure_failures(part: int) -> None:
    networks = ocr_networks()
    with torch.no_grad():
        next(networks[part].parameters()).fill_(float("nan"))
    bench = Bench(png(page()), {"OCR": EasyOcr(*networks, "easyocr-test")})
    assert refusal(bench("OCR", on="img0", level="block")) == ("infra", "bad_result")


def test_a_batch_too_large_for_the_memory_is_halved(ocr: EasyOcr) -> None:
    def short(module: Any, inputs: tuple[Any, ...]) -> None:
        if len(inputs[0]) > 1:
            raise MemoryError("no more")

    bench = Bench(png(page()))
    ask = Ask.of(bench.workspace, ToolCall("OCR", {"on": "img0", "level": "line"}), {"OCR": ocr.id})
    hook = ocr.recogniser.register_forward_pre_hook(short)
    try:
        answers = work(ocr, bench.store, [(ask, None)] * 4, 60)
    finally:
        hook.remove()
    assert all(isinstance(answer.found, Outcome) for answer in answers)


def test_the_deadline_holds(ocr: EasyOcr) -> None:
    bench = Bench(png(page()))
    for level in ("line", "block"):
        with pytest.raises(ToolFailure) as raised:
            ocr.run(bench.workspace, OcrArgs(on="img0", level=level), time.monotonic() - 1)
        assert (raised.value.cls, raised.value.code) == ("infra", "timeout")


def test_weights_on_disk_give_the_same_answer_and_their_hashes(ocr: EasyOcr, tmp_path: Path) -> None:
    for network, name in ((ocr.detector, DETECTOR), (ocr.recogniser, RECOGNISER)):
        torch.save({f"module.{key}": tensor for key, tensor in network.state_dict().items()}, tmp_path / name)
    loaded = EasyOcr.load(tmp_path)
    for level in ("line", "block"):
        one, other = (Bench(jpeg(page()), {"OCR": tool})("OCR", on="img0", level=level) for tool in (ocr, loaded))
        assert one.ok and one.data == other.data
    craft, english = (hashlib.sha256((tmp_path / n).read_bytes()).hexdigest()[:12] for n in (DETECTOR, RECOGNISER))
    assert loaded.id == f"ocr-easyocr@1#easyocr-1.7.2-craft-{craft}-english_g2-{english}"
    (tmp_path / RECOGNISER).write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"english_g2\.pth: not EasyOCR's english_g2\.pth"):
        EasyOcr.load(tmp_path)
