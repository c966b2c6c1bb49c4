"""The tools against references marked by eye on real media: prints a table, writes bench/results/tools.json.

Usage: python bench/tools.py [MEDIA_FOLDER]   (default ../shared/data/media beside the repository)
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.frame import View
from pixelis.tools.handle import Mask, Track, Workspace
from pixelis.tools.measure import box_iou, cer, mask_iou
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox

ROOT = Path(__file__).resolve().parent
MEDIA = ROOT.parent.parent / "shared" / "data" / "media"


def reference(name: str) -> dict[str, Any]:
    """One committed reference."""
    return json.loads((ROOT / "reference" / f"{name}.json").read_text())


def opened(media: Path, name: str) -> tuple[Toolbox, Workspace]:
    """A fresh toolbox and a workspace on one file."""
    store = MediaStore(cache_bytes=512 << 20)
    return Toolbox(store, deadline=120), Workspace(store, store.add_file(media / name))


def call(toolbox: Toolbox, workspace: Workspace, op: str, **arguments: Any) -> ToolResult:
    """Runs one call."""
    return toolbox.run(workspace, ToolCall(op, arguments))


def ocr_english(media: Path) -> dict[str, float]:
    """Character error rate of the whole picture, lines joined by newlines; bar 0.05."""
    gold = "\n".join(reference("english")["lines"])
    result = call(*opened(media, "english.png"), "OCR", on="img0")
    return {"cer": cer(str(result.data.get("text", "")), gold)}


def zoom_sign(media: Path) -> dict[str, float]:
    """Character error rate of each sign: read through ZOOM, and in the whole picture shrunk to 640 px (0 = read)."""
    gold = reference("sign")
    toolbox, workspace = opened(media, gold["media"])
    view = workspace.get("img0").view
    far = shrunk(toolbox, workspace, gold["shrunk_width"])
    found: dict[str, float] = {}
    for number, sign in enumerate(gold["signs"]):
        box = view.box_of(*sign["box"])
        zoom = call(toolbox, workspace, "ZOOM", on="img0", box=list(box))
        near = call(toolbox, workspace, "OCR", on=str(zoom.ref))
        there = [i["text"] for i in far.data.get("items", []) if box_iou(i["box"], box) > 0.1]
        found[f"sign{number}_zoomed_cer"] = best_cer([i["text"] for i in near.data.get("items", [])], sign["text"])
        found[f"sign{number}_shrunk_cer"] = best_cer(there, sign["text"])
    return found


def best_cer(texts: list[str], gold: str) -> float:
    """The lowest character error rate of several readings, at most 1."""
    return min([cer(text, gold) for text in texts] + [1.0])


def shrunk(toolbox: Toolbox, workspace: Workspace, width: int) -> ToolResult:
    """OCR of the whole picture at another width."""
    pixels = toolbox.store.pixels(workspace.get("img0").view)
    height = round(width * pixels.shape[0] / pixels.shape[1])
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    sha = toolbox.store.put(cv2.imencode(".png", small[:, :, ::-1])[1].tobytes())
    return call(toolbox, Workspace(toolbox.store, sha), "OCR", on="img0")


def seg_truck(media: Path) -> dict[str, float]:
    """IoU with the polygon from the marked box, and the worst IoU when its edges move by up to 1 % of the picture."""
    gold = reference("truck")
    toolbox, workspace = opened(media, gold["media"])
    view = workspace.get("img0").view
    truth = np.zeros((view.height, view.width), np.uint8)
    cv2.fillPoly(truth, [np.array(gold["polygon"], np.int32)], 1)
    box = view.box_of(*gold["box"])
    rng = np.random.default_rng(0)
    shifts = [np.zeros(4, int), *rng.integers(-10, 11, (8, 4))]
    values = []
    for shift in shifts:
        moved = [int(v) for v in np.clip(np.array(box) + shift, 0, 1000)]
        result = call(toolbox, workspace, "SEG", on="img0", box=moved)
        mask = workspace.get(str(result.ref)).payload
        assert isinstance(mask, Mask)
        values.append(mask_iou(mask.array(), truth > 0))
    return {
        "iou": values[0],
        "iou_worst_of_8_shifted": min(values[1:]),
        "iou_mean_of_8_shifted": float(np.mean(values[1:])),
    }


def trk_cups(media: Path) -> dict[str, float]:
    """Mean IoU at frames 15, 30, 45, 60 (the start is given) of each cup; the bar is on one of them."""
    gold = reference("cups")
    found: dict[str, float] = {}
    for cup, boxes in gold["tracks"].items():
        toolbox, workspace = opened(media, gold["media"])
        view = workspace.get("img0").view
        frames = toolbox.store.info(view.source).frames
        last = -(-60 * 1000 // frames)
        start = list(view.box_of(*boxes["0"]))
        result = call(toolbox, workspace, "TRK", on="img0", box=start, t0=0, t1=last)
        track = workspace.get(str(result.ref)).payload
        assert isinstance(track, Track)
        at = {s.frame: s.box for s in track.spots}
        found[cup] = float(np.mean([box_iou(at[int(n)], boxes[n]) for n in boxes if n != "0"]))
        found[f"{cup}_ms_per_frame"] = result.ms / len(track.spots)
    return found


def speed(media: Path) -> dict[str, float]:
    """Median milliseconds per call on a 448x448 part of cars.jpg, decoded, without the memo."""
    store = MediaStore()
    cars = store.pixels(View(store.add_file(media / "cars.jpg"), (400, 700, 848, 1148)))
    workspace = Workspace(store, store.put(cv2.imencode(".jpg", cars[:, :, ::-1])[1].tobytes()))
    toolbox = Toolbox(store, max_calls=1000, memo_count=0)
    plate = list(workspace.get("img0").view.box_of(116, 188, 302, 244))
    calls: dict[str, Callable[[], ToolResult]] = {
        "zoom": lambda: call(toolbox, workspace, "ZOOM", on="img0", box=plate),
        "seg_point": lambda: call(toolbox, workspace, "SEG", on="img0", point=[300, 100]),
        "seg_box": lambda: call(toolbox, workspace, "SEG", on="img0", box=plate),
        "ocr_line": lambda: call(toolbox, workspace, "OCR", on="img0", box=plate, level="line"),
        "prop_color": lambda: call(toolbox, workspace, "PROP", of="img0", keys=["color"]),
    }
    return {f"{name}_ms": _median(run) for name, run in calls.items()}


def _median(run: Callable[[], ToolResult]) -> float:
    run()
    times = []
    for _ in range(15):
        start = time.process_time()
        run()
        times.append((time.process_time() - start) * 1000)
    return float(np.median(times))


def main() -> None:
    """Runs all of it."""
    cv2.setNumThreads(1)
    media = Path(sys.argv[1]) if len(sys.argv) > 1 else MEDIA
    if not media.is_dir():
        raise SystemExit(f"no media in {media}: name the folder")
    parts = {
        "ocr_english": ocr_english,
        "zoom_sign": zoom_sign,
        "seg_truck": seg_truck,
        "trk_cups": trk_cups,
        "speed": speed,
    }
    figures = {name: part(media) for name, part in parts.items()}
    for name, values in figures.items():
        for key, value in values.items():
            print(f"{name:12} {key:26} {value:8.3f}")
    out = ROOT / "results" / "tools.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
