"""PixelWorld: the families, their splits, and what the vision stage learns from a scene."""

from typing import Literal, get_args

from pixelis.actors.clip import SEEN, ClipFamily
from pixelis.actors.code import CodeFamily
from pixelis.actors.scene import COLORS, GRID, Family, Item, Scene, scaled
from pixelis.actors.shift import Shift
from pixelis.actors.tally import TallyFamily
from pixelis.tools.frame import frame_at

__all__ = ["COLORS", "FAMILIES", "GRID", "SEEN", "SPLITS", "Family", "Item", "Scene", "Split", "dense", "make_scene"]

Split = Literal["vision", "demo", "rft", "dev", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)
NO_SHIFT = Shift()
DEMO_SCENES = 2000  # demonstrations cover only part of the world, and no more scenes of it than this
FAMILIES: dict[str, Family] = {
    "code": CodeFamily(),
    "clip": ClipFamily(),
    "tally": TallyFamily(),
}

Dense = tuple[str, str | None, tuple[float, float, float, float]]  # kind, colour, box in 0..1000 of the view


def make_scene(family: str, split: Split, index: int, shift: Shift = NO_SHIFT) -> Scene:
    """The ``index``-th scene of a split, under a shift if one is named; splits cannot share a seed by construction.

    Raises: KeyError for an unknown family, ValueError for an unknown split, a negative index or a demo index >= 2000.

    Example: ``make_scene("clip", "heldout", 7)``
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: one of {', '.join(SPLITS)}")
    if index < 0 or (split == "demo" and index >= DEMO_SCENES):
        raise ValueError(f"{split} scene {index} does not exist: demo has 0..{DEMO_SCENES - 1}, others start at 0")
    seed = index * len(SPLITS) + SPLITS.index(split)
    return FAMILIES[family].scene(seed, "demo" if split == "demo" else "full", shift)


def split_of(scene: Scene) -> Split:
    return SPLITS[scene.seed % len(SPLITS)]


def dense(scene: Scene) -> list[list[Dense]]:
    """What stands where in every view the policy sees at first: the thumbnail, or the 8 frames of a clip."""
    seen = [0] if len(scene.frames) == 1 else [frame_at(t, len(scene.frames)) for t in SEEN]
    return [[(item.kind, item.color, scaled(item.box, scene.size)) for item in scene.frames[k]] for k in seen]
