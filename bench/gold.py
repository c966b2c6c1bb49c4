"""The tools on PixelWorld, against the scenes' own gold evidence; no policy is asked."""

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np
from real import Opened, Row, median

from pixelis.actors.clip import FRAMES
from pixelis.actors.scene import Item, Scene, blank_point, exact_box, grid_box, paint
from pixelis.actors.tally import BLANK
from pixelis.actors.world import make_scene
from pixelis.tools.frame import edge_time
from pixelis.tools.handle import Track
from pixelis.tools.measure import cer, hota, mask_iou, success, t_iou

SCENES = 100  # of each family, held-out split


def rows() -> Iterator[Row]:
    """All figures, family by family."""
    yield from code_rows()
    yield from tally_rows()
    yield from clip_rows()


def code_rows() -> Iterator[Row]:
    """SEG of a plate and a shape, OCR of the plate, as one line and as a block."""
    point, box, line, block = (Figure() for _ in range(4))
    for index in range(SCENES):
        scene = make_scene("code", "heldout", index)
        opened = Opened(scene.media)
        plate = scene.frames[0][0]
        for item in [plate, *[i for i in scene.frames[0] if i.kind != "plate"][:1]]:
            truth = painted(item, scene)
            point.add(overlap(opened, truth, point=list(point_on(scene, item))), opened)
            box.add(overlap(opened, truth, box=list(exact_box(item.box, scene.size))), opened)
        part = list(grid_box(plate.box, scene.size))
        line.add(cer(str(opened("OCR", on="img0", box=part, level="line").data.get("text", "")), str(plate.text)), opened)
        block.add(cer(str(opened("OCR", on="img0", box=part).data.get("text", "")), str(plate.text)), opened)
    yield point.row("SEG", "point on plates and shapes: mean IoU")
    yield box.row("SEG", "box of plates and shapes: mean IoU")
    yield line.row("OCR", "plate as a line: mean CER")
    yield block.row("OCR", "plate as a block: mean CER")


def tally_rows() -> Iterator[Row]:
    """SEG of dotted plates from a point and PROP of what it found."""
    seg, spots, color = (Figure() for _ in range(3))
    for index in range(SCENES):
        scene = make_scene("tally", "heldout", index)
        opened = Opened(scene.media)
        for plate in scene.frames[0][:2]:
            at = plate.box[0] + BLANK / 2, (plate.box[1] + plate.box[3]) / 2
            point = [round(v * 1000 / size) for v, size in zip(at, scene.size, strict=True)]
            seg.add(overlap(opened, painted(plate, scene), point=point), opened)
            mask = [name for name in opened.workspace.handles if name.startswith("m")][-1]
            spots.add(opened("PROP", of=mask, keys=["spots"]).data["spots"] == plate.dots, opened)
            color.add(opened("PROP", of=mask, keys=["color"]).data["color"] == plate.color, opened)
    yield seg.row("SEG", "point on dotted plates: mean IoU")
    yield spots.row("PROP", "spots of the mask: right")
    yield color.row("PROP", "colour of the mask: right")


def clip_rows() -> Iterator[Row]:
    """TEMP's windows between changes of anything; TRK of plate and lamp while their looks change."""
    window, track, right = (Figure() for _ in range(3))
    for index in range(SCENES):
        scene = make_scene("clip", "heldout", index)
        opened = Opened(scene.media)
        found = opened("TEMP", on="img0", query="change").data.get("windows", [])
        for span in spans(scene):
            window.add(max([t_iou(tuple(w), span) for w in found] or [0.0]), opened)
        for place in (0, 1):
            gold = [items[place].box for items in scene.frames]
            result = opened("TRK", on="img0", box=list(exact_box(gold[0], scene.size)), t0=0)
            payload = opened.workspace.get(result.ref).payload if result.ref else None
            boxes = [s.box if s.visible else None for s in payload.spots] if isinstance(payload, Track) else [None] * FRAMES
            track.add(hota(boxes[1:], gold[1:]), opened)
            right.add(success(boxes[1:], gold[1:]), opened)
    yield window.row("TEMP", "windows between changes: mean tIoU")
    yield track.row("TRK", "plate and lamp, 16 frames: mean HOTA")
    yield right.row("TRK", "plate and lamp, 16 frames: mean success")


class Figure:
    """Values that become one row, with the time of the call before each."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.ms: list[float] = []

    def add(self, value: float, opened: Opened) -> None:
        """One more."""
        self.values.append(float(value))
        self.ms.append(opened.ms[-1])

    def row(self, tool: str, measure: str) -> Row:
        """Their mean."""
        return Row(tool, "PixelWorld", measure, float(np.mean(self.values)), len(self.values), median(self.ms))


def overlap(opened: Opened, truth: np.ndarray, **prompt: list[int]) -> float:
    """IoU of SEG's mask with the true one, 0 without a mask."""
    mask = opened.mask(opened("SEG", on="img0", **prompt))
    return 0.0 if mask is None else mask_iou(mask, truth)


def painted(item: Item, scene: Scene) -> np.ndarray:
    """The true mask of an item: painted white on black by the code that painted the scene."""
    blank = np.zeros((scene.size[1], scene.size[0], 3), np.uint8)
    paint(blank, Item(item.kind, item.color, None, item.box), 0)
    return np.asarray(cv2.cvtColor(blank, cv2.COLOR_RGB2GRAY) > 0)


def point_on(scene: Scene, item: Item) -> tuple[int, int]:
    """Where one clicks: beside the text of a plate, the middle of a shape."""
    if item.kind == "plate":
        return blank_point(scene, item)
    x0, y0, x1, y1 = item.box
    return round((x0 + x1) * 500 / scene.size[0]), round((y0 + 2 * y1) * 1000 / 3 / scene.size[1])


def spans(scene: Scene) -> list[tuple[int, int]]:
    """Windows 0..1000 in which nothing changes its colour or text."""
    looks = [[(i.color, i.text) for i in items] for items in scene.frames]
    cuts = [0, *[k for k in range(1, len(looks)) if looks[k] != looks[k - 1]], len(looks)]
    return [(edge_time(a, len(looks)), edge_time(b, len(looks))) for a, b in pairwise(cuts)]
