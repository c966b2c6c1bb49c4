"""TEMP: frames of a window, and the windows between sudden changes of a clip."""

import time
from itertools import pairwise

import numpy as np

from pixelis.tools.call import TempArgs, ToolFailure
from pixelis.tools.frame import View, edge_time, frame_at, time_of
from pixelis.tools.handle import Window, Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.tool import Made, Outcome
from pixelis.tools.zoom import clip

SIDE = 64  # frames are compared at 64x64
WINDOWS = 8  # most windows in one observation


class Temp:
    """Looks into a clip's time."""

    id = "temp-diff@1"

    def run(self, workspace: Workspace, args: TempArgs, until: float) -> Outcome:
        """window: frames f1.. shown, {"times"}; query "change": windows w1.., {"windows"}."""
        view = clip(workspace, args.on).view
        frames = workspace.store.info(view.source).frames
        if args.window is not None:
            return _inspect(view, frames, args.window, args.k)
        if args.query != "change":
            raise ToolFailure("tool", "unknown_query", 'this backend knows the query "change" only')
        return _changes(workspace.store, view, frames, until)


def _inspect(view: View, frames: int, window: tuple[int, int], k: int) -> Outcome:
    picked = pick(frames, window, k)
    made = tuple(Made("frame", View(view.source, view.rect, n), shown=True) for n in picked)
    return Outcome({"times": [time_of(n, frames) for n in picked]}, made)


def pick(frames: int, window: tuple[int, int], k: int) -> list[int]:
    """Up to k frame numbers, at the middles of k equal parts of the window, each once, in order."""
    t0, t1 = window
    times = [t0 + (2 * i + 1) * (t1 - t0) / (2 * k) for i in range(k)]
    return sorted({frame_at(t, frames) for t in times})


def _changes(store: MediaStore, view: View, frames: int, until: float) -> Outcome:
    steps = differences(store, view, frames, until)
    cuts = change_points(steps)
    if not cuts:
        raise ToolFailure("tool", "no_change")
    return windows_of(view, frames, list(pairwise([0, *cuts, frames])))


def windows_of(view: View, frames: int, spans: list[tuple[int, int]]) -> Outcome:
    """What TEMP answers with windows: spans of frame numbers, the first one inside and the one behind the last."""
    windows = [Window(a, b - 1, edge_time(a, frames), edge_time(b, frames)) for a, b in spans]
    return Outcome(
        {"windows": [[w.t0, w.t1] for w in windows]},
        tuple(Made("window", view, w) for w in windows),
    )


def differences(store: MediaStore, view: View, frames: int, until: float) -> np.ndarray:
    """How much each frame differs from the one before: frames-1 values.

    The mean over the 5 % most changed cells of a 64x64 grey picture (0..255), so that a small thing that changes counts
    about as much as a whole scene, and noise averages out.
    """
    import cv2

    last: np.ndarray | None = None
    found = []
    for n in range(frames):
        if time.monotonic() > until:
            raise ToolFailure("infra", "timeout", f"TEMP had compared {n} of {frames} frames")
        pixels = store.pixels(View(view.source, view.rect, n))
        small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        if last is not None:
            delta = np.abs(small - last).max(axis=2).ravel()
            top = max(1, delta.size // 20)
            found.append(float(np.partition(delta, -top)[-top:].mean()))
        last = small
    return np.array(found)


def change_points(steps: np.ndarray) -> list[int]:
    """First frames of new segments: peaks that stand out of their clip, at most seven, strongest first, then in order.

    A peak is larger than both neighbours and than median + 6 median deviations (and than 8 grey levels: JPEG noise).
    """
    if steps.size == 0:
        return []
    middle = float(np.median(steps))
    spread = float(np.median(np.abs(steps - middle)))
    bar = max(8.0, middle + 6 * spread, 2 * middle)
    padded = np.concatenate(([-1.0], steps, [-1.0]))
    peaks = [i for i in range(steps.size) if steps[i] > bar and padded[i] <= steps[i] >= padded[i + 2]]
    strongest = sorted(peaks, key=lambda i: -steps[i])[: WINDOWS - 1]
    return sorted(i + 1 for i in strongest)
