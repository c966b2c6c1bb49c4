"""OCR with RapidOCR (PP-OCRv6 inside the wheel): whole blocks, or one line by the recogniser alone."""

import math
import threading
from functools import cache
from typing import Any

import numpy as np

from pixelis.tools.call import OcrArgs, ToolFailure
from pixelis.tools.frame import View
from pixelis.tools.handle import Workspace
from pixelis.tools.tool import Outcome
from pixelis.tools.zoom import still

LINE_HEIGHT = 48  # the recogniser's input height
LINE_MIN, LINE_MAX = 32, 1600  # its input width: time grows with it (10 ms at 96, 26 ms at 320)
LEGIBLE = 4  # pixels; nothing smaller across is text
LONGEST = 2000  # blocks are searched at most at this size
THINNEST = 32  # blocks of a larger aspect get a margin, which the detector's own resizing needs
SURE = 0.5  # below this score a reading is noise
SHORT_SIDE, ENLARGE = 736, 3.0  # blocks: pictures with a shorter side are enlarged towards it, at most so much
ITEMS = 64  # most lines in one observation
_LOCK = threading.Lock()  # the engine is one object per process and its input width is set per call


@cache
def engine() -> Any:
    """RapidOCR, loaded once per process (about 1 s), on one thread and quiet."""
    import logging

    from rapidocr import RapidOCR

    single = {
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        "Global.log_level": "error",
        "Global.use_cls": False,
        "Det.limit_type": "max",  # no hidden enlarging: a tight crop would become letters too tall to be found
        "Det.limit_side_len": LONGEST,
        "Global.max_side_len": LONGEST,
    }
    ready = RapidOCR(params=single)
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    ready(np.full((48, 96, 3), 255, np.uint8), use_det=False, use_cls=False, use_rec=True)  # loads the recogniser
    return ready


@cache
def _version() -> str:
    from importlib.metadata import version

    return f"ocr-rapidocr@1#{version('rapidocr')}-ppocrv6s"


class Ocr:
    """Reads text; raises tool no_text when nothing can be read with a score of at least 0.5."""

    @property
    def id(self) -> str:
        """Backend, version and model."""
        return _version()

    def run(self, workspace: Workspace, args: OcrArgs, until: float) -> Outcome:
        """level line: {"text"}; level block: {"text" (lines joined by newlines), "items" [{text, box, conf}]}."""
        view = still(workspace, args.on).view
        part = view if args.box is None else view.crop(args.box)
        pixels = np.ascontiguousarray(workspace.store.pixels(part)[:, :, ::-1])  # the models were trained on BGR
        return line(*read_line(pixels)) if args.level == "line" else block(view, part, read_block(pixels))


def line(text: str, score: float) -> Outcome:
    """What OCR answers with one line's text and score 0..1; raises tool no_text."""
    if score < SURE or not text:
        raise ToolFailure("tool", "no_text", f"score {score:.2f}")
    return Outcome({"text": text})


def block(view: View, part: View, items: "list[tuple[str, Quad, float]]") -> Outcome:
    """What OCR answers with the lines of `part`, boxes in the frame of `view`; raises tool no_text."""
    if not items:
        raise ToolFailure("tool", "no_text")
    return Outcome(
        {
            "text": "\n".join(text for text, _, _ in items),
            "items": [_item(view, part, *item) for item in items[:ITEMS]],
        }
    )


def read_line(pixels: np.ndarray) -> tuple[str, float]:
    """Text and score 0..1 of one line of text, HxWx3 uint8 BGR; the input is as wide as the line and no wider."""
    import cv2
    from rapidocr.ch_ppocr_rec import TextRecInput

    height, width = pixels.shape[:2]
    if min(height, width) < LEGIBLE:
        return "", 0.0
    input_width = max(LINE_MIN, math.ceil(LINE_HEIGHT * width / height))
    if input_width > LINE_MAX:  # the recogniser would follow the aspect of a thin strip into minutes of work
        input_width = LINE_MAX
        pixels = cv2.resize(pixels, (LINE_MAX, LINE_HEIGHT), interpolation=cv2.INTER_AREA)
    with _LOCK:
        recogniser = engine().text_rec
        recogniser.rec_image_shape = [3, LINE_HEIGHT, input_width]
        read = recogniser(TextRecInput(img=[pixels]))
    return read.txts[0].strip(), float(read.scores[0])


Quad = tuple[float, float, float, float]


def read_block(pixels: np.ndarray) -> list[tuple[str, Quad, float]]:
    """Lines found in HxWx3 uint8 BGR: (text, x0 y0 x1 y1 in its pixels, score), in reading order."""
    import cv2

    height, width = pixels.shape[:2]
    if min(height, width) < LEGIBLE:
        return []
    below, beside = max(0, width // THINNEST - height), max(0, height // THINNEST - width)
    pixels = cv2.copyMakeBorder(pixels, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    scale = min(ENLARGE, max(1.0, SHORT_SIDE / min(height, width)), max(1.0, LONGEST / max(height, width)))
    if scale > 1:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    with _LOCK:
        reader = engine()
        reader.text_rec.rec_image_shape = [3, LINE_HEIGHT, 320]
        read = reader(pixels, use_det=True, use_cls=False, use_rec=True)
    if read.txts is None or read.boxes is None:
        return []
    found = []
    for text, quad, score in zip(read.txts, read.boxes, read.scores, strict=True):
        if text.strip() and score >= SURE:
            low, high = np.min(quad, 0) / scale, np.max(quad, 0) / scale
            found.append((text.strip(), (float(low[0]), float(low[1]), float(high[0]), float(high[1])), float(score)))
    return reading_order(found)


def reading_order(items: list[tuple[str, Quad, float]]) -> list[tuple[str, Quad, float]]:
    """Rows from top to bottom (a row: centres within half a line of its first item), left to right inside a row."""
    rows: list[list[tuple[str, Quad, float]]] = []
    for item in sorted(items, key=lambda i: (i[1][1] + i[1][3], i[1][0])):
        _, box, _ = item
        first = rows[-1][0][1] if rows else None
        near = first is not None and abs((box[1] + box[3]) - (first[1] + first[3])) < min(
            box[3] - box[1], first[3] - first[1]
        )
        if near:
            rows[-1].append(item)
        else:
            rows.append([item])
    return [item for row in rows for item in sorted(row, key=lambda i: i[1][0])]


def _item(view: View, part: View, text: str, box: Quad, score: float) -> dict[str, Any]:
    left, top = part.rect[0], part.rect[1]
    x0, y0, x1, y1 = box
    inside = view.box_of(left + x0, top + y0, left + x1, top + y1)
    return {"text": text, "box": list(inside), "conf": round(score * 1000)}
