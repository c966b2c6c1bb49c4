"""What the learner draws from: groups once, or again and again by a mixture; each knows where it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pixelis.cluster.config import ANY, ConfigError, ReplaySettings, Stage
from pixelis.learners.judged import Judged
from pixelis.memory.ledger import Place
from pixelis.memory.replay import RecordId
from pixelis.memory.trajectory import Group


@dataclass(frozen=True, slots=True)
class Held:
    """A stored group. Example: Held(group, record=(0, 7), first=4).places == (((0, 7), 4), ((0, 7), 5))"""

    group: Group
    record: RecordId
    first: int
    """Which of the record's trajectories is the group's first."""
    judged: Judged | None = None
    """With the verdict on it (phase `ttrl`)."""

    @property
    def places(self) -> tuple[Place, ...]:
        """Where each of its trajectories stands."""
        return tuple((self.record, self.first + k) for k in range(len(self.group)))

    @property
    def sampled_at(self) -> int:
        """The step of the oldest weights that sampled any of its turns."""
        return min(t.oldest_version[1] for t in self.group.trajectories)


class Pool:
    """Groups by the settings of a phase. Draws depend on (seed, step) and on what was added, not on who stored it first.

    Example:
        >>> pool = Pool(ReplaySettings("epochs"), seed=0)                                # doctest: +SKIP
        >>> pool.add({(0, 7): shard.read([7])[0]})                                       # doctest: +SKIP
        >>> batch = pool.draw(step=7)                                                    # doctest: +SKIP
    """

    def __init__(self, settings: ReplaySettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self._fresh: list[Held] = []
        self._families: dict[str, list[Held]] = {}

    def add(self, records: Mapping[RecordId, Sequence[Group | Judged]]) -> None:
        """Take the groups of some records in."""
        for number, groups in records.items():
            first = 0
            for one in groups:
                group, judged = (one.group, one) if isinstance(one, Judged) else (one, None)
                family = group.trajectories[0].family
                kept = self._fresh if self.settings.mode == "once" else self._families.setdefault(family, [])
                kept.append(Held(group, number, first, judged))
                first += len(group)
        for kept in (self._fresh, *self._families.values()):
            kept.sort(key=lambda held: (held.group.task_id, held.group.trajectories[0].id))

    def draw(self, step: int) -> list[Held]:
        """The groups of optimizer step `step` (0-based). ConfigError when the mixture wants a family that is not there."""
        if self.settings.mode == "once":
            fresh, self._fresh = self._fresh, []
            return fresh
        rng = np.random.default_rng([self.seed, step])
        batch = stage_at(self.settings.mixture, step).batch
        return [held for family, count in batch.items() for held in self._some(family, count, rng)]

    def _some(self, family: str, count: int, rng: np.random.Generator) -> list[Held]:
        named = sorted(self._families) if family == ANY else [family]
        kept = [held for name in named for held in self._families.get(name, [])]
        if count and not kept:
            has = ", ".join(self._families) or "nothing"
            raise ConfigError(f"replay.mixture: no {family} in replay, which has {has}; it wants {count} a batch")
        return [kept[i] for i in rng.integers(len(kept), size=count)] if count else []


def by_age(drawn: Sequence[Held], oldest: int) -> tuple[list[Held], list[Held]]:
    """Groups with a turn that older weights than those of step `oldest` have sampled, and the others."""
    stale: list[Held] = []
    fresh: list[Held] = []
    for held in drawn:
        (stale if held.sampled_at < oldest else fresh).append(held)
    return stale, fresh


def stage_at(mixture: tuple[Stage, ...], step: int) -> Stage:
    """The stage that step `step` (0-based) is in; the last one when all have ended."""
    return next((stage for stage in mixture if not stage.until or step < stage.until), mixture[-1])
