"""TEMP: frames of a window, and the windows between changes of a clip, sudden or dissolved."""

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
SMALL = 0.05  # share of the picture that must change: a thing that changes counts about as much as a whole scene
BESIDE = 6  # frames on each side that a sudden change is compared with: where all moves, only more is a change
FADE = 6  # frames on each side of the middle of a dissolve
FADED = 50.0  # grey levels by which all of the picture must differ across a dissolve


class Temp:
    """Looks into a clip's time."""

    id = "temp-diff@2"

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
    pictures = thumbnails(store, view, frames, until)
    cuts = change_points(differences(pictures, 1, SMALL))
    cuts = sorted(cuts + slow_changes(differences(pictures, 2 * FADE, 1.0), cuts))
    if not cuts:
        raise ToolFailure("tool", "no_change")
    return windows_of(view, frames, list(pairwise([0, *cuts[: WINDOWS - 1], frames])))


def windows_of(view: View, frames: int, spans: list[tuple[int, int]]) -> Outcome:
    """What TEMP answers with windows: spans of frame numbers, the first one inside and the one behind the last."""
    windows = [Window(a, b - 1, edge_time(a, frames), edge_time(b, frames)) for a, b in spans]
    return Outcome(
        {"windows": [[w.t0, w.t1] for w in windows]},
        tuple(Made("window", view, w) for w in windows),
    )


def thumbnails(store: MediaStore, view: View, frames: int, until: float) -> np.ndarray:
    """All frames at 64x64: [frames, 64, 64, 3] uint8; raises infra timeout past `until`."""
    import cv2

    found = np.empty((frames, SIDE, SIDE, 3), np.uint8)
    for n in range(frames):
        if time.monotonic() > until:
            raise ToolFailure("infra", "timeout", f"TEMP had compared {n} of {frames} frames")
        pixels = store.pixels(View(view.source, view.rect, n))
        found[n] = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return found


def differences(pictures: np.ndarray, gap: int, share: float) -> np.ndarray:
    """How much each frame differs from the one `gap` before, 0..255: the mean over the most changed `share` of cells."""
    found = []
    for before, after in zip(pictures, pictures[gap:], strict=False):
        delta = np.abs(after.astype(np.int16) - before).max(axis=2).ravel()
        top = max(1, int(delta.size * share))
        found.append(float(np.partition(delta, -top)[-top:].mean()))
    return np.array(found)


def change_points(steps: np.ndarray) -> list[int]:
    """First frames of new segments: steps that stand out, at most seven, strongest first, then in order.

    A step stands out that is larger than median + 6 median deviations, twice the median of the clip and of the steps
    beside it, and 8 grey levels (JPEG noise); of neighbours only those of at least half of the other's size.
    """
    if steps.size == 0:
        return []
    middle = float(np.median(steps))
    bar = max(8.0, middle + 6 * float(np.median(np.abs(steps - middle))), 2 * middle)
    padded = np.concatenate(([-1.0], steps, [-1.0]))
    found = []
    for i in range(steps.size):
        local = 2 * float(np.median(steps[max(0, i - BESIDE) : i + BESIDE + 1]))
        if steps[i] > max(bar, local) and steps[i] >= max(padded[i], padded[i + 2]) / 2:
            found.append(i)
    strongest = sorted(found, key=lambda i: -steps[i])[: WINDOWS - 1]
    return sorted(i + 1 for i in strongest)


def slow_changes(across: np.ndarray, cuts: list[int]) -> list[int]:
    """Middles of dissolves: peaks of the difference of whole frames 2 * FADE apart that no sudden change explains."""
    if across.size < 2 * FADE:
        return []
    bar = max(FADED, 2.5 * float(np.percentile(across, 25)))
    found: list[int] = []
    for i in range(across.size):
        peak = across[i] > bar and across[i] == across[max(0, i - 2 * FADE) : i + 2 * FADE + 1].max()
        if peak and all(abs(i + FADE - c) > 2 * FADE for c in [*cuts, *found]):
            found.append(i + FADE)
    return found
