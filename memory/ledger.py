"""The ledger of a phase: what became of every stored trajectory, written down when it happens and durable.

Weights have a lineage: a run that goes on from a checkpoint begins a new epoch there, and steps that came after that
checkpoint are void, with what they trained on. `lineage` reads the ledger that way; `account` proves that every stored
trajectory stands in it exactly once: trained, dropped with a reason, or pending. One that was trained may stand in once more
for another that was dropped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pixelis.memory.log import Log
from pixelis.memory.replay import Record, RecordId
from pixelis.memory.trajectory import Version

Place = tuple[RecordId, int]
"""Where a trajectory stands: (record, which of the record's trajectories)."""


@dataclass(frozen=True, slots=True)
class Began:
    """An epoch began from the weights after `step` steps; what lost weights had sampled is dropped.

    Example: Began((1, 40), 40, {"lost weights": (((0, 7), 0), ((0, 7), 1))})
    """

    version: Version
    step: int
    """Optimizer steps tried before."""
    dropped: dict[str, tuple[Place, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """A shard acknowledged a record. Example: Stored((0, 7))"""

    record: RecordId


@dataclass(frozen=True, slots=True)
class Stepped:
    """Optimizer step `step` (1 is the first) was tried in an epoch: what entered its loss, and what was left out.

    Example: Stepped(1, 41, (((0, 7), 0), ((0, 7), 3)), {"uniform": (((0, 7), 1),)})
    """

    epoch: int
    step: int
    trained: tuple[Place, ...]
    dropped: dict[str, tuple[Place, ...]] = field(default_factory=dict)
    stood_in: tuple[str, ...] = ()
    """Trajectories of earlier steps that entered once more, for groups without contrast, by id (paper 5.9)."""


Entry = Began | Stored | Stepped
KINDS: dict[str, type[Entry]] = {kind.__name__: kind for kind in (Began, Stored, Stepped)}


class Ledger:
    """Entries in the order they were written, under `root`. One writer at a time.

    Raises: LogError on opening a damaged or busy ledger.

    Example: Ledger(Path("run/ledger/rft")).write(Began((0, 0), 0))
    """

    def __init__(self, root: Path) -> None:
        self._log = Log(root)
        self.entries = [_decoded(raw) for number in range(len(self._log)) for raw in json.loads(self._log.read(number))]

    def write(self, *entries: Entry) -> None:
        """Make some entries durable, in order, all or none."""
        if entries:
            self._log.append(b"", json.dumps([{"kind": type(e).__name__, **asdict(e)} for e in entries]).encode())
            self.entries += entries

    def epoch(self, least: int) -> int:
        """The next epoch: above all that were begun here, and not below `least`."""
        return max([least, *(e.version[0] + 1 for e in self.entries if isinstance(e, Began))])

    def close(self) -> None:
        """Let another process open the ledger."""
        self._log.close()


def survives(version: Version, entries: Iterable[Entry]) -> bool:
    """Whether weights of this version are in the lineage of the last epoch begun."""
    return all(version[1] <= e.version[1] for e in entries if isinstance(e, Began) and e.version[0] > version[0])


def lineage(entries: Iterable[Entry]) -> list[Entry]:
    """The entries that count: without the steps that came after a checkpoint from which a later epoch began."""
    alive: list[Entry] = []
    for entry in entries:
        if isinstance(entry, Began):
            alive = [e for e in alive if not (isinstance(e, Stepped) and e.step > entry.step)]
        alive.append(entry)
    return alive


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the trajectories of a phase, and what is wrong with that (nothing, if the system is right).

    Example: Account(stored=64, trained=40, dropped={"uniform": 8}, pending=16).balanced
    """

    stored: int
    trained: int
    dropped: dict[str, int]
    pending: int
    stood_in: int = 0
    """Trained a second time, for one without contrast."""
    wrong: tuple[str, ...] = ()
    """Lost, trained twice, or in two places: one line each."""

    @property
    def balanced(self) -> bool:
        """Whether every stored trajectory stands exactly once."""
        return not self.wrong and self.stored == self.trained + sum(self.dropped.values()) + self.pending


def account(records: Mapping[RecordId, Record], entries: Sequence[Entry], once: bool) -> Account:
    """Balance the records of all shards against a phase's ledger. `once`: every trajectory trains once at most, in task
    order. What was evicted stands as it did before; what of it was pending is dropped, as "evicted"."""
    alive = lineage(entries)
    steps = [e for e in alive if isinstance(e, Stepped)]
    trained = Counter(place for step in steps for place in step.trained)
    stood_in = Counter(name for step in steps for name in step.stood_in)
    left_out = [
        (place, why)
        for e in alive
        if isinstance(e, Began | Stepped)
        for why, places in e.dropped.items()
        for place in places
        if once or isinstance(e, Began)  # a demonstration left out of one batch stands in the next
    ]
    stored = {(number, k) for number, record in records.items() for k in range(record.trajectories)}
    told = Counter(place for place, _ in left_out)
    numbers = [step.step for step in steps]
    wrong = [] if numbers == list(range(1, len(steps) + 1)) else [f"steps {numbers} do not follow one another"]
    told_of = {e.record for e in entries if isinstance(e, Stored)}
    wrong += [f"record {n} was acknowledged and is lost" for n in sorted(told_of - records.keys())]
    wrong += [f"{place} is in the ledger and in no shard" for place in (set(trained) | set(told)) - stored]
    wrong += [f"{place} was trained {n} times" for place, n in trained.items() if once and n > 1]
    wrong += [f"{name} stood in {n} times" for name, n in stood_in.items() if n > 1]
    wrong += [f"{place} was dropped {n} times" for place, n in told.items() if n > 1]
    wrong += [f"{place} was trained and dropped" for place in set(trained) & set(told)]
    pending = stored - set(trained) - set(told)
    evicted = {place for place in pending if records[place[0]].evicted}
    pending -= evicted
    dropped = Counter(why for _, why in left_out) + Counter({"evicted": len(evicted)})
    if once:
        wrong += _jumped(records, pending, set(trained))
    return Account(len(stored), len(trained), dict(dropped), len(pending), len(stood_in), tuple(wrong))


def _jumped(records: Mapping[RecordId, Record], pending: set[Place], trained: set[Place]) -> list[str]:
    """Pending trajectories whose questions came before some that were trained on: nobody will take them."""
    last = max((max(records[r].indices, default=-1) for r, _ in trained if r in records), default=-1)
    late = sorted({r for r, _ in pending if records[r].indices and min(records[r].indices) < last})
    first = min((min(records[r].indices) for r in late), default=0)
    return [f"record {r} (questions from {first}) was passed over" for r in late]


def _decoded(raw: dict[str, Any]) -> Any:
    kind = KINDS[raw.pop("kind")]
    if "record" in raw:
        raw["record"] = _record(raw["record"])
    if "version" in raw:
        raw["version"] = tuple(raw["version"])
    if "trained" in raw:
        raw["trained"] = _places(raw["trained"])
        raw["stood_in"] = tuple(raw.get("stood_in", ()))
    if "dropped" in raw:
        raw["dropped"] = {why: _places(places) for why, places in raw["dropped"].items()}
    return kind(**raw)


def _places(raw: list[Any]) -> tuple[Place, ...]:
    return tuple((_record(record), k) for record, k in raw)


def _record(raw: list[int]) -> RecordId:
    shard, number = raw
    return shard, number
