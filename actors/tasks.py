"""Where questions come from: PixelWorld scenes by index, the families in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import count, islice
from typing import Protocol

from pixelis.actors.scene import Scene
from pixelis.actors.shift import Shift
from pixelis.actors.world import NO_SHIFT, Split, make_scene
from pixelis.memory.task import GoldTask
from pixelis.tools.media import MediaStore


class Questions(Protocol):
    """Questions with their keys by index; their media are in the store once they are asked for."""

    store: MediaStore

    def gold(self, index: int) -> GoldTask: ...


class TaskSource:
    """Scenes of one split by index: the families in turns, a family named twice has two turns in a round.

    With `scenes`, the scenes of each family, a family that has no more is passed over; `shift` changes
    the pixels of all.

    Example:
        >>> source = TaskSource(("code", "clip"), "demo", MediaStore(None), {"code": 1, "clip": 3})
        >>> [source.scene(i).family for i in range(4)]
        ['code', 'clip', 'clip', 'clip']
    """

    def __init__(
        self,
        families: Sequence[str],
        split: Split,
        store: MediaStore,
        scenes: Mapping[str, int] | None = None,
        shift: Shift = NO_SHIFT,
    ) -> None:
        self.families, self.split, self.store, self.shift = tuple(families), split, store, shift
        self._turns = turns(self.families, scenes) if scenes else None
        self._scene = lru_cache(maxsize=256)(self._render)

    def scene(self, index: int) -> Scene:
        """The rendered scene; its media is in the store afterwards."""
        return self._scene(index)

    def gold(self, index: int) -> GoldTask:
        """The question with its key."""
        return self.scene(index).task

    def _render(self, index: int) -> Scene:
        family, number = self._turns[index] if self._turns else turn(self.families, index)
        scene = make_scene(family, self.split, number, self.shift)
        self.store.put(scene.media)
        return scene


def turn(families: Sequence[str], index: int) -> tuple[str, int]:
    """Whose turn an index is, and which of its scenes is asked.

    Example:
        >>> [turn(("code", "code", "clip"), i) for i in range(4)]
        [('code', 0), ('code', 1), ('clip', 0), ('code', 2)]
    """
    rounds, place = divmod(index, len(families))
    family = families[place]
    return family, rounds * families.count(family) + families[:place].count(family)


def turns(families: Sequence[str], scenes: Mapping[str, int]) -> list[tuple[str, int]]:
    """All turns while any family has scenes left."""
    asked = (turn(families, index) for index in count())
    live = ((family, number) for family, number in asked if number < scenes[family])
    return list(islice(live, sum(scenes.values())))
