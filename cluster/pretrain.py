"""`pixelis pretrain`: the nano backbone from scratch, vision only, kept under the hash of its recipe."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pixelis.cluster.progress import Bar
from pixelis.cluster.usage import Meter, load
from pixelis.memory.layout import Layout

if TYPE_CHECKING:  # the rendering process must not import torch
    from pixelis.learners.pretrain import Example

Told = tuple[str, str | None, tuple[float, float, float, float]]
"""Kind, colour and box of one object in a view."""

CACHE = Path("runs/cache")
CHUNK = 25
"""Scenes rendered at once."""
SOURCES = ("actors/nano.py", "actors/scene.py", "actors/code.py", "actors/clip.py", "actors/world.py",
           "learners/pretrain.py", "memory/layout.py", "cluster/pretrain.py")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides about the backbone's weights, besides the code."""

    seed: int = 0
    steps: int = 450
    lr: float = 2e-3
    scenes: dict[str, int] = field(default_factory=lambda: {"code": 4000, "clip": 500})
    """Scenes of the vision split, by family."""
    batch: dict[str, int] = field(default_factory=lambda: {"code": 24, "clip": 32})
    """Views in a step, by family (a clip has one view per frame shown)."""

    def key(self) -> str:
        """12 hex digits of this recipe and of the code that follows it."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for name in SOURCES:
            digest.update((Path(__file__).parent.parent / name).read_bytes())
        return digest.hexdigest()[:12]


def backbone(seed: int = 0, recipe: Recipe | None = None) -> Path:
    """The policy folder of a recipe, trained now if the cache does not hold it; says which of the two."""
    recipe = recipe or Recipe(seed=seed)
    folder = CACHE / f"nano-{recipe.key()}"
    if (folder / "policy.json").is_file():
        print(f"backbone: {folder} (cached by its recipe's hash)", flush=True)
        return folder
    print(f"backbone: pre-training {folder} ({recipe.steps} steps, vision only)", flush=True)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    train(recipe, unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(unfinished, folder)
    return folder


def train(recipe: Recipe, folder: Path) -> None:
    """Pre-train by a recipe and save the policy folder, with `pretrain.json` (figures and costs) inside."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from pixelis.actors import nano
    from pixelis.learners.pretrain import DenseHeads, pretrain

    torch.set_num_threads(1)
    disable_progress_bar()
    meter, before = Meter(), load()
    model = nano.build(recipe.seed)
    torch.manual_seed(recipe.seed)
    heads = DenseHeads(model, nano.KINDS, nano.COLORS, nano.GRID)
    examples = Batches(recipe, model.layout, nano.KINDS)
    figures: dict[str, float] = {}
    with Bar("pretrain", recipe.steps, "steps") as bar:
        for step, figures in enumerate(pretrain(model, examples, heads, nano.GRID, recipe.steps, recipe.lr)):
            bar.to(step + 1, figures)
    spent = meter.read()  # before the renderer ends
    examples.close()
    model.save(folder)
    told = {"recipe": asdict(recipe), "figures": figures, **spent, "load_start": before, "load_end": load()}
    (folder / "pretrain.json").write_text(json.dumps(told, indent=1))


class Batches:
    """Batches of examples, rendered in a second process while the first trains.

    Draws depend on the recipe alone: step s draws from the first scenes that s steps could have used up.
    """

    def __init__(self, recipe: Recipe, layout: Layout, kinds: Sequence[str]) -> None:
        self.recipe, self._layout, self._kinds, self._step = recipe, layout, tuple(kinds), 0
        self._rng = np.random.default_rng(recipe.seed)
        self._process = ProcessPoolExecutor(1, get_context("spawn"), initializer=_one_thread)
        self._chunks = {family: self._rendered(family, count) for family, count in recipe.scenes.items()}
        self._pools: dict[str, list[Example]] = {family: [] for family in recipe.scenes}

    def __iter__(self) -> Iterator[list[Example]]:
        return self

    def __next__(self) -> list[Example]:
        self._step += 1
        batch: list[Example] = []
        for family, count in self.recipe.batch.items():
            pool = self._pools[family]
            while len(pool) < self._step * count:
                chunk = next(self._chunks[family], None)
                if chunk is None:
                    break
                pool += [self._example(pixels, told) for pixels, told in chunk.result()]
            # while new scenes come in, each is used at least once
            fresh = pool[(self._step - 1) * count : self._step * count]
            rest = self._rng.integers(len(pool), size=count - len(fresh))
            batch += fresh + [pool[i] for i in rest]
        return batch

    def close(self) -> None:
        """End the rendering process."""
        self._process.shutdown(cancel_futures=True)

    def _example(self, pixels: np.ndarray, told: list[Told]) -> Example:
        from pixelis.learners.pretrain import Example, Target

        return Example(pixels, tuple(Target(k if k in self._kinds else "shape", color, box) for k, color, box in told))

    def _rendered(self, family: str, count: int) -> Iterator[Future[list[tuple[np.ndarray, list[Told]]]]]:
        starts = range(0, count, CHUNK)
        # all queued at once: the renderer never waits for us
        return iter([self._process.submit(render, family, a, min(count, a + CHUNK), self._layout) for a in starts])


def render(family: str, start: int, end: int, layout: Layout) -> list[tuple[np.ndarray, list[Told]]]:
    """The views of scenes `start` to `end` of the vision split, at the size the policy sees, and what they show."""
    import cv2

    from pixelis.actors.world import SEEN, dense, make_scene
    from pixelis.tools.frame import View, frame_at
    from pixelis.tools.media import MediaStore

    store = MediaStore()
    out: list[tuple[np.ndarray, list[Told]]] = []
    for index in range(start, end):
        scene = make_scene(family, "vision", index)
        sha = store.put(scene.media)
        frames = [None] if len(scene.frames) == 1 else [frame_at(t, len(scene.frames)) for t in SEEN]
        for frame, told in zip(frames, dense(scene), strict=True):
            view = View(sha, (0, 0, *scene.size), frame)
            height, width = layout.size(view)
            out.append((cv2.resize(store.pixels(view), (width, height), interpolation=cv2.INTER_AREA), told))
    return out


def _one_thread() -> None:
    import signal

    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    cv2.setNumThreads(1)
