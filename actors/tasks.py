"""Where questions come from: PixelWorld scenes by index, the families in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from pixelis.actors.scene import Scene
from pixelis.actors.world import Split, make_scene
from pixelis.memory.task import GoldTask
from pixelis.tools.media import MediaStore


class TaskSource:
    """Scenes of one split. Index i asks family i mod F for its scene i div F, so a range holds every family equally.

    With `scenes`, the scenes of each family, a family that has no more is passed over.

    Example:
        >>> source = TaskSource(("code", "clip"), "demo", MediaStore(None), {"code": 1, "clip": 3})
        >>> [source.scene(i).family for i in range(4)]
        ['code', 'clip', 'clip', 'clip']
    """

    def __init__(
        self, families: Sequence[str], split: Split, store: MediaStore, scenes: Mapping[str, int] | None = None
    ) -> None:
        self.families, self.split, self.store = tuple(families), split, store
        self._turns = turns(self.families, scenes) if scenes else None
        self._scene = lru_cache(maxsize=256)(self._render)

    def scene(self, index: int) -> Scene:
        """The rendered scene; its media is in the store afterwards."""
        return self._scene(index)

    def gold(self, index: int) -> GoldTask:
        """The question with its key."""
        return self.scene(index).task

    def _render(self, index: int) -> Scene:
        number, place = self._turns[index] if self._turns else divmod(index, len(self.families))
        scene = make_scene(self.families[place], self.split, number)
        self.store.put(scene.media)
        return scene


def turns(families: Sequence[str], scenes: Mapping[str, int]) -> list[tuple[int, int]]:
    """(scene, place of its family) in the order they are asked."""
    return sorted((number, place) for place, name in enumerate(families) for number in range(scenes[name]))
