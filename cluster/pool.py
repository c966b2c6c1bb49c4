"""What the learner draws from: groups of the shard once in order, or again and again by a mixture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pixelis.cluster.config import ReplaySettings, Stage
from pixelis.memory.trajectory import Group

Take = Callable[[int, int], list[Group]]
"""(how many, cursor) -> groups: the replay shard's `take`."""


class Pool:
    """Groups by the settings of a phase. Draws depend on (seed, step) and on what is stored, not on who stored it first.

    Example:
        >>> pool = Pool(ReplaySettings("epochs"), seed=0, take=shard.take)     # doctest: +SKIP
        >>> pool.grow(100)                          # 100 groups are in the shard        # doctest: +SKIP
        >>> batch = pool.draw(step=7)                                                    # doctest: +SKIP
    """

    def __init__(self, settings: ReplaySettings, seed: int, take: Take) -> None:
        self.settings, self.seed, self._take = settings, seed, take
        self.cursor = 0
        self._fresh: list[Group] = []
        self._families: dict[str, list[Group]] = {}

    def grow(self, stored: int) -> None:
        """Read what the shard holds beyond the cursor, up to `stored` groups in all."""
        if stored <= self.cursor:
            return
        groups = sorted(self._take(stored - self.cursor, self.cursor), key=lambda g: (g.task_id, g.trajectories[0].id))
        self.cursor += len(groups)
        if self.settings.mode == "once":
            self._fresh += groups
            return
        for group in groups:
            self._families.setdefault(group.trajectories[0].family, []).append(group)
        for kept in self._families.values():
            kept.sort(key=lambda g: (g.task_id, g.trajectories[0].id))

    def draw(self, step: int) -> list[Group]:
        """The groups of optimizer step `step` (0-based). ValueError when the mixture wants a family that is not there."""
        if self.settings.mode == "once":
            groups, self._fresh = self._fresh, []
            return groups
        rng = np.random.default_rng([self.seed, step])
        batch = stage_at(self.settings.mixture, step).batch
        return [group for family, count in batch.items() for group in self._some(family, count, rng)]

    def _some(self, family: str, count: int, rng: np.random.Generator) -> list[Group]:
        groups = self._families.get(family, [])
        if count and not groups:
            raise ValueError(f"no {family} in the replay shard, the mixture wants {count}; it has {', '.join(self._families)}")
        return [groups[i] for i in rng.integers(len(groups), size=count)] if count else []


def stage_at(mixture: tuple[Stage, ...], step: int) -> Stage:
    """The stage that step `step` (0-based) is in; the last one when all have ended."""
    return next((stage for stage in mixture if not stage.until or step < stage.until), mixture[-1])
