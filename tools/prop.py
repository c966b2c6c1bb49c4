"""PROP: properties measured on the pixels that a handle stands for.

Units: area per mille of the view; box, centroid 0..1000 of the view; aspect width/height; orientation of the long axis
in degrees 0..179, anticlockwise from the x axis; perimeter and distance in source pixels; circularity 0..1000 (disc =
1000); brightness 0..1000 (mean CIELAB L*); count of separate parts; spots: how many sharp small marks lie in the region
(see `_spots`); speed in source pixels per second; direction in
degrees 0..359, 0 = right, 90 = up. A track is measured where it was last in sight.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from pixelis.tools.call import PropArgs, ToolFailure
from pixelis.tools.frame import View
from pixelis.tools.handle import Handle, Mask, Spot, Track, Workspace
from pixelis.tools.seg import mask_box
from pixelis.tools.tool import Outcome

SAMPLE = 1024  # pixels that vote for the colour
SPOT = 1 / 6  # widest spot, as a share of the region's shorter side
SHARPEST = 0.6  # of what the strongest spot stands out by: what stands out less is a stain
FAINTEST = 10  # CIELAB L* (0..100) by which a spot at least stands out
COUNTS = ("count", "spots")  # keys whose values are numbers of things
MOTION = ("speed", "direction")
Rgb = tuple[int, int, int]
NAMES: dict[str, tuple[Rgb, ...]] = {
    "red": ((255, 0, 0), (225, 40, 40), (180, 20, 30), (130, 10, 20)),
    "green": ((0, 128, 0), (40, 165, 60), (0, 255, 0), (35, 90, 40), (130, 190, 90)),
    "blue": ((0, 0, 255), (45, 80, 225), (25, 35, 120), (70, 130, 205), (0, 150, 210)),
    "yellow": ((255, 255, 0), (245, 225, 50), (215, 190, 50), (255, 245, 140)),
    "orange": ((255, 140, 0), (245, 135, 25), (225, 110, 30), (255, 170, 80)),
    "purple": ((128, 0, 128), (135, 45, 170), (85, 30, 125), (150, 105, 200)),
    "cyan": ((0, 255, 255), (60, 215, 225), (0, 180, 190), (150, 235, 240)),
    "pink": ((255, 192, 203), (250, 150, 205), (225, 50, 150), (255, 0, 255)),
    "white": ((255, 255, 255), (242, 242, 242)),
    "gray": ((212, 212, 212), (180, 180, 180), (128, 128, 128), (85, 85, 85)),
    "black": ((0, 0, 0), (35, 35, 35)),
    "brown": ((139, 69, 19), (101, 67, 33), (160, 110, 70), (85, 45, 25)),
}


@dataclass(frozen=True)
class Region:
    """What is measured: HxW bool inside a view of one still."""

    view: View
    inside: np.ndarray


class Prop:
    """Measures; raises policy wrong_modality for a key that the handle cannot have."""

    id = "prop-lab@1"

    def run(self, workspace: Workspace, args: PropArgs, until: float) -> Outcome:
        """key -> value, in the order asked for."""
        handle = workspace.get(args.of)
        found: dict[str, Any] = {}
        region = None
        for key in dict.fromkeys(args.keys):
            if key in MOTION:
                found[key] = _motion(workspace, handle)[MOTION.index(key)]
                continue
            region = region or region_of(workspace, handle)
            if key == "distance":
                other = region_of(workspace, workspace.get(str(args.to)))
                found[key] = _distance(region, other)
            else:
                found[key] = _still(workspace, region, key)
        return Outcome(found)


def region_of(workspace: Workspace, handle: Handle) -> Region:
    """The still pixels that a handle stands for; raises policy wrong_modality for clips and windows."""
    view = handle.view
    if handle.kind in ("image", "frame"):
        return Region(view, np.ones((view.height, view.width), bool))
    if isinstance(handle.payload, Mask):
        return Region(view, handle.payload.array())
    if isinstance(handle.payload, Track):
        spot = [s for s in handle.payload.spots if s.visible][-1]
        part = View(view.source, spot.box, spot.frame)
        inside = np.zeros((view.height, view.width), bool)
        left, top = view.rect[0], view.rect[1]
        inside[part.rect[1] - top : part.rect[3] - top, part.rect[0] - left : part.rect[2] - left] = True
        return Region(View(view.source, view.rect, spot.frame), inside)
    raise ToolFailure("policy", "wrong_modality", f"{handle.name} is a {handle.kind}, it has no pixels to measure")


def _still(workspace: Workspace, region: Region, key: str) -> Any:
    if key == "area":
        return round(1000 * float(region.inside.mean()))
    if key == "box":
        return list(mask_box(region.view, region.inside))
    if key == "centroid":
        return [round(v) for v in region.view.from_source(*_centroid(region))]
    if key == "color":
        return color_name(workspace.store.pixels(region.view)[region.inside])
    if key == "brightness":
        return round(10 * float(_lab(_spread(workspace.store.pixels(region.view)[region.inside]))[:, 0].mean()))
    if key == "count":
        return _count(region.inside)
    if key == "spots":
        return _spots(workspace.store.pixels(region.view), region.inside)
    return _shape(region.inside, key)


def color_name(pixels: np.ndarray) -> str:
    """The name most pixels (Nx3 RGB) are nearest to in CIELAB: a vote, so that text on a plate does not mix in."""
    names, table = _table()
    lab = _lab(_spread(pixels))
    nearest = ((lab[:, None, :] - table[None]) ** 2).sum(axis=2).argmin(axis=1)
    votes = np.bincount(names[nearest], minlength=len(NAMES))
    return list(NAMES)[int(votes.argmax())]


@cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Index of the name, and CIELAB, of every reference colour."""
    names = np.array([i for i, shades in enumerate(NAMES.values()) for _ in shades])
    return names, _lab(np.array([shade for shades in NAMES.values() for shade in shades], np.uint8))


def _lab(pixels: np.ndarray) -> np.ndarray:
    """Nx3 uint8 RGB to CIELAB floats (L 0..100)."""
    import cv2

    return cv2.cvtColor(pixels[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]


def _spread(pixels: np.ndarray) -> np.ndarray:
    """At most SAMPLE of Nx3 pixels, evenly spread."""
    return pixels if len(pixels) <= SAMPLE else pixels[np.linspace(0, len(pixels) - 1, SAMPLE).astype(int)]


def _centroid(region: Region) -> tuple[float, float]:
    """Source pixels."""
    rows, columns = np.nonzero(region.inside)
    return region.view.rect[0] + float(columns.mean()) + 0.5, region.view.rect[1] + float(rows.mean()) + 0.5


def _distance(a: Region, b: Region) -> int:
    if a.view.source != b.view.source:
        raise ToolFailure("policy", "bad_args", "distance needs two handles of one medium")
    return round(math.dist(_centroid(a), _centroid(b)))


def _count(inside: np.ndarray) -> int:
    """Separate parts, without specks of less than a hundredth of the largest."""
    import cv2

    _, _, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return int((areas * 100 >= areas.max()).sum())


def _spots(pixels: np.ndarray, inside: np.ndarray) -> int:
    """Separate small marks of HxWx3 RGB pixels in an HxW region: dots on a plate, the mask's holes being filled.

    A spot is at most SPOT of the region's shorter side across (5 pixels at least), and darker or lighter than both its
    surroundings and the region's median, by FAINTEST L* and by SHARPEST of the strongest spot. Marks that touch count as one.
    """
    import cv2

    x0, y0, w, h = cv2.boundingRect(inside.astype(np.uint8))
    inside = inside[y0 : y0 + h, x0 : x0 + w]
    light = cv2.cvtColor(pixels[y0 : y0 + h, x0 : x0 + w].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[..., 0]
    median = np.median(light[inside])
    light = np.where(inside, light, median).astype(np.float32)
    across = max(5, round(min(w, h) * SPOT) | 1)
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (across, across))
    dark = np.minimum(cv2.morphologyEx(light, cv2.MORPH_BLACKHAT, around), median - light)
    bright = np.minimum(cv2.morphologyEx(light, cv2.MORPH_TOPHAT, around), light - median)
    rimless = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0)
    strength = np.maximum(dark, bright) * rimless
    least = max(FAINTEST, SHARPEST * float(strength.max()))
    _, _, stats, _ = cv2.connectedComponentsWithStats((strength >= least).astype(np.uint8), connectivity=4)
    return int((stats[1:, cv2.CC_STAT_AREA] >= 2).sum())


def _shape(inside: np.ndarray, key: str) -> float | int:
    import cv2

    mask = inside.astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = sum(cv2.arcLength(c, True) for c in contours)
    if key == "perimeter":
        return round(outline)
    if key == "circularity":
        enclosed = sum(cv2.contourArea(c) for c in contours)
        return min(1000, round(1000 * 4 * math.pi * enclosed / outline**2)) if outline else 0
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if key == "aspect":
        return round(float(columns[-1] - columns[0] + 1) / float(rows[-1] - rows[0] + 1), 2)
    m = cv2.moments(mask, binaryImage=True)
    return round(-math.degrees(0.5 * math.atan2(2 * m["mu11"], m["mu20"] - m["mu02"]))) % 180  # image y points down


def _motion(workspace: Workspace, handle: Handle) -> tuple[int, int]:
    """Speed in source pixels per second and direction in degrees, from first to last sight."""
    if not isinstance(handle.payload, Track):
        raise ToolFailure("policy", "wrong_modality", f"{handle.name} is a {handle.kind}, a track is needed")
    seen = [s for s in handle.payload.spots if s.visible]
    source, store = handle.view.source, workspace.store
    seconds = store.moment(source, seen[-1].frame) - store.moment(source, seen[0].frame)
    if seconds <= 0:
        raise ToolFailure("tool", "no_motion", "the track is in sight in one frame only")
    (ax, ay), (bx, by) = _middle(seen[0]), _middle(seen[-1])
    return round(math.hypot(bx - ax, by - ay) / seconds), round(math.degrees(math.atan2(ay - by, bx - ax))) % 360


def _middle(spot: Spot) -> tuple[float, float]:
    x0, y0, x1, y1 = spot.box
    return (x0 + x1) / 2, (y0 + y1) / 2
