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
UPRIGHT = 0.8  # mean score by character; upright text is read at 0.9 and more, turned by 180 degrees at 0.7
TALL = 1.5  # height over width of a line that stands on end
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
        "Global.text_score": 0.0,  # unsure readings tell that a picture is turned
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

    return f"ocr-rapidocr@2#{version('rapidocr')}-ppocrv6s"


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
    """Text and score 0..1 of one line of text, HxWx3 uint8 BGR; a line on end, or hardly read, is turned."""
    import cv2

    height, width = pixels.shape[:2]
    if min(height, width) < LEGIBLE:
        return "", 0.0
    if height > TALL * width:
        ways = (pixels, cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE), cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE))
        return max((_recognised(way) for way in ways), key=lambda read: read[1])
    read = _recognised(pixels)
    if read[0] and read[1] >= UPRIGHT:
        return read
    return max(read, _recognised(cv2.rotate(pixels, cv2.ROTATE_180)), key=lambda other: other[1])


def _recognised(pixels: np.ndarray) -> tuple[str, float]:
    """What the recogniser says of one upright line; its input is as wide as the line and no wider."""
    import cv2
    from rapidocr.ch_ppocr_rec import TextRecInput

    height, width = pixels.shape[:2]
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
Item = tuple[str, Quad, float]


def read_block(pixels: np.ndarray) -> list[Item]:
    """Lines found in HxWx3 uint8 BGR: (text, x0 y0 x1 y1 in its pixels, score), in reading order.

    Where most lines stand on end, or are hardly read, the picture is turned and read once more; upright text costs nothing.
    """
    import cv2

    items = _lines(pixels)
    turn = _turn(items)
    if turn is not None:
        turned = _lines(cv2.rotate(pixels, turn))
        if _worth(turned) >= _worth(items):
            height, width = pixels.shape[:2]
            kept = [i for i in turned if i[2] >= SURE]
            return [(text, _back(box, turn, width, height), score) for text, box, score in reading_order(kept)]
    return reading_order([item for item in items if item[2] >= SURE])


def _turn(items: list[Item]) -> int | None:
    """How a picture must be turned (cv2.ROTATE_*) for these lines to be upright, None if they are.

    The reader itself turns lines on end anticlockwise: what it then reads well is turned so as a whole, for the order.
    """
    import cv2

    long = [(box, len(text), score) for text, box, score in items if len(text) > 1]
    count = sum(n for _, n, _ in long)
    if not count:
        return None
    well = sum(n * score for _, n, score in long) / count >= UPRIGHT
    tall = 2 * sum(n for (x0, y0, x1, y1), n, _ in long if y1 - y0 > TALL * (x1 - x0)) > count
    if tall:
        return int(cv2.ROTATE_90_COUNTERCLOCKWISE if well else cv2.ROTATE_90_CLOCKWISE)
    return None if well else int(cv2.ROTATE_180)


def _worth(items: list[Item]) -> float:
    return sum(len(text) * score for text, _, score in items)


def _back(box: Quad, turn: int, width: int, height: int) -> Quad:
    """A box of a turned picture in the pixels of the picture itself, which is `width` by `height`."""
    import cv2

    x0, y0, x1, y1 = box
    if turn == cv2.ROTATE_180:
        return width - x1, height - y1, width - x0, height - y0
    if turn == cv2.ROTATE_90_CLOCKWISE:
        return y0, height - x1, y1, height - x0
    return width - y1, x0, width - y0, x1


def _lines(pixels: np.ndarray) -> list[Item]:
    """All lines the engine finds, sure or not, in its order."""
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
        if text.strip():
            low, high = np.min(quad, 0) / scale, np.max(quad, 0) / scale
            found.append((text.strip(), (float(low[0]), float(low[1]), float(high[0]), float(high[1])), float(score)))
    return found


def reading_order(items: list[Item]) -> list[Item]:
    """Rows from top to bottom (a row: centres within half a line of its first item), left to right inside a row."""
    rows: list[list[Item]] = []
    for item in sorted(items, key=lambda i: (i[1][1] + i[1][3], i[1][0])):
        _, box, _ = item
        first = rows[-1][0][1] if rows else None
        near = first is not None and abs((box[1] + box[3]) - (first[1] + first[3])) < min(box[3] - box[1], first[3] - first[1])
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
