"""TRK with OpenCV's CSRT: a box or a mask followed through a clip, frame by frame."""

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from pixelis.tools.call import ToolFailure, TrkArgs
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


@cache
def _version() -> str:
    import cv2

    return f"trk-csrt@1#cv{cv2.__version__}"


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
    box = _to_work(start, view, scale, frame)
    tracker = _tracker()
    tracker.init(frame, box)
    look = _Look.of(frame, box)
    spots = [Spot(numbers[0], start, 1.0, True)]
    for number in numbers[1:]:
        if time.monotonic() > until:
            raise ToolFailure("infra", "timeout", f"TRK had followed {len(spots)} of {len(numbers)} frames")
        frame = _frame(store, view, number, scale)
        ok, found = tracker.update(frame)
        rect = _to_source(found, view, scale) if ok else None
        if rect is None:
            spots.append(Spot(number, spots[-1].box, 0.0, False))
            continue
        likeness = look.likeness(frame, found)
        spots.append(Spot(number, rect, round(likeness, 4), likeness >= LOST))
    return spots


@dataclass(frozen=True)
class _Look:
    """How the thing looked at first: its colours, and its grey picture at 32x32."""

    colors: np.ndarray
    grey: np.ndarray

    @staticmethod
    def of(frame: np.ndarray, box: Any) -> "_Look":
        import cv2

        x, y, w, h = (round(v) for v in box)
        x, y = max(0, x), max(0, y)
        patch = frame[y : y + max(1, h), x : x + max(1, w)]
        if patch.size == 0:
            return _Look(np.zeros((8, 8, 8), np.float32), np.zeros((32, 32), np.uint8))
        lab = cv2.cvtColor(patch, cv2.COLOR_BGR2Lab)
        colors = cv2.calcHist([lab], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3)
        grey = cv2.resize(lab[:, :, 0], (32, 32), interpolation=cv2.INTER_AREA)
        return _Look(colors / max(1.0, float(colors.sum())), grey)

    def likeness(self, frame: np.ndarray, box: Any) -> float:
        """0..1: the better of shared colours and correlation of the grey pictures (light or pose may change one)."""
        import cv2

        now = _Look.of(frame, box)
        shared = float(np.minimum(self.colors, now.colors).sum())
        alike = float(cv2.matchTemplate(now.grey, self.grey, cv2.TM_CCOEFF_NORMED)[0, 0])
        return min(1.0, max(shared, alike, 0.0))


def _tracker() -> Any:
    import cv2

    cv2.setRNGSeed(0)
    contrib: Any = cv2  # its type stubs lack the contrib modules
    settings = contrib.TrackerCSRT_Params()
    # Against the defaults: a third of the time, and closer to the marked boxes on cups.mp4 (bench/tools.py).
    settings.template_size = 100
    settings.number_of_scales = 17
    settings.use_segmentation = False
    return contrib.TrackerCSRT_create(settings)


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
