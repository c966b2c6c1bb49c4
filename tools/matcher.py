"""What a text names, with a CLIP-class model: windows of a clip (TEMP), and the thing in a picture (SEG)."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pixelis.tools.cache import Cache
from pixelis.tools.call import SegArgs, TempArgs, ToolFailure
from pixelis.tools.device import Device, each, file_hash, finite, in_time, only
from pixelis.tools.frame import SCALE, Box, View
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.temp import WINDOWS, windows_of
from pixelis.tools.tool import Outcome, Tool
from pixelis.tools.zoom import clip, still

CACHE_BYTES = 64 << 20  # a view's features are 2 to 4 KiB
TOGETHER = 16  # most pictures encoded at once
FRAMES = 96  # most frames of a clip that a query looks at
SMOOTH = 3  # frames over which their scores are averaged
APART = 4.0  # a query's frames are as many standard deviations (within both groups) above the others
PARTS = (2, 3, 4)  # windows on a picture have a half, a third and a quarter of its sides, and overlap by half
ABOVE = 3.0  # the best window is as many spreads (by the median deviation) above the middle one
LEAST = 0.01  # cosines closer than this are alike


class Matcher:
    """How well pictures fit a text: an AutoModel with get_image_features and get_text_features (CLIP, SigLIP, ...).

    `colors` are the mean and the standard deviation that its pictures are normalised by; `label` names the weights.
    Features of pictures are kept per (label, media hash, rectangle, frame).
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        colors: tuple[Sequence[float], Sequence[float]],
        label: str,
        device: str = "cpu",
        cache: Cache[Any] | None = None,
    ) -> None:
        self.device = Device(device)
        self.network = network.to(device).eval()
        self.tokenizer = tokenizer
        self.colors = colors
        self.label = label + self.device.precision
        self.cache: Cache[Any] = Cache(CACHE_BYTES) if cache is None else cache

    @staticmethod
    def load(folder: Path, device: str = "cpu", cache: Cache[Any] | None = None) -> "Matcher":
        """The model of a folder as transformers writes it; raises ValueError with one line for anything else."""
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        try:
            network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            pictures = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{folder}: no model of text and pictures: {str(error).splitlines()[0]}") from error
        if not hasattr(network, "get_image_features") or not hasattr(network, "get_text_features"):
            raise ValueError(f"{folder}: a {type(network).__name__} does not compare text with pictures")
        kind = network.config.model_type
        weights = file_hash(*sorted(folder.glob("*.safetensors")))
        label = f"transformers-{version('transformers')}-{kind}-{weights}"
        return Matcher(network, tokenizer, (pictures.image_mean, pictures.image_std), label, device, cache)

    def scores(self, store: MediaStore, views: Sequence[View], text: str, until: float) -> np.ndarray:
        """The cosine of each view with the text, N float32; takes the device a batch at a time."""
        with self.device.turn(until):
            wanted = self._text(text)
        return np.stack(self._pictures(store, views, until)) @ wanted

    def _pictures(self, store: MediaStore, views: Sequence[View], until: float) -> list[np.ndarray]:
        found = {view: self.cache.get((self.label, view)) for view in views}
        missing = [view for view, features in found.items() if features is None]
        for start in range(0, len(missing), TOGETHER):
            in_time(until, f"{start} of {len(missing)} pictures were compared with the text")
            some = missing[start : start + TOGETHER]
            pixels = np.stack([self._input(store.pixels(view)) for view in some])
            for view, one in zip(some, self._features(pixels, until), strict=True):
                found[view] = self.cache.put((self.label, view), one.copy(), one.nbytes)
        return [found[view] for view in views]  # type: ignore[misc]

    def _input(self, pixels: np.ndarray) -> np.ndarray:
        """HxWx3 uint8 to 3xSxS float32. The whole view is squeezed into the square: CLIP's own way, to cut the middle

        out, would make it blind to the sides of a wide picture.
        """
        import cv2

        side = self.network.config.vision_config.image_size
        small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        mean, deviation = (np.asarray(one, np.float32) for one in self.colors)
        return ((small - mean) / deviation).transpose(2, 0, 1)

    def _features(self, pixels: np.ndarray, until: float) -> np.ndarray:
        """Nx3xSxS to NxD of unit length, in halves while there is no memory for all."""
        import torch

        try:
            with self.device.turn(until):
                return _unit(self.network.get_image_features(torch.from_numpy(pixels).to(self.device.name)).pooler_output)
        except ToolFailure as error:
            if error.code != "out_of_memory" or len(pixels) == 1:
                raise
        half = len(pixels) // 2
        return np.concatenate([self._features(some, until) for some in (pixels[:half], pixels[half:])])

    def _text(self, text: str) -> np.ndarray:
        length = self.network.config.text_config.max_position_embeddings
        tokens = self.tokenizer([text], padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return _unit(self.network.get_text_features(**tokens.to(self.device.name)).pooler_output)[0]


class TempClip:
    """TEMP whose query may be any text: the windows that fit it better than the rest of the clip does.

    The query "change" and `window` go on to `inner`. Raises tool no_window when no part of the clip stands out, so also
    when all of it fits.
    """

    def __init__(self, matcher: Matcher, inner: Tool) -> None:
        self.matcher, self.inner = matcher, inner
        self.id = f"temp-clip@1#{matcher.label}+{inner.id}"

    def run(self, workspace: Workspace, args: TempArgs, until: float) -> Outcome:
        """query: windows w1.., {"windows": [[t0, t1], ...]}, at most 8, in time order."""
        if args.query is None or args.query == "change":
            return self.inner.run(workspace, args, until)
        view = clip(workspace, args.on).view
        frames = workspace.store.info(view.source).frames
        numbers = sorted({round(n) for n in np.linspace(0, frames - 1, min(FRAMES, frames))})
        views = [View(view.source, view.rect, n) for n in numbers]
        scores = smoothed(self.matcher.scores(workspace.store, views, args.query, until))
        spans = strongest(runs(stand_out(scores)), scores)
        if not spans:
            raise ToolFailure("tool", "no_window", "no part of the clip fits the text better than the rest")
        edges = [0, *((a + b + 1) // 2 for a, b in pairwise(numbers)), frames]
        return windows_of(view, frames, [(edges[a], edges[b]) for a, b in spans])


class SegText:
    """SEG that also takes a text: the window on the picture that fits it best becomes the box that `inner` cuts out.

    Raises tool no_segment when no window stands out.
    """

    def __init__(self, matcher: Matcher, inner: Tool) -> None:
        self.matcher, self.inner = matcher, inner
        self.id = f"{inner.id}+text-clip@1#{matcher.label}"

    def run(self, workspace: Workspace, args: SegArgs, until: float) -> Outcome:
        """As `inner`; the mask's box may be any part of the picture."""
        return only(self.batch([(workspace, args)], until))

    def batch(self, asked: Sequence[tuple[Workspace, SegArgs]], until: float) -> list[Outcome | ToolFailure]:
        """Texts become boxes one by one, then `inner` is asked for all of them, together if it can."""
        boxed = each(lambda one: (one[0], self._boxed(*one, until)), asked)
        ready = [one for one in boxed if not isinstance(one, ToolFailure)]
        together = getattr(self.inner, "batch", None)
        found = together(ready, until) if together else each(lambda one: self.inner.run(*one, until), ready)
        answers = iter(found)
        return [one if isinstance(one, ToolFailure) else next(answers) for one in boxed]

    def _boxed(self, workspace: Workspace, args: SegArgs, until: float) -> SegArgs:
        if args.text is None:
            return args
        view = still(workspace, args.on).view
        return SegArgs(on=args.on, box=self._search(workspace.store, view, args.text, until), neg=args.neg)

    def _search(self, store: MediaStore, view: View, text: str, until: float) -> Box:
        boxes = proposals()
        scores = self._scores(store, view, boxes, text, until)
        middle = float(np.median(scores))
        spread = 1.4826 * float(np.median(np.abs(scores - middle)))
        best = _Scored(boxes[int(scores.argmax())], float(scores.max()))
        if best.score < middle + max(LEAST, ABOVE * spread):
            raise ToolFailure("tool", "no_segment", "no part of the picture fits the text better than the rest")
        for share in (4, 8):  # the edges move by a quarter of the window's sides, then by an eighth
            moved = neighbours(best.box, share)
            scores = self._scores(store, view, moved, text, until)
            best = max(best, _Scored(moved[int(scores.argmax())], float(scores.max())), key=lambda one: one.score)
        return best.box

    def _scores(self, store: MediaStore, view: View, boxes: list[Box], text: str, until: float) -> np.ndarray:
        return self.matcher.scores(store, [view.crop(box) for box in boxes], text, until)


@dataclass(frozen=True, slots=True)
class _Scored:
    box: Box
    score: float


def proposals() -> list[Box]:
    """Windows of several sizes all over a picture, 0..1000."""
    boxes = []
    for parts in PARTS:
        corners = [SCALE * i // (2 * parts) for i in range(2 * parts - 1)]
        boxes += [(x, y, x + SCALE // parts, y + SCALE // parts) for y in corners for x in corners]
    return boxes


def neighbours(box: Box, share: int) -> list[Box]:
    """The box with one edge moved out or in by 1/share of its side, within 0..1000, and the box itself."""
    found = [box]
    for edge in range(4):
        step = max(1, (box[2 + edge % 2] - box[edge % 2]) // share)
        for way in (-step, step):
            moved = list(box)
            moved[edge] = min(SCALE, max(0, box[edge] + way))
            if moved[0] < moved[2] and moved[1] < moved[3]:
                found.append((moved[0], moved[1], moved[2], moved[3]))
    return found


def smoothed(scores: np.ndarray) -> np.ndarray:
    """N scores, each averaged with its neighbours; the ends count double."""
    around = SMOOTH // 2
    return np.convolve(np.pad(scores, around, mode="edge"), np.ones(SMOOTH) / SMOOTH, mode="valid")


def stand_out(scores: np.ndarray) -> np.ndarray:
    """Which of N scores belong to a group clearly above the rest: N bool, all False when there are not two groups.

    The split is the one with the largest variance between both groups (Otsu), which holds whether the group is small or
    most of the clip; a normal distribution splits 2.7 and an even one 3.5 deviations apart, less than APART.
    """
    ordered = np.sort(scores.astype(np.float64))
    best, bar = 0.0, np.inf
    for n in range(1, len(ordered)):
        low, high = ordered[:n], ordered[n:]
        between = n * (len(ordered) - n) * (high.mean() - low.mean()) ** 2
        if between > best:
            best, bar = between, float((low[-1] + high[0]) / 2)
    above = scores > bar
    if not above.any() or above.all():
        return np.zeros(len(scores), bool)
    low, high = scores[~above], scores[above]
    within = float(np.sqrt((low.var() * len(low) + high.var() * len(high)) / len(scores)))
    apart = float(high.mean() - low.mean())
    return above if apart >= max(LEAST, APART * within) else np.zeros(len(scores), bool)


def runs(inside: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of True in N bool: the first index inside and the one behind the last."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], inside, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def strongest(spans: list[tuple[int, int]], scores: np.ndarray) -> list[tuple[int, int]]:
    """The spans of the highest mean score, as many as an observation holds, in time order."""
    return sorted(sorted(spans, key=lambda s: -float(scores[s[0] : s[1]].mean()))[:WINDOWS])


def _unit(features: Any) -> np.ndarray:
    """NxD features to unit length, float32 on the host; raises infra bad_result."""
    features = finite(features.float(), "a CLIP feature")
    return (features / features.norm(dim=-1, keepdim=True).clamp_min(1e-12)).cpu().numpy()
