"""Is a family honest? Two heuristics that read what the policy sees without a tool; both must stay near chance.

A third control, a policy trained to answer at once, is a training run (``Teacher(style="no_tools")``).
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from pixelis.actors.scene import ALPHABET, Pixels, Scene, grid_box
from pixelis.actors.world import FAMILIES, SEEN, Split, make_scene
from pixelis.tools.frame import Rect, View, frame_at
from pixelis.tools.media import MediaStore
from pixelis.tools.ocr import read_line

IMAGE_SIDE, FRAME_SIDE = 96, 48  # what the nano policy sees of an image and of each frame of a clip
ENLARGED = 48  # pixels of height that the recogniser likes
BAR = 0.10  # a control may exceed chance by this much


@dataclass(frozen=True, slots=True)
class Controls:
    """Accuracies 0..1 over ``n`` scenes; chance is the larger of a blind draw and the most frequent answer.

    Example: ``run_controls("code", 1000).passed``
    """

    family: str
    n: int
    thumbnail: float
    gold_box: float
    blind: float  # 1 / (number of possible codes)
    most_frequent: float  # accuracy of always giving the most frequent answer

    @property
    def chance(self) -> float:
        return max(self.blind, self.most_frequent)

    @property
    def passed(self) -> bool:
        return max(self.thumbnail, self.gold_box) <= self.chance + BAR


def run_controls(family: str, n: int, split: Split = "dev") -> Controls:
    """Both heuristics on the first ``n`` scenes of a split; about 30 ms a scene."""
    scenes = [make_scene(family, split, index) for index in range(n)]
    answers = Counter(scene.answer for scene in scenes)

    def accuracy(heuristic: Callable[[Scene], str]) -> float:
        return sum(heuristic(scene) == scene.answer for scene in scenes) / n

    return Controls(
        family=family,
        n=n,
        thumbnail=accuracy(thumbnail_answer),
        gold_box=accuracy(gold_box_answer),
        blind=len(ALPHABET) ** -3,
        most_frequent=max(answers.values()) / n,
    )


def thumbnail_answer(scene: Scene) -> str:
    """Finds the place by colour in the pixels the policy sees, enlarges it and reads it."""
    views = first_views(scene)
    found = FAMILIES[scene.family].guess(scene.asked, views)
    return read_enlarged(views[found[0]], found[1]) if found else ""


def gold_box_answer(scene: Scene) -> str:
    """Reads the pixels the policy sees inside the gold box, rounded outward to the grid, in the gold window."""
    views = first_views(scene)
    which, side = 0, IMAGE_SIDE
    if scene.evidence.windows:
        start, end = scene.evidence.windows[0]
        which, side = next(i for i, t in enumerate(SEEN) if start <= t < end), FRAME_SIDE
    box = scene.evidence.tracks[0][0][1:] if scene.evidence.tracks else scene.evidence.boxes[0]
    x0, y0, x1, y1 = (v * side / 1000 for v in grid_box(box, (1000, 1000)))
    return read_enlarged(views[which], (math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)))


def first_views(scene: Scene) -> list[Pixels]:
    """The thumbnail of an image (96x96) or 8 frames of a clip (48x48), RGB, as the policy sees them."""
    store = MediaStore(None)
    store.put(scene.media)
    rect = (0, 0, *scene.size)
    if len(scene.frames) == 1:
        return [shrink(store.pixels(View(scene.source, rect)), IMAGE_SIDE)]
    numbers = [frame_at(t, len(scene.frames)) for t in SEEN]
    return [shrink(store.pixels(View(scene.source, rect, k)), FRAME_SIDE) for k in numbers]


def shrink(pixels: Pixels, side: int) -> Pixels:
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def read_enlarged(pixels: Pixels, box: Rect) -> str:
    """The text in a small box, enlarged smoothly to the recogniser's height."""
    x0, y0, x1, y1 = box
    part = pixels[y0:y1, x0:x1, ::-1]
    scale = ENLARGED / part.shape[0]
    large = cv2.resize(np.ascontiguousarray(part), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return read_line(np.asarray(large, dtype=np.uint8))[0]
