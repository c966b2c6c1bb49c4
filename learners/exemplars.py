"""Exemplars of accepted questions, imitated again in later updates (paper 6.8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pixelis.memory.codec import from_table, to_table
from pixelis.memory.trajectory import Group, Trajectory


class Recall:
    """The newest `most` exemplars, none older than `age` updates.

    Draws are stratified by the operations of the chains, so that rare ones come back as often as common ones. They depend on
    the step and on what is kept, on nothing else.

    Example:
        >>> recall = Recall(most=512, age=5000)                         # doctest: +SKIP
        >>> recall.add(12, [exemplar])                                  # doctest: +SKIP
        >>> recall.draw(1, step=13) == [exemplar]                       # doctest: +SKIP
    """

    def __init__(self, most: int, age: int) -> None:
        self.most, self.age = most, age
        self.kept: list[tuple[int, Trajectory]] = []
        """With the step that first learned from each."""

    def add(self, step: int, exemplars: Sequence[Trajectory]) -> None:
        """Remember the exemplars that a step has learned from."""
        self.kept = [*self.kept, *((step, one) for one in exemplars)][-self.most :] if self.most else []

    def draw(self, n: int, step: int) -> list[Trajectory]:
        """`n` exemplars for a step, fewer when there are fewer; none twice."""
        self.kept = [(since, one) for since, one in self.kept if step - since <= self.age]
        rng = np.random.default_rng([1, step])
        kinds: dict[tuple[str, ...], list[Trajectory]] = {}
        for _, one in self.kept:
            kinds.setdefault(operations(one), []).append(one)
        found: list[Trajectory] = []
        while kinds and len(found) < n:
            kind = sorted(kinds)[int(rng.integers(len(kinds)))]
            found.append(kinds[kind].pop(int(rng.integers(len(kinds[kind])))))
            kinds = {name: some for name, some in kinds.items() if some}
        return found

    def state(self) -> tuple[list[int], dict[str, pa.Table]]:
        """JSON and a table for a checkpoint."""
        return [since for since, _ in self.kept], alone("recall", [one for _, one in self.kept])

    def restore(self, state: Sequence[int], tables: Mapping[str, pa.Table]) -> None:
        """Inverse of `state`."""
        self.kept = list(zip(state, single(tables, "recall"), strict=True))


def operations(trajectory: Trajectory) -> tuple[str, ...]:
    """What a chain called, in order."""
    return tuple(turn.call.name for turn in trajectory.turns if turn.call is not None)


def due(share: float, rest: float, fresh: int, step: int) -> range:
    """The items that are a share of a batch whose `fresh` ones are `rest` of it: whole numbers that are right over steps.

    They are numbered on from step to step, as long as `fresh` is the same.

    Example:
        >>> [list(due(0.25, 0.65, 4, step)) for step in range(4)]       # 4 / 0.65 * 0.25 = 1.54
        [[0], [1, 2], [3], [4, 5]]
    """
    each = share / rest * fresh
    return range(int(step * each + 1e-9), int((step + 1) * each + 1e-9))


def alone(name: str, trajectories: Sequence[Trajectory]) -> dict[str, pa.Table]:
    """Trajectories as a table of that name; none without any."""
    return {name: to_table([Group(t.task_id, (t,)) for t in trajectories])} if trajectories else {}


def single(tables: Mapping[str, Any], name: str) -> list[Trajectory]:
    """Inverse of `alone`."""
    return [group.trajectories[0] for group in from_table(tables[name])] if name in tables else []
