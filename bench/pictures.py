"""The pictures of docs/tools.md: every tool on real photos and clips, what it found drawn into them.

Usage: python bench/pictures.py [MEDIA_FOLDER]   (default ../shared/data/media beside the repository)
"""

import sys
from pathlib import Path
from typing import Any

import cv2
import real
from real import Opened

from pixelis.tools.call import ToolCall
from pixelis.tools.draw import overlay

FOLDER = real.ROOT.parent / "docs" / "img"
PHOTO, SHEET = 900, 640  # `side` of the overlay of a photo and of a clip
QUALITY = 80
Step = tuple[str, dict[str, Any]]

STEPS: dict[str, tuple[str, list[Step]]] = {
    "seg": (
        "truck.jpg",
        [
            ("SEG", {"on": "img0", "box": [44, 229, 953, 717]}),
            ("SEG", {"on": "img0", "point": [418, 306]}),
        ],
    ),
    "zoom": (
        "example.png",
        [
            ("ZOOM", {"on": "img0", "box": [864, 163, 968, 236]}),
            ("OCR", {"on": "img1"}),
        ],
    ),
    "ocr": ("english.png", [("OCR", {"on": "img0"})]),
    "trk": ("dog.mp4", [("TRK", {"on": "img0", "box": [359, 522, 544, 758], "t0": 0})]),
    "found-again": ("cups.mp4", [("TRK", {"on": "img0", "box": [284, 593, 344, 697], "t0": 0})]),
    "temp": ("reel", [("TEMP", {"on": "img0", "query": "change"})]),
    "prop": (
        "cups.mp4",
        [
            ("TEMP", {"on": "img0", "window": [5, 5]}),
            ("SEG", {"on": "f1", "point": [313, 642]}),
            ("SEG", {"on": "f1", "point": [716, 520]}),
            ("PROP", {"of": "m1", "keys": ["color", "area", "circularity", "distance"], "to": "m2"}),
        ],
    ),
}


def main() -> None:
    """Draws all of them."""
    cv2.setNumThreads(1)
    media = Path(sys.argv[1]) if len(sys.argv) > 1 else real.MEDIA
    FOLDER.mkdir(exist_ok=True)
    for name, (source, steps) in STEPS.items():
        opened = Opened(real.reel(media, real.FADE)[0] if source == "reel" else media / source)
        said = [(ToolCall(op, arguments), opened(op, **arguments)) for op, arguments in steps]
        for call, result in said:
            if not result.ok:
                raise SystemExit(f"{name}: {call.name} failed: {result.failure}")
        path, side = FOLDER / f"{name}.jpg", SHEET if name in ("trk", "found-again", "temp") else PHOTO
        handles = list(opened.workspace.handles.values())
        overlay(opened.store, handles, side, said).convert("RGB").save(path, quality=QUALITY)
        print(path.name, path.stat().st_size, [result.data for _, result in said])


if __name__ == "__main__":
    main()
