"""OCR with EasyOCR's networks: CRAFT finds lines, a CRNN reads them."""

import math
import pickle
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pixelis.tools.call import OcrArgs, ToolFailure
from pixelis.tools.device import Device, each, file_hash, finite, in_time, only
from pixelis.tools.frame import View
from pixelis.tools.handle import Workspace
from pixelis.tools.ocr import LEGIBLE, SURE, Quad, block, line, reading_order
from pixelis.tools.tool import Outcome
from pixelis.tools.zoom import still

DETECTOR, RECOGNISER = "craft_mlt_25k.pth", "english_g2.pth"
HEIGHT = 64  # the recogniser's input height
WIDEST = 40 * HEIGHT  # its longest input: a thin strip would become minutes of work
CANVAS = 2560  # CRAFT looks at pictures with a longer side at this size
TEXT, LINK, LOW = 0.7, 0.4, 0.4  # EasyOCR's thresholds for the score maps of characters and of the gaps between them
SMALLEST = 20  # pixels; a line that is nowhere longer is noise
FAINT, CONTRAST = 0.1, 0.5  # readings below this score are tried again with at least this contrast
TOGETHER = 32  # most lines read at once

Strip = tuple[Any, int]
"""A line ready to be read: its grey picture, 64 pixels high, and the input width it is padded to."""


class EasyOcr:
    """Reads English; raises tool no_text when nothing can be read with a score of at least 0.5.

    `detector` is easyocr's CRAFT, `recogniser` the Model of its second generation; `label` names their weights.
    """

    def __init__(self, detector: Any, recogniser: Any, label: str, device: str = "cpu") -> None:
        from easyocr.utils import CTCLabelConverter

        self.device = Device(device)
        self.detector = detector.to(device).eval()
        self.recogniser = recogniser.to(device).eval()
        self.converter = CTCLabelConverter(characters())
        self.id = f"ocr-easyocr@1#{label}{self.device.precision}"

    @staticmethod
    def load(folder: Path, device: str = "cpu") -> "EasyOcr":
        """The networks of craft_mlt_25k.pth and english_g2.pth; raises ValueError with one line for other content."""
        detector, recogniser = networks()
        for network, name in ((detector, DETECTOR), (recogniser, RECOGNISER)):
            _fill(network, folder / name)
        hashes = f"craft-{file_hash(folder / DETECTOR)}-english_g2-{file_hash(folder / RECOGNISER)}"
        return EasyOcr(detector, recogniser, f"easyocr-{version('easyocr')}-{hashes}", device)

    def run(self, workspace: Workspace, args: OcrArgs, until: float) -> Outcome:
        """level line: {"text"}; level block: {"text" (lines joined by newlines), "items" [{text, box, conf}]}."""
        return only(self.batch([(workspace, args)], until))

    def batch(self, asked: Sequence[tuple[Workspace, OcrArgs]], until: float) -> list[Outcome | ToolFailure]:
        """Lines are looked for picture by picture; those of all questions are read together."""
        with self.device.turn(until):
            questions = each(lambda one: self._question(*one, until), asked)
            strips = [strip for q in questions if isinstance(q, _Question) for _, strip in q.lines]
            read = iter(self._read(strips, until))
        return each(lambda q: _answer(q, read), questions)

    def _question(self, workspace: Workspace, args: OcrArgs, until: float) -> "_Question":
        view = still(workspace, args.on).view
        part = view if args.box is None else view.crop(args.box)
        pixels = workspace.store.pixels(part)
        if min(pixels.shape[:2]) < LEGIBLE:
            return _Question(view, part, args.level, [])
        if args.level == "line":
            return _Question(view, part, args.level, _strips([[0, pixels.shape[1], 0, pixels.shape[0]]], [], pixels))
        in_time(until, "EasyOCR had lines left to look for")
        return _Question(view, part, args.level, _strips(*self._lines(pixels), pixels))

    def _lines(self, pixels: np.ndarray) -> tuple[list[Any], list[Any]]:
        """Level boxes [x0, x1, y0, y1] and slanted ones [4 corners] of HxWx3 RGB: what Reader.detect gives."""
        import cv2
        import torch
        from easyocr.craft_utils import adjustResultCoordinates, getDetBoxes
        from easyocr.imgproc import normalizeMeanVariance, resize_aspect_ratio
        from easyocr.utils import diff, group_text_box

        longest, shortest = max(pixels.shape[:2]), min(pixels.shape[:2])
        if longest > CANVAS and shortest * CANVAS < longest:
            return [], []  # less than a pixel would be left of it
        resized, ratio, _ = resize_aspect_ratio(pixels, CANVAS, interpolation=cv2.INTER_LINEAR, mag_ratio=1.0)
        picture = torch.from_numpy(normalizeMeanVariance(resized).transpose(2, 0, 1)[None].copy())
        maps, _ = self.detector(picture.to(self.device.name))
        scores = finite(maps[0].float(), "CRAFT's score map").cpu().numpy()
        found, _, _ = getDetBoxes(scores[:, :, 0], scores[:, :, 1], TEXT, LINK, LOW, False)
        corners = [np.array(quad).astype(np.int32).ravel() for quad in adjustResultCoordinates(found, 1 / ratio, 1 / ratio)]
        if not corners:
            return [], []
        level, slanted = group_text_box(corners, 0.1, 0.5, 0.5, 0.5, 0.1, True)  # Reader.detect's defaults
        level = [box for box in level if max(box[1] - box[0], box[3] - box[2]) > SMALLEST]
        slanted = [quad for quad in slanted if max(diff([c[0] for c in quad]), diff([c[1] for c in quad])) > SMALLEST]
        return level, slanted

    def _read(self, strips: list[Strip], until: float) -> list[tuple[str, float] | ToolFailure]:
        """Text and score 0..1 of each; what is faint is read again with more contrast, as EasyOCR does."""
        first = self._pass(list(enumerate(strips)), 0.0, until)
        faint = [i for i, one in first.items() if not isinstance(one, ToolFailure) and one[1] < FAINT]
        for i, again in self._pass([(i, strips[i]) for i in faint], CONTRAST, until).items():
            first[i] = _better(first[i], again)
        return [first[i] for i in range(len(strips))]

    def _pass(
        self, strips: list[tuple[int, Strip]], contrast: float, until: float
    ) -> dict[int, tuple[str, float] | ToolFailure]:
        """Strips of one width together: the recogniser reads along the whole input, so padding would change the text."""
        by_width: dict[int, list[tuple[int, Any]]] = defaultdict(list)
        for i, (picture, width) in strips:
            by_width[width].append((i, picture))
        found: dict[int, tuple[str, float] | ToolFailure] = {}
        for width, some in by_width.items():
            for start in range(0, len(some), TOGETHER):
                in_time(until, f"EasyOCR had read {len(found)} of {len(strips)} lines")
                places, pictures = zip(*some[start : start + TOGETHER], strict=True)
                found |= dict(zip(places, self._texts(pictures, width, contrast), strict=True))
        return found

    def _texts(self, pictures: Iterable[np.ndarray], width: int, contrast: float) -> list[tuple[str, float] | ToolFailure]:
        import torch
        from easyocr.recognition import AlignCollate, adjust_contrast_grey
        from PIL import Image

        if contrast:
            pictures = [adjust_contrast_grey(picture, target=contrast) for picture in pictures]
        collate = AlignCollate(imgH=HEIGHT, imgW=width, keep_ratio_with_pad=True)
        inputs = collate([Image.fromarray(picture) for picture in pictures]).to(self.device.name)
        blank = torch.zeros(len(inputs), width // 10 + 1, dtype=torch.long, device=inputs.device)  # for attention models
        return each(self._text, torch.softmax(self.recogniser(inputs, blank).float(), dim=2).cpu().numpy())

    def _text(self, shares: np.ndarray) -> tuple[str, float]:
        """Text and score of TxC character probabilities; class 0 is the blank between characters."""
        from easyocr.recognition import custom_mean

        finite(shares, "the CRNN's answer")
        picked = shares.argmax(axis=1)
        (text,) = self.converter.decode_greedy(picked, [len(picked)])
        sure = shares.max(axis=1)[picked != 0]
        return text.strip(), float(custom_mean(sure)) if sure.size else 0.0


@dataclass(frozen=True, slots=True)
class _Question:
    """The lines of one question: each a box in pixels of `part` and the strip to read."""

    view: View
    part: View
    level: str
    lines: list[tuple[Quad, Strip]]


def networks() -> tuple[Any, Any]:
    """CRAFT and the English recogniser of EasyOCR's second generation, untrained."""
    from easyocr.craft import CRAFT
    from easyocr.model.vgg_model import Model

    return CRAFT(), Model(input_channel=1, output_channel=256, hidden_size=256, num_class=len(characters()) + 1)


def characters() -> str:
    """What the recogniser can read, in the order of its classes 1, 2, ..."""
    from easyocr.config import recognition_models

    return str(recognition_models["gen2"]["english_g2"]["characters"])


def _fill(network: Any, path: Path) -> None:
    """Weights into a network; EasyOCR's files name tensors after the wrapper they were trained in."""
    import torch

    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in weights.items()})
    except (AttributeError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        told = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: not EasyOCR's {path.name}: {told}") from error


def _answer(question: _Question | ToolFailure, read: Iterator[tuple[str, float] | ToolFailure]) -> Outcome:
    """The outcome of a question whose lines are the next ones of `read`; raises its failure."""
    if isinstance(question, ToolFailure):
        raise question
    texts = [next(read) for _ in question.lines]
    items = []
    for (quad, _), one in zip(question.lines, texts, strict=True):
        if isinstance(one, ToolFailure):
            raise one
        items.append((one[0], quad, one[1]))
    if question.level == "line":
        return line(*((items[0][0], items[0][2]) if items else ("", 0.0)))
    return block(question.view, question.part, reading_order([item for item in items if item[0] and item[2] >= SURE]))


def _better(one: tuple[str, float] | ToolFailure, other: tuple[str, float] | ToolFailure) -> tuple[str, float] | ToolFailure:
    """The surer reading; a failure stands."""
    if isinstance(one, ToolFailure) or isinstance(other, ToolFailure):
        return one if isinstance(one, ToolFailure) else other
    return one if one[1] > other[1] else other


def _strips(level: list[Any], slanted: list[Any], pixels: np.ndarray) -> list[tuple[Quad, Strip]]:
    """Boxes of HxWx3 RGB cut out, each resized as EasyOCR's Reader does it without a GPU: by itself."""
    import cv2
    from easyocr.utils import get_image_list

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    strips = []
    for boxes, quads in [*(([box], []) for box in level), *(([], [quad]) for quad in slanted)]:
        quad = _bounds(boxes, quads, width, height)
        if min(quad[2] - quad[0], quad[3] - quad[1]) < LEGIBLE:  # EasyOCR divides by what is left
            continue
        ((_, picture),), widest = get_image_list(boxes, quads, grey, model_height=HEIGHT)
        strips.append((quad, (picture, min(WIDEST, math.ceil(widest)))))
    return strips


def _bounds(boxes: list[Any], quads: list[Any], width: int, height: int) -> Quad:
    """x0, y0, x1, y1 of one box or quad, inside the picture."""
    across = [v for box in boxes for v in box[:2]] + [x for quad in quads for x, _ in quad]
    down = [v for box in boxes for v in box[2:4]] + [y for quad in quads for _, y in quad]
    x0, y0 = max(0.0, float(min(across))), max(0.0, float(min(down)))
    return x0, y0, min(float(width), float(max(across))), min(float(height), float(max(down)))
