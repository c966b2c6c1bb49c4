"""Is a family honest? Two heuristics that read what the policy sees without a tool; both must stay near chance.

A third control, a policy trained to answer at once, is a training run (``Teacher(style="no_tools")``).
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pixelis.actors.glimpse import FRAME_SIDE, IMAGE_SIDE, thumbnail
from pixelis.actors.scene import Pixels, Scene, grid_box
from pixelis.actors.world import FAMILIES, SEEN, Split, make_scene
from pixelis.tools.frame import Rect, View, frame_at
from pixelis.tools.media import MediaStore

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
    blind: float  # 1 / (number of possible answers)
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
        blind=1 / FAMILIES[family].choices,
        most_frequent=max(answers.values()) / n,
    )


def thumbnail_answer(scene: Scene) -> str:
    """Finds the places by colour in the pixels the policy sees, and answers from them (`Family.glimpse`)."""
    views, family = first_views(scene), FAMILIES[scene.family]
    found = family.guess(scene.asked, views)
    return family.glimpse([cut(views[which], box) for which, box in found]) if found else ""


def gold_box_answer(scene: Scene) -> str:
    """Answers from the pixels the policy sees inside the gold boxes, rounded outward to the grid, in the gold window."""
    views = first_views(scene)
    which, side = 0, IMAGE_SIDE
    if scene.evidence.windows:
        start, end = scene.evidence.windows[0]
        which, side = next(i for i, t in enumerate(SEEN) if start <= t < end), FRAME_SIDE
    boxes = [track[0][1:] for track in scene.evidence.tracks] or scene.evidence.boxes
    scaled = [[v * side / 1000 for v in grid_box(box, (1000, 1000))] for box in boxes]
    rects = [(math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)) for x0, y0, x1, y1 in scaled]
    return FAMILIES[scene.family].glimpse([cut(views[which], rect) for rect in rects])


def first_views(scene: Scene) -> list[Pixels]:
    """The thumbnail of an image (96x96) or 8 frames of a clip (48x48), RGB, as the policy sees them."""
    store = MediaStore(None)
    store.put(scene.media)
    rect = (0, 0, *scene.size)
    if len(scene.frames) == 1:
        return [thumbnail(store.pixels(View(scene.source, rect)))]
    numbers = [frame_at(t, len(scene.frames)) for t in SEEN]
    return [thumbnail(store.pixels(View(scene.source, rect, k)), FRAME_SIDE) for k in numbers]


def cut(pixels: Pixels, box: Rect) -> Pixels:
    return pixels[box[1] : box[3], box[0] : box[2]]


if __name__ == "__main__":
    for name in FAMILIES:
        controls = run_controls(name, 1000)
        print(controls, "chance", f"{controls.chance:.4f}", "passed" if controls.passed else "FAILED")
