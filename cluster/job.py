"""What travels between the driver and the rollout actors: small values, never trajectories in bulk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pixelis.actors.score import Outcome
from pixelis.actors.shift import Shift
from pixelis.actors.stream import Answer
from pixelis.actors.world import NO_SHIFT, Split
from pixelis.learners.collapse import Seen
from pixelis.memory.journal import Entry
from pixelis.memory.ledger import Place
from pixelis.memory.remembered import Row
from pixelis.memory.replay import RecordId
from pixelis.memory.trajectory import Version
from pixelis.memory.weights import Slot

Kind = Literal["recite", "sample", "evaluate", "judge"]
Key = tuple[Kind, int]
"""What tells jobs of one run apart while they are on their way: kind and `seq`."""


@dataclass(frozen=True, slots=True)
class Job:
    """Work for one rollout actor: task indices of a split. `(producer, seq)` names it in replay.

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

    @property
    def key(self) -> Key:
        """Of this job among those on their way."""
        return self.kind, self.seq

    def __str__(self) -> str:
        return f"{self.kind} of {len(self.indices)} questions of {self.split}"


@dataclass(frozen=True, slots=True)
class Published:
    """A weights version: the plan of its array, and a reference to it (in a tuple, so that Ray does not resolve it)."""

    version: Version
    plan: tuple[Slot, ...] = ()
    ref: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a rollout actor tells the driver about a finished job; the groups themselves are in a replay shard.

    Example:
        >>> Receipt(("sample", 0), groups=2, sums={"n": 8.0, "reward": 3.0}).mean("reward")
        0.375
    """

    key: Key
    record: RecordId | None = None
    """Where it is stored; None for an evaluation."""
    indices: tuple[int, ...] = ()
    """The task indices that were asked."""
    groups: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Over trajectories that count: n, reward, answer, steps, valid, calls by outcome; `infra` counts those that do not;
    seconds in all and in tools."""
    outcomes: tuple[Outcome, ...] = ()
    episodes: bytes = b""
    """Evaluated episodes, encoded (`evaluate` only)."""
    refused: tuple[str, ...] = ()
    """Traces that were not stored, and why (`recite` only)."""
    answers: tuple[Answer, ...] = ()
    """Of each question (`judge` only), as the next two."""
    rows: tuple[Row | None, ...] = ()
    """How each would be remembered; None for what was not accepted."""
    seen: tuple[Seen, ...] = ()
    """What the collapse alarm looks at."""

    def mean(self, name: str) -> float:
        """Mean over the trajectories that count, 0 without any."""
        return self.sums.get(name, 0.0) / self.sums["n"] if self.sums.get("n") else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a rollout actor answers when it is looked at: the jobs it has done since, and those it still holds.

    Example: Report((Receipt(("sample", 3), record=(0, 7), groups=2),), held=(("sample", 4),), doing="sample")
    """

    done: tuple[Receipt, ...] = ()
    held: tuple[Key, ...] = ()
    """The jobs that wait there or are being done."""
    doing: str = ""
    """The last thing it did, for people."""
    where: str = ""
    """Its process and node, for people."""


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer step as a learner tells it: figures, what entered the loss, and what was left out, by reason."""

    figures: dict[str, float]
    trained: tuple[Place, ...] = ()
    dropped: dict[str, tuple[Place, ...]] = field(default_factory=dict)
    stood_in: tuple[str, ...] = ()
    """Trajectories of earlier steps that entered it once more, by id."""
    entries: tuple[Entry, ...] = ()
    """For the journal (phase `ttrl` only)."""


def total(receipts: Sequence[Receipt]) -> Receipt:
    """Several receipts as one, for what they counted."""
    sums: dict[str, float] = {}
    for receipt in receipts:
        for name, value in receipt.sums.items():
            sums[name] = sums.get(name, 0.0) + value
    return Receipt(("sample", -1), groups=sum(r.groups for r in receipts), sums=sums)
