"""Where questions come from: PixelWorld scenes by index, alternating between families."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from pixelis.actors.scene import Scene
from pixelis.actors.world import Split, make_scene
from pixelis.memory.task import GoldTask
from pixelis.tools.media import MediaStore


class TaskSource:
    """Scenes of one split. Index i asks family i mod F for its scene i div F, so a range holds every family equally."""

    def __init__(self, families: Sequence[str], split: Split, store: MediaStore) -> None:
        self.families, self.split, self.store = tuple(families), split, store
        self._scene = lru_cache(maxsize=256)(self._render)

    def scene(self, index: int) -> Scene:
        """The rendered scene; its media is in the store afterwards."""
        return self._scene(index)

    def gold(self, index: int) -> GoldTask:
        """The question with its key."""
        return self.scene(index).task

    def _render(self, index: int) -> Scene:
        family = self.families[index % len(self.families)]
        scene = make_scene(family, self.split, index // len(self.families))
        self.store.put(scene.media)
        return scene
