"""The tools on real photos and clips, against references marked by eye (bench/reference/)."""

import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.frame import Rect, View, edge_time
from pixelis.tools.handle import Mask, Track, Workspace
from pixelis.tools.measure import box_iou, cer, found_again, hota, mask_iou, success, t_iou
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox

ROOT = Path(__file__).resolve().parent
REFERENCE = ROOT / "reference"
MEDIA = ROOT.parent.parent / "shared" / "data" / "media"
SHIFTS = 4  # boxes moved at random for each thing
SHIFT = 10  # per mille of the picture by which an edge of a box is moved at most
REEL = (("dog.mp4", 0, 60), ("cups.mp4", 100, 160), ("juggle.mp4", 30, 90), ("dog.mp4", 170, 230))  # shots of a reel
STEP, SIZE = 2, (640, 360)  # every second frame of a shot, at this size
FADE = 10  # frames of a dissolve


@dataclass(frozen=True)
class Row:
    """One figure of the table; `ms` is CPU time a call."""

    tool: str
    on: str
    measure: str
    value: float
    n: int
    ms: float | None = None
    bar: str = ""


class Opened:
    """A fresh toolbox and a workspace on one medium; the calls' CPU times add up."""

    def __init__(self, media: Path | bytes):
        self.store = MediaStore(cache_bytes=512 << 20)
        self.toolbox = Toolbox(self.store, deadline=300, max_calls=10000)
        sha = self.store.put(media) if isinstance(media, bytes) else self.store.add_file(media)
        self.workspace = Workspace(self.store, sha)
        self.ms: list[float] = []

    def __call__(self, op: str, **arguments: Any) -> ToolResult:
        start = time.process_time()
        result = self.toolbox.run(self.workspace, ToolCall(op, arguments))
        self.ms.append((time.process_time() - start) * 1000)
        if result.failure is not None and result.failure.cls != "tool":
            raise RuntimeError(f"{op} {arguments}: {result.failure}")
        return result

    def view(self, name: str) -> View:
        """The view of a handle."""
        return self.workspace.get(name).view

    def mask(self, result: ToolResult) -> np.ndarray | None:
        """The HxW mask that a call made, None for a call that failed."""
        payload = self.workspace.get(result.ref).payload if result.ref else None
        return payload.array() if isinstance(payload, Mask) else None

    def show(self, number: int) -> str:
        """The handle of a frame of the clip."""
        frames = self.store.info(self.view("img0").source).frames
        at = -(-number * 1000 // frames)
        ref = self("TEMP", on="img0", window=[at, at]).ref
        assert ref and self.view(ref).frame == number, (ref, number)
        return ref


def reference(name: str) -> dict[str, Any]:
    """One committed reference."""
    return json.loads((REFERENCE / f"{name}.json").read_text())


def rows(media: Path) -> Iterator[Row]:
    """All figures, tool by tool."""
    yield from seg_rows(media)
    yield from trk_rows(media)
    yield from temp_rows(media)
    yield from ocr_rows(media)
    yield prop_row(media)


def median(values: list[float]) -> float:
    """Middle value."""
    return float(np.median(values))


def drawn(polygon: list, shape: tuple[int, int], without: list | None = None) -> np.ndarray:
    """A polygon in source pixels as an HxW mask; corners are rounded."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(np.array(polygon)).astype(np.int32)], 1)
    if without:
        cv2.fillPoly(mask, [np.round(np.array(without)).astype(np.int32)], 0)
    return mask > 0


def seg_things(media: Path) -> dict[str, dict[str, list[float]]]:
    """IoU with the marked mask of each thing, from its points, its box, its box with every edge moved; and CPU times."""
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, list[float]]] = {}
    for thing in reference("masks")["things"]:
        opened = Opened(media / thing["media"])
        on = opened.show(thing["frame"]) if "frame" in thing else "img0"
        view = opened.view(on)
        truth = drawn(thing["polygon"], (view.height, view.width), thing.get("without"))
        box = np.array(view.box_of(*thing["box"]))
        moved = [np.clip(box + shift, 0, 1000) for shift in rng.integers(-SHIFT, SHIFT + 1, (SHIFTS, 4))]
        points = [{"point": [min(1000, round(v)) for v in view.from_source(x + 0.5, y + 0.5)]} for x, y in thing["points"]]
        prompts = {"point": points, "box": [{"box": box.tolist()}], "moved box": [{"box": b.tolist()} for b in moved]}
        found[thing["name"]] = {}
        for kind, asked in prompts.items():
            opened.ms.clear()
            masks = [opened.mask(opened("SEG", on=on, **prompt)) for prompt in asked]
            found[thing["name"]][kind] = [0.0 if m is None else mask_iou(m, truth) for m in masks]
            found[thing["name"]][f"{kind} ms"] = list(opened.ms)
    return found


def seg_rows(media: Path) -> Iterator[Row]:
    """Mean IoU by kind of prompt, and the truck's bar."""
    things = seg_things(media)
    for kind in ("point", "box", "moved box"):
        values = [v for thing in things.values() for v in thing[kind]]
        times = [v for thing in things.values() for v in thing[f"{kind} ms"]]
        yield Row("SEG", "real", f"{kind}: mean IoU", float(np.mean(values)), len(values), median(times))
    truck = seg_truck(media)
    yield Row("SEG", "real", "truck.jpg, box: IoU", truck["iou"], 1, None, ">= 0.85")
    yield Row("SEG", "real", "truck.jpg, box: worst IoU of 8 moved boxes", truck["iou_worst_of_8_shifted"], 8)


def seg_truck(media: Path) -> dict[str, float]:
    """IoU with the polygon from the marked box, and the worst IoU when its edges move by up to 1 % of the picture."""
    gold = reference("truck")
    opened = Opened(media / gold["media"])
    view = opened.view("img0")
    truth = drawn(gold["polygon"], (view.height, view.width))
    rng = np.random.default_rng(0)
    values = []
    for shift in [np.zeros(4, int), *rng.integers(-SHIFT, SHIFT + 1, (8, 4))]:
        moved = np.clip(np.array(view.box_of(*gold["box"])) + shift, 0, 1000).tolist()
        mask = opened.mask(opened("SEG", on="img0", box=moved))
        values.append(0.0 if mask is None else mask_iou(mask, truth))
    return {"iou": values[0], "iou_worst_of_8_shifted": min(values[1:])}


def trk_things(media: Path, *names: str) -> dict[str, dict[str, float]]:
    """HOTA, success, gaps and how many the track was found again after, of each marked thing over its whole clip."""
    figures: dict[str, dict[str, float]] = {}
    for thing in [t for t in reference("tracks")["tracks"] if not names or t["name"] in names]:
        opened = Opened(media / thing["media"])
        first, *marked = thing["boxes"].items()
        gold = [tuple(box) if box else None for _, box in marked]
        at = track(opened, first[1])
        found = [at.get(int(number)) for number, _ in marked]
        back, gaps = found_again(found, gold)
        length = opened.store.info(opened.view("img0").source).frames
        figures[thing["name"]] = {
            "hota": hota(found, gold),
            "success": success(found, gold),
            "back": back,
            "gaps": gaps,
            "marked": len(marked),
            "ms per frame": opened.ms[-1] / length,
        }
    return figures


def track(opened: Opened, box: list[int], **arguments: Any) -> dict[int, Rect]:
    """Frame number -> box where TRK says the thing is in sight; it starts at frame 0."""
    result = opened("TRK", on="img0", box=list(opened.view("img0").box_of(*box)), t0=0, **arguments)
    payload = opened.workspace.get(result.ref).payload if result.ref else None
    return {s.frame: s.box for s in payload.spots if s.visible} if isinstance(payload, Track) else {}


def trk_rows(media: Path) -> Iterator[Row]:
    """Means over the tracks, and the cup's bar."""
    things = trk_things(media)
    values, n = list(things.values()), len(things)
    yield Row("TRK", "real", "full clips: mean HOTA", float(np.mean([v["hota"] for v in values])), n)
    yield Row("TRK", "real", "full clips: mean success", float(np.mean([v["success"] for v in values])), n)
    back, gaps = (sum(v[key] for v in values) for key in ("back", "gaps"))
    yield Row("TRK", "real", "found again after out of sight", back / gaps, int(gaps))
    for name, thing in things.items():
        yield Row("TRK", "real", f"{name}: HOTA", thing["hota"], int(thing["marked"]), thing["ms per frame"])
        yield Row("TRK", "real", f"{name}: success", thing["success"], int(thing["marked"]))
    yield Row("TRK", "real", "right cup, 60 frames: mean IoU", trk_cups(media)["right"], 4, None, ">= 0.6")


def trk_cups(media: Path) -> dict[str, float]:
    """Mean IoU at frames 15, 30, 45, 60 (the start is given) of each cup; the bar is on one of them."""
    gold = reference("cups")
    found: dict[str, float] = {}
    for cup, boxes in gold["tracks"].items():
        opened = Opened(media / gold["media"])
        frames = opened.store.info(opened.view("img0").source).frames
        at = track(opened, boxes["0"], t1=-(-60 * 1000 // frames))
        found[cup] = float(np.mean([box_iou(at[int(n)], boxes[n]) if int(n) in at else 0 for n in boxes if n != "0"]))
    return found


def temp_rows(media: Path) -> Iterator[Row]:
    """Windows of a reel of real shots, cut hard or dissolved into each other; single shots have no change."""
    for name, fade in (("cuts", 0), ("dissolves", FADE)):
        clip, spans = reel(media, fade)
        opened = Opened(clip)
        found = opened("TEMP", on="img0", query="change").data.get("windows", [])
        values = [max([t_iou(tuple(w), span) for w in found] or [0.0]) for span in spans]
        yield Row("TEMP", "real", f"{name} of four shots: tIoU", float(np.mean(values)), len(spans), opened.ms[-1])
    quiet = [Opened(media / n)("TEMP", on="img0", query="change") for n in ("cups.mp4", "dog.mp4", "juggle.mp4")]
    silent = [r.failure is not None and r.failure.code == "no_change" for r in quiet]
    yield Row("TEMP", "real", "single shots rightly without change", float(np.mean(silent)), len(silent))


def reel(media: Path, fade: int) -> tuple[bytes, list[tuple[float, float]]]:
    """Shots one after another as MJPEG, and their windows 0..1000: a dissolve's middle is the border."""
    frames: list[np.ndarray] = []
    borders = [0]
    for name, start, end in REEL:
        opened = Opened(media / name)
        whole = opened.view("img0")
        shot = [opened.store.pixels(View(whole.source, whole.rect, n)) for n in range(start, end, STEP)]
        small = [cv2.resize(p, SIZE, interpolation=cv2.INTER_AREA) for p in shot]
        mixed = fade if frames else 0
        for k in range(mixed):
            share = (k + 1) / (mixed + 1)
            frames[k - mixed] = cv2.addWeighted(frames[k - mixed], 1 - share, small[k], share, 0)
        if mixed:
            borders[-1] -= mixed // 2
        frames += small[mixed:]
        borders.append(len(frames))
    times = [edge_time(b, len(frames)) for b in borders]
    return mjpeg(frames), [(float(a), float(b)) for a, b in pairwise(times)]


def mjpeg(frames: list[np.ndarray]) -> bytes:
    """RGB frames as an AVI."""
    out = io.BytesIO()
    with av.open(out, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=15)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.time_base = "yuvj420p", Fraction(1, 15)
        for number, pixels in enumerate(frames):
            packet = av.Packet(cv2.imencode(".jpg", pixels[:, :, ::-1])[1].tobytes())
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 15), True
            packet.pts = packet.dts = number
            container.mux(packet)
    return out.getvalue()


def ocr_rows(media: Path) -> Iterator[Row]:
    """Character error rates: lines in marked boxes, lines found in whole pictures, a page upright and turned, street signs."""
    lines = reference("texts")["lines"]
    opened = {name: Opened(media / name) for name in dict.fromkeys(line["media"] for line in lines)}
    boxed, found, times = [], [], []
    pages = {name: one("OCR", on="img0").data.get("items", []) for name, one in opened.items()}
    for line in lines:
        one = opened[line["media"]]
        box = one.view("img0").box_of(*line["box"])
        boxed.append(best_cer([str(one("OCR", on="img0", box=list(box), level="line").data.get("text", ""))], line["text"]))
        times.append(one.ms[-1])
        there = [i["text"] for i in pages[line["media"]] if box_iou(i["box"], box) > 0.1]
        found.append(best_cer(there, line["text"]))
    yield Row("OCR", "real", "lines in marked boxes: mean CER", float(np.mean(boxed)), len(lines), median(times))
    yield Row("OCR", "real", "lines found in whole pictures: mean CER", float(np.mean(found)), len(lines))
    yield Row("OCR", "real", "english.png, a page: CER", ocr_english(media)["cer"], 1, None, "<= 0.05")
    for turn in (90, 180, 270):
        yield Row("OCR", "real", f"english.png turned by {turn}: CER", ocr_english(media, turn)["cer"], 1)
    signs = zoom_sign(media)
    near = [v for k, v in signs.items() if "zoomed" in k]
    far = [v for k, v in signs.items() if "shrunk" in k]
    yield Row("ZOOM + OCR", "real", "street signs read through ZOOM: mean CER", float(np.mean(near)), len(near), None, "0")
    yield Row("ZOOM + OCR", "real", "the same in the picture shrunk to 640 px: mean CER", float(np.mean(far)), len(far))


def ocr_english(media: Path, turn: int = 0) -> dict[str, float]:
    """Character error rate of the whole picture turned by 0, 90, 180 or 270 degrees, lines joined by newlines, at most 1."""
    pixels = cv2.imread(str(media / "english.png"))
    assert pixels is not None
    turned = cv2.rotate(pixels, turn // 90 - 1) if turn else pixels
    result = Opened(cv2.imencode(".png", turned)[1].tobytes())("OCR", on="img0")
    return {"cer": min(1.0, cer(str(result.data.get("text", "")), "\n".join(reference("english")["lines"])))}


def zoom_sign(media: Path) -> dict[str, float]:
    """Character error rate of each sign: read through ZOOM, and in the whole picture shrunk to 640 px (0 = read)."""
    gold = reference("sign")
    opened = Opened(media / gold["media"])
    view = opened.view("img0")
    far = shrunk(opened, gold["shrunk_width"])
    found: dict[str, float] = {}
    for number, sign in enumerate(gold["signs"]):
        box = view.box_of(*sign["box"])
        near = opened("OCR", on=str(opened("ZOOM", on="img0", box=list(box)).ref))
        there = [i["text"] for i in far.data.get("items", []) if box_iou(i["box"], box) > 0.1]
        found[f"sign{number}_zoomed_cer"] = best_cer([i["text"] for i in near.data.get("items", [])], sign["text"])
        found[f"sign{number}_shrunk_cer"] = best_cer(there, sign["text"])
    return found


def best_cer(texts: list[str], gold: str) -> float:
    """The lowest character error rate of several readings, white space aside, at most 1."""
    return min([cer("".join(text.split()), "".join(gold.split())) for text in texts] + [1.0])


def shrunk(opened: Opened, width: int) -> ToolResult:
    """OCR of the whole picture at another width."""
    pixels = opened.store.pixels(opened.view("img0"))
    height = round(width * pixels.shape[0] / pixels.shape[1])
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return Opened(cv2.imencode(".png", small[:, :, ::-1])[1].tobytes())("OCR", on="img0")


def prop_row(media: Path) -> Row:
    """Colours named as a person names them, on the marked masks."""
    right, times = [], []
    for thing in [t for t in reference("masks")["things"] if "color" in t]:
        opened = Opened(media / thing["media"])
        view = opened.view(opened.show(thing["frame"]) if "frame" in thing else "img0")
        mask = Mask.of(drawn(thing["polygon"], (view.height, view.width), thing.get("without")))
        name = opened.workspace.new("mask", view, mask).name
        right.append(opened("PROP", of=name, keys=["color"]).data["color"] == thing["color"])
        times.append(opened.ms[-1])
    return Row("PROP", "real", "colour names of marked masks: right", float(np.mean(right)), len(right), median(times))
