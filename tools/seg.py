"""SEG with OpenCV: a point grows a region of its own colour, GrabCut makes it whole; a box is cut out by GrabCut."""

from functools import cache

import numpy as np

from pixelis.tools.call import SegArgs, ToolFailure
from pixelis.tools.frame import Box, Point, Rect, View
from pixelis.tools.handle import Mask, Workspace
from pixelis.tools.measure import box_iou
from pixelis.tools.region import (
    LARGER,
    SMALLEST,
    TOLERANCES,
    filled,
    flood,
    full_size,
    grabcut,
    main_parts,
    part_at,
    solidity,
    stands_out,
    steadiest,
    with_rim,
)
from pixelis.tools.tool import Made, Outcome
from pixelis.tools.zoom import still

WORK_SIDE = 1024  # point prompts: pictures with a longer side are searched at this size
STEADY, SOLID = 960, 0.97  # a region of one colour that ends sharply and is convex is taken as it is; others are made whole...
WHOLE_SIDE = 320  # ...at this size...
SEEDS = (13, 18, 25, 34, 50)  # ...each grown with these tolerances...
ROOM = 0.5  # ...and free to grow by this share of its sides
CUT_SIDE = 400  # box prompts: size of the crop for GrabCut
MARGIN = 0.15  # background GrabCut sees around the box, as a share of its sides
SLACK = 0.1  # second try: a box may be too tight by this share of its sides...
FAR = 0.4  # ...and so much is seen around it
HOLE = 0.02  # box prompts: larger holes, as a share of the mask, are taken for seen-through background


@cache
def _version() -> str:
    import cv2

    return f"seg-flood-grabcut@2#cv{cv2.__version__}"


class Seg:
    """Makes a mask; raises tool no_segment when nothing stands out, tool unknown_text for text prompts."""

    @property
    def id(self) -> str:
        """Backend, version and library."""
        return _version()

    def run(self, workspace: Workspace, args: SegArgs, until: float) -> Outcome:
        """One mask handle on the view of `on`; {"box", "area" per mille of the view, "score" 0..1000}."""
        view = still(workspace, args.on).view
        if args.text is not None:
            raise ToolFailure("tool", "unknown_text", "this backend takes points and boxes only")
        pixels = workspace.store.pixels(view)
        if args.point is not None:
            inside, score = by_point(pixels, _pixel(pixels, args.point), [_pixel(pixels, p) for p in args.neg])
        else:
            assert args.box is not None
            inside, score = by_box(pixels, _inner(view, args.box), [_pixel(pixels, p) for p in args.neg])
        return segment(view, inside, score)


def segment(view: View, inside: np.ndarray, score: int) -> Outcome:
    """What SEG answers with an HxW mask of a view; raises tool no_segment when it is next to nothing."""
    area = int(np.count_nonzero(inside))
    if area < SMALLEST:
        raise ToolFailure("tool", "no_segment", f"{area} pixels")
    data = {"box": list(mask_box(view, inside)), "area": round(1000 * area / inside.size), "score": score}
    return Outcome(data, (Made("mask", view, Mask.of(inside)),))


def by_point(pixels: np.ndarray, seed: Point, avoid: list[Point]) -> tuple[np.ndarray, int]:
    """The region around a seed pixel: HxWx3 RGB -> HxW bool and a score 0..1000.

    Flood fills of growing tolerance in blurred CIELAB; the one whose area changes least when the tolerance grows wins
    (the idea of maximally stable regions), holes are filled. Where none is steady and convex the thing has more than one
    colour: then `_whole`. `avoid` pixels bound the tolerance.
    """
    height, width = pixels.shape[:2]
    small, lab, scale = _at_size(pixels, WORK_SIDE)
    at, *stops = [_scaled(p, scale, lab) for p in [seed, *avoid]]
    kept = [g for g in (flood(lab, at, tolerance) for tolerance in TOLERANCES) if not any(g[y, x] for x, y in stops)]
    if not kept:
        raise ToolFailure("tool", "no_segment", "a negative point cannot be told from the point")
    best, score = steadiest(kept)
    best = filled(best, 1.0, stops)
    if score < STEADY or solidity(best) < SOLID:
        whole = _whole(pixels, seed, avoid)
        if whole is not None:
            return whole
    rimmed = with_rim(best, small, lab[at[1], at[0]])
    return full_size(filled(rimmed, 1.0, stops), height, width), score


def _whole(pixels: np.ndarray, seed: Point, avoid: list[Point]) -> tuple[np.ndarray, int] | None:
    """Regions of several tolerances made whole by GrabCut, the one that stands out best; None when there is none."""
    import cv2

    height, width = pixels.shape[:2]
    small, lab, scale = _at_size(pixels, WHOLE_SIDE)
    at, *stops = [_scaled(p, scale, lab) for p in [seed, *avoid]]
    found: list[tuple[float, np.ndarray]] = []
    areas = set()
    for tolerance in SEEDS:
        region = filled(flood(lab, at, tolerance), 1.0, stops)
        area = int(np.count_nonzero(region))
        if area < SMALLEST or area > region.size / 2 or area in areas or any(region[y, x] for x, y in stops):
            continue
        areas.add(area)
        x, y, w, h = cv2.boundingRect(region)
        labels = np.full(region.shape, cv2.GC_BGD, np.uint8)
        labels[_wider((x, y, x + w, y + h), ROOM, region.shape)] = cv2.GC_PR_BGD
        labels[region > 0] = cv2.GC_PR_FGD
        labels[cv2.erode(region, np.ones((5, 5), np.uint8)) > 0] = cv2.GC_FGD
        seen = _wider((x, y, x + w, y + h), 2 * ROOM, region.shape)
        part = grabcut(small[seen], _stopped(labels, stops)[seen], 2)
        if part is None:
            continue
        region[:] = 0
        region[seen] = part
        region = filled(part_at(region, at), 1.0, stops)
        found.append((stands_out(small, region) * (np.count_nonzero(region) / region.size) ** LARGER, region))
    if not found:
        return None
    _, best = max(found, key=lambda f: f[0])
    return full_size(best, height, width), round(1000 * stands_out(small, best))


def by_box(pixels: np.ndarray, box: Rect, avoid: list[Point]) -> tuple[np.ndarray, int]:
    """The thing in a pixel box: HxWx3 RGB -> HxW bool and a score 0..1000.

    GrabCut twice: once the box is trusted, once it may be too tight. The mask that fits the box and stands out wins.
    """
    tried = [_cut(pixels, box, avoid, *room) for room in ((MARGIN, 0.0), (FAR, SLACK))]
    found = [t for t in tried if t is not None]
    if not found:
        raise ToolFailure("tool", "no_segment", "nothing in the box stands out from its surroundings")
    score, best = max(found, key=lambda f: f[0])
    return best, round(1000 * score)


def _cut(pixels: np.ndarray, box: Rect, avoid: list[Point], margin: float, slack: float) -> tuple[float, np.ndarray] | None:
    """GrabCut in a box and its surroundings; score 0..1 and HxW bool, None when nothing is left.

    All of the box is likely foreground; what lies beside it by up to `slack` of its sides is likely background.
    """
    import cv2

    height, width = pixels.shape[:2]
    rows, columns = _wider(box, margin, (height, width))
    left, top = columns.start, rows.start
    small, _, scale = _at_size(pixels[rows, columns], CUT_SIDE)
    x0, y0, x1, y1 = ((v - o) * scale for v, o in zip(box, (left, top, left, top), strict=True))
    inner = int(x0), int(y0), max(int(x0) + 1, round(x1)), max(int(y0) + 1, round(y1))
    labels = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    if slack:
        labels[1:-1, 1:-1][_wider(inner, slack, labels[1:-1, 1:-1].shape)] = cv2.GC_PR_BGD
    labels[inner[1] : inner[3], inner[0] : inner[2]] = cv2.GC_PR_FGD
    stops = [(int((x - left) * scale), int((y - top) * scale)) for x, y in avoid]
    cut = grabcut(small, _stopped(labels, stops), 4)
    if cut is None:
        return None
    solid = filled(main_parts(cut), HOLE, stops)
    x, y, w, h = cv2.boundingRect(solid)
    score = box_iou((x, y, x + w, y + h), (x0, y0, x1, y1)) * stands_out(small, solid)
    inside = np.zeros((height, width), bool)
    inside[rows, columns] = full_size(solid, rows.stop - top, columns.stop - left)
    return score, inside


def shrunk(pixels: np.ndarray, scale: float) -> np.ndarray:
    """HxWx3 pixels at `scale` (as they are from 1 on), never less than one pixel high or wide: strips are thin."""
    import cv2

    if scale >= 1:
        return pixels
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def mask_box(view: View, inside: np.ndarray) -> Box:
    """The bounding box of an HxW mask as 0..1000 of its view."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    left, top = view.rect[0], view.rect[1]
    return view.box_of(left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)


def _pixel(pixels: np.ndarray, point: Point) -> Point:
    height, width = pixels.shape[:2]
    return min(width - 1, point[0] * width // 1000), min(height - 1, point[1] * height // 1000)


def _inner(view: View, box: Box) -> Rect:
    x0, y0, x1, y1 = view.pixels_of(box)
    return x0 - view.rect[0], y0 - view.rect[1], x1 - view.rect[0], y1 - view.rect[1]


def _at_size(pixels: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, float]:
    """A picture whose longer side is at most `side`, the same blurred in CIELAB, and the scale."""
    import cv2

    scale = min(1.0, side / max(pixels.shape[:2]))
    small = shrunk(pixels, scale)
    return small, cv2.cvtColor(cv2.GaussianBlur(small, (3, 3), 0), cv2.COLOR_RGB2Lab), scale


def _scaled(point: Point, scale: float, picture: np.ndarray) -> Point:
    return min(picture.shape[1] - 1, int(point[0] * scale)), min(picture.shape[0] - 1, int(point[1] * scale))


def _wider(box: Rect, share: float, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of a box made wider by a share of its sides, and two pixels, within a picture."""
    x0, y0, x1, y1 = box
    dx, dy = round((x1 - x0) * share) + 2, round((y1 - y0) * share) + 2
    return slice(max(0, y0 - dy), min(shape[0], y1 + dy)), slice(max(0, x0 - dx), min(shape[1], x1 + dx))


def _stopped(labels: np.ndarray, stops: list[Point]) -> np.ndarray:
    """GrabCut's labels with background round the negative points."""
    import cv2

    for x, y in stops:
        cv2.circle(labels, (x, y), max(1, max(labels.shape) // 100), cv2.GC_BGD, -1)
    return labels
