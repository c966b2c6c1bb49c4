"""What travels between the driver and the rollout actors: small values, never trajectories in bulk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pixelis.actors.score import Outcome
from pixelis.actors.shift import Shift
from pixelis.actors.world import NO_SHIFT, Split
from pixelis.memory.trajectory import Version
from pixelis.memory.weights import Slot

Kind = Literal["recite", "sample", "evaluate"]


@dataclass(frozen=True, slots=True)
class Job:
    """Work for one rollout actor: task indices of a split. `(producer, seq)` names it in the replay shard.

    The key belongs to the job, not to the actor: a job done twice because an actor died is stored once.

    Example:
        >>> Job("sample", (0, 1), "rft", "tiny/rft/0", 3).seq
        3
    """

    kind: Kind
    indices: tuple[int, ...]
    split: Split
    producer: str = ""
    seq: int = 0
    shift: Shift = NO_SHIFT
    """What changes the pixels of the scenes (`evaluate` only)."""


@dataclass(frozen=True, slots=True)
class Published:
    """A weights version: the plan of its array, and a reference to it (in a tuple, so that Ray does not resolve it)."""

    version: Version
    plan: tuple[Slot, ...] = ()
    ref: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a rollout actor tells the driver about a finished job; the groups themselves are in the replay shard.

    Example:
        >>> Receipt(0, groups=2, sums={"n": 8.0, "reward": 3.0}).mean("reward")
        0.375
    """

    seq: int
    groups: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Over trajectories that count: n, reward, answer, steps, valid; `infra` counts those that do not; `seconds`."""
    outcomes: tuple[Outcome, ...] = ()
    episodes: bytes = b""
    """Evaluated episodes, encoded (`evaluate` only)."""

    def mean(self, name: str) -> float:
        """Mean over the trajectories that count, 0 without any."""
        return self.sums.get(name, 0.0) / self.sums["n"] if self.sums.get("n") else 0.0


def total(receipts: list[Receipt]) -> Receipt:
    """Several receipts as one."""
    sums: dict[str, float] = {}
    for receipt in receipts:
        for name, value in receipt.sums.items():
            sums[name] = sums.get(name, 0.0) + value
    outcomes = tuple(one for receipt in receipts for one in receipt.outcomes)
    return Receipt(-1, sum(r.groups for r in receipts), sums, outcomes)
