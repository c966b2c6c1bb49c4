"""Groups with contrast that stand in, in a later update, for groups without (paper 5.9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pixelis.memory.codec import from_table, to_table
from pixelis.memory.trajectory import Group, Trajectory


@dataclass(frozen=True, slots=True)
class Kept:
    """A group that was learned from, with the advantages it had then.

    Example: Kept(step=12, members=((right, 1.0), (wrong, -1.0)))
    """

    step: int
    """The optimizer step that learned from it."""
    members: tuple[tuple[Trajectory, float], ...]


class Refill:
    """The groups of the last `age` updates that had contrast. Each stands in once at most, the newest first.

    Example:
        >>> refill = Refill(age=4)
        >>> refill.keep([Kept(1, ()), Kept(2, ())])
        >>> [kept.step for kept in refill.take(1, step=3)], [kept.step for kept in refill.take(9, step=3)]
        ([2], [1])
        >>> refill.take(1, step=3)
        []
    """

    def __init__(self, age: int) -> None:
        self.age = age
        self.kept: list[Kept] = []

    def keep(self, groups: Sequence[Kept]) -> None:
        """Remember groups that were just learned from."""
        self.kept += groups if self.age else ()

    def take(self, n: int, step: int) -> list[Kept]:
        """Up to `n` groups for this step; they are not given again."""
        fresh = [kept for kept in self.kept if step - kept.step <= self.age]
        split = max(0, len(fresh) - n)
        self.kept = fresh[:split]
        return fresh[split:][::-1]

    def state(self) -> tuple[dict[str, Any], dict[str, pa.Table]]:
        """JSON and a table for a checkpoint."""
        groups = [Group(kept.members[0][0].task_id, tuple(t for t, _ in kept.members)) for kept in self.kept]
        told = [{"step": kept.step, "advantages": [credit for _, credit in kept.members]} for kept in self.kept]
        return {"kept": told}, {"refill": to_table(groups)} if groups else {}

    def restore(self, state: dict[str, Any], tables: Mapping[str, pa.Table]) -> None:
        """Inverse of `state`."""
        groups = from_table(tables["refill"]) if "refill" in tables else []
        self.kept = [
            Kept(told["step"], tuple(zip(group.trajectories, told["advantages"], strict=True)))
            for told, group in zip(state["kept"], groups, strict=True)
        ]
