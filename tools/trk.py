"""TRK with OpenCV's CSRT: a box or a mask followed through a clip, looked for again by its colours when it is lost."""

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from pixelis.tools.call import ToolFailure, TrkArgs
from pixelis.tools.find import Finder, Patch
from pixelis.tools.frame import Rect, View, frame_at, time_of
from pixelis.tools.handle import Handle, Mask, Spot, Track, Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.seg import shrunk
from pixelis.tools.tool import Made, Outcome
from pixelis.tools.zoom import clip

WORK_SIDE = 320  # frames with a longer side are tracked at this size...
LEAST = 20  # ...but never so small that the thing has fewer pixels than this across
MOST_FRAMES = 400  # one call follows through at most so many frames
THINNEST = 24  # CSRT fails on boxes of an aspect above 40...
NARROWEST, FLATTEST = 48, 16  # ...and on frames of less pixels across, or of a larger aspect, for some boxes
SAMPLES = 8  # boxes in the observation
LOST = 0.35  # likeness to the first look (0..1) below which the thing counts as out of sight
FOUND = 0.65  # share of the first look's colours (0..1) that a place has where a lost thing is taken to be again
SURE = 2  # times in a row that a place must be seen before the track goes there
CHECK = 5  # every so many frames the other places are looked at...
CLEARLY = 0.15  # ...and one with this much more of the first look's colours is where the thing really is


@cache
def _version() -> str:
    import cv2

    return f"trk-csrt-colors@2#cv{cv2.__version__}"


class Trk:
    """Follows one thing; the track says where it was lost. Raises tool lost_at_once when it is never seen again."""

    @property
    def id(self) -> str:
        """Backend, version and library."""
        return _version()

    def run(self, workspace: Workspace, args: TrkArgs, until: float) -> Outcome:
        """One track handle; {"boxes": [[t, x0, y0, x1, y1], ...]}: at most 8 samples of where it was in sight."""
        view, numbers, start = asked(workspace, args)
        return followed(workspace, view, follow(workspace.store, view, start, numbers, until))


def asked(workspace: Workspace, args: TrkArgs) -> tuple[View, list[int], Rect]:
    """The clip, the frame numbers to visit and the box to start from, in source pixels; raises ToolFailure(policy)."""
    view = clip(workspace, args.on).view
    count = workspace.store.info(view.source).frames
    first = frame_at(args.t0, count)
    last = frame_at(1000 if args.t1 is None else args.t1, count)
    numbers = list(range(first, last + 1, args.stride))
    if len(numbers) > MOST_FRAMES:
        raise ToolFailure("policy", "too_many_frames", f"{len(numbers)} frames, at most {MOST_FRAMES}: use stride")
    start = view.pixels_of(args.box) if args.box is not None else _init(workspace, str(args.init), view)
    return view, numbers, start


def followed(workspace: Workspace, view: View, spots: list[Spot]) -> Outcome:
    """What TRK answers with the spots of a track; raises tool lost_at_once when it was seen in the first frame only."""
    count = workspace.store.info(view.source).frames
    seen = [s for s in spots if s.visible]
    if len(seen) < 2 <= len(spots):
        raise ToolFailure("tool", "lost_at_once")
    picked = seen if len(seen) <= SAMPLES else [seen[round(i)] for i in np.linspace(0, len(seen) - 1, SAMPLES)]
    boxes = [[time_of(s.frame, count), *view.box_of(*s.box)] for s in picked]
    return Outcome({"boxes": boxes}, (Made("track", view, Track(tuple(spots))),))


def follow(store: MediaStore, view: View, start: Rect, numbers: list[int], until: float) -> list[Spot]:
    """A Spot per frame number, the first one being `start` (source pixels); raises infra timeout past `until`."""
    scale = min(1.0, WORK_SIDE / max(view.width, view.height))
    scale = min(1.0, max(scale, LEAST / min(start[2] - start[0], start[3] - start[1])))
    frame = _frame(store, view, numbers[0], scale)
    chase = _Chase(frame, _to_work(start, view, scale, frame))
    spots = [Spot(numbers[0], start, 1.0, True)]
    for number in numbers[1:]:
        if time.monotonic() > until:
            raise ToolFailure("infra", "timeout", f"TRK had followed {len(spots)} of {len(numbers)} frames")
        found, likeness = chase.step(_frame(store, view, number, scale))
        rect = None if found is None else _to_source(found, view, scale)
        spots.append(Spot(number, rect or spots[-1].box, round(likeness, 4) if rect else 0.0, rect is not None))
    return spots


class _Chase:
    """A thing that is followed frame by frame, and looked for where it is lost: then its model rests."""

    def __init__(self, frame: np.ndarray, box: Patch):
        self.look = _Look.of(frame, box)
        self.finder = Finder(frame, box)
        self.tracker = _tracker(frame, box)
        self.lost = False
        self.steps = self.seen = 0

    def step(self, frame: np.ndarray) -> tuple[Any, float]:
        """Where it is in the next frame (x, y, w, h; None: out of sight), and its likeness to the first look."""
        if not self.lost:
            self.steps += 1
            ok, found = self.tracker.update(frame)
            likeness = self.look.likeness(frame, found) if ok and _mostly_inside(found, frame) else 0.0
            self.lost = likeness < LOST
            if not self.lost and self.steps % CHECK:
                return found, likeness
            least = 0.0 if self.lost else self.look.shared(_Look.of(frame, found)) + CLEARLY
            place, shared = self._sighted(frame, max(FOUND, least))
            if place is None:
                return (None if self.lost else found), likeness
        else:
            place, shared = self._sighted(frame, FOUND)
            if place is None:
                return None, shared
        self.lost = _inside(place, frame) != place  # coming into the picture: its size is not seen yet
        if not self.lost:
            self.tracker = _tracker(frame, place)
        return place, shared

    def _sighted(self, frame: np.ndarray, least: float) -> tuple[Patch | None, float]:
        """The place that shares most colours with the first look, once it was seen SURE times in a row; and their share."""
        rated = [(self.look.shared(_Look.of(frame, p)), p) for _, p in self.finder.places(frame) if _mostly_inside(p, frame)]
        shared, place = max(rated, key=lambda r: r[0], default=(0.0, None))
        self.seen = self.seen + 1 if shared >= least else 0
        return (place if self.seen >= SURE else None), shared


@dataclass(frozen=True)
class _Look:
    """How the thing looked at first: its colours, and its grey picture and its outlines at 32x32."""

    colors: np.ndarray
    grey: np.ndarray
    edges: np.ndarray

    @staticmethod
    def of(frame: np.ndarray, box: Any) -> "_Look":
        import cv2

        x, y, w, h = (round(v) for v in box)
        x, y = max(0, x), max(0, y)
        patch = frame[y : y + max(1, h), x : x + max(1, w)]
        if patch.size == 0:
            return _Look(np.zeros((8, 8, 8), np.float32), *np.zeros((2, 32, 32), np.float32))
        lab = cv2.cvtColor(patch, cv2.COLOR_BGR2Lab)
        colors = cv2.calcHist([lab], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3)
        small = cv2.resize(lab, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
        slopes = np.hypot(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
        return _Look(colors / max(1.0, float(colors.sum())), small[:, :, 0].copy(), cv2.blur(slopes.max(axis=2), (3, 3)))

    def likeness(self, frame: np.ndarray, box: Any) -> float:
        """0..1: the best of shared colours and correlation of grey pictures and outlines (light, pose, colour may change)."""
        import cv2

        now = _Look.of(frame, box)
        pairs = (now.grey, self.grey), (now.edges, self.edges)
        alike = [float(cv2.matchTemplate(a, b, cv2.TM_CCOEFF_NORMED)[0, 0]) for a, b in pairs]
        return min(1.0, max(self.shared(now), *alike, 0.0))

    def shared(self, other: "_Look") -> float:
        """Share of the colours that two looks have in common, 0..1."""
        return float(np.minimum(self.colors, other.colors).sum())


def _tracker(frame: np.ndarray, box: Patch) -> Any:
    import cv2

    cv2.setRNGSeed(0)
    contrib: Any = cv2  # its type stubs lack the contrib modules
    settings = contrib.TrackerCSRT_Params()
    # Against the defaults: a third of the time, and closer to the marked boxes on cups.mp4 (bench/tools.py).
    settings.template_size = 100
    settings.number_of_scales = 17
    settings.use_segmentation = False
    tracker = contrib.TrackerCSRT_create(settings)
    tracker.init(frame, box)
    return tracker


def _frame(store: MediaStore, view: View, number: int, scale: float) -> np.ndarray:
    """A frame at work size, BGR; a thin one with a margin right or below, without which CSRT fails."""
    import cv2

    pixels = shrunk(store.pixels(View(view.source, view.rect, number)), scale)
    height, width = pixels.shape[:2]
    least = max(NARROWEST, max(height, width) // FLATTEST)
    if min(height, width) < least:
        pixels = cv2.copyMakeBorder(pixels, 0, max(0, least - height), 0, max(0, least - width), cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _to_work(rect: Rect, view: View, scale: float, frame: np.ndarray) -> tuple[int, int, int, int]:
    """Source pixels to x, y, w, h at work size, inside the frame, at least 4x4 and no thinner than CSRT can take."""
    height, width = frame.shape[:2]
    x, y = round((rect[0] - view.rect[0]) * scale), round((rect[1] - view.rect[1]) * scale)
    w, h = round((rect[2] - rect[0]) * scale), round((rect[3] - rect[1]) * scale)
    w, h = max(4, w, h // THINNEST), max(4, h, w // THINNEST)
    w, h = min(width, w), min(height, h)
    return min(x, width - w), min(y, height - h), w, h


def _mostly_inside(box: Any, frame: np.ndarray) -> bool:
    """Whether at least a quarter of x, y, w, h lies in a frame."""
    x, y, w, h = box
    wide = min(frame.shape[1], x + w) - max(0, x)
    high = min(frame.shape[0], y + h) - max(0, y)
    return bool(wide > 0 and high > 0 and wide * high >= 0.25 * w * h)


def _inside(box: Patch, frame: np.ndarray) -> Patch:
    """The part of x, y, w, h in a frame."""
    x, y = max(0, box[0]), max(0, box[1])
    return x, y, min(frame.shape[1], box[0] + box[2]) - x, min(frame.shape[0], box[1] + box[3]) - y


def _to_source(box: Any, view: View, scale: float) -> Rect | None:
    """x, y, w, h at work size to source pixels, clipped; None when less than a quarter lies inside the view."""
    x, y, w, h = (float(v) / scale for v in box)
    x0, y0 = max(view.rect[0], round(view.rect[0] + x)), max(view.rect[1], round(view.rect[1] + y))
    x1, y1 = min(view.rect[2], round(view.rect[0] + x + w)), min(view.rect[3], round(view.rect[1] + y + h))
    if x1 <= x0 or y1 <= y0 or (x1 - x0) * (y1 - y0) < 0.25 * w * h:
        return None
    return x0, y0, x1, y1


def _init(workspace: Workspace, name: str, view: View) -> Rect:
    """The box of a mask of this clip, in source pixels."""
    handle: Handle = workspace.get(name)
    if not isinstance(handle.payload, Mask):
        raise ToolFailure("policy", "wrong_modality", f"init: {name} is a {handle.kind}, a mask is needed")
    if handle.view.source != view.source:
        raise ToolFailure("policy", "bad_args", f"init: {name} belongs to another medium")
    inside = handle.payload.array()
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    left, top = handle.view.rect[0], handle.view.rect[1]
    return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1
