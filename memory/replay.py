"""One replay shard: groups of trajectories, durable before they are acknowledged, each exactly once.

A plain class with a single writer; `cluster/` wraps it in a named actor. Exactly once is at-least-once sending plus the
key (producer, seq), rebuilt from the log at every open. What was consumed is not known here: that belongs to the weights
(`memory.ledger`).
"""

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from pixelis.memory.codec import decode, encode
from pixelis.memory.log import Log
from pixelis.memory.trajectory import Group, Version
from pixelis.tools.media import MediaStore


class Holder(Protocol):
    """Anything that knows which media it holds durably: a MediaStore, a set of sha256."""

    def __contains__(self, sha: str, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class Record:
    """What the shard knows of one record without reading it: the groups of one job.

    Example: Record("tiny/rft/0", 3, (6, 7), (0, 3), groups=2, trajectories=8)
    """

    producer: str
    seq: int
    indices: tuple[int, ...]
    """The task indices that were asked."""
    version: Version
    """The newest weights that any of its turns was sampled with; (0, 0) without turns."""
    groups: int
    trajectories: int
    media: tuple[str, ...] = ()
    """sha256 of every source medium that its groups name."""


class ReplayShard:
    """Records in the order they came, under `root`: `log/` what they hold, `media/` their source media.

    `datasets` are read-only media stores (anything that answers `sha in dataset`) whose content is durable already.

    Raises: LogError (see `memory.log.Log`) on opening a damaged or busy shard.

    Example: ReplayShard(Path("run/replay-0")).add("run/0/1", 0, [group], {sha: png})
    """

    def __init__(self, root: Path, datasets: Sequence[Holder] = (), segment_bytes: int = 64 << 20, decoded: int = 16) -> None:
        self.root, self.datasets = root, tuple(datasets)
        self._log = Log(root / "log", segment_bytes)
        self.media = MediaStore(root / "media")
        self.records: list[Record] = []
        self._numbers: dict[tuple[str, int], int] = {}
        self._decoded: OrderedDict[int, list[Group]] = OrderedDict()
        self._keep = decoded
        self._duplicates = 0
        self.references: Counter[str] = Counter()
        """Records that name a source medium, by sha256: its bytes are needed while there is one."""
        for key in self._log.keys:
            self._admit(_record(key))

    def add(
        self,
        producer: str,
        seq: int,
        groups: bytes | list[Group],
        media: dict[str, bytes] | None = None,
        indices: Sequence[int] = (),
    ) -> int:
        """Store groups (encoded or not) once per (producer, seq); returns the record's number when all is durable.

        `media` maps sha256 to bytes. Raises ValueError naming the sha of a source medium that a group names and that
        is neither given, nor in this shard, nor in a dataset; nothing is stored then. CodecError for foreign bytes.
        """
        if (producer, seq) in self._numbers:
            self._duplicates += 1
            return self._numbers[producer, seq]
        members, data = (decode(groups), groups) if isinstance(groups, bytes) else (groups, encode(groups))
        self._keep_media(members, media or {})
        record = describe(producer, seq, members, indices)
        self._log.append(json.dumps(asdict(record)).encode(), data)
        return self._admit(record)

    def read(self, numbers: Sequence[int]) -> list[list[Group]]:
        """The groups of some records, from disk. IndexError for a record that is not there."""
        return [self._groups(number) for number in numbers]

    def catalog(self) -> list[Record]:
        """What every record is, by number."""
        return list(self.records)

    def stats(self) -> dict[str, int]:
        """Counts for a dashboard."""
        return {
            "records": len(self.records),
            "groups": len(self),
            "trajectories": sum(r.trajectories for r in self.records),
            "bytes": self._log.size,
            "media": len(self.references),
            "duplicates": self._duplicates,
        }

    def __len__(self) -> int:
        """Groups in all records."""
        return sum(r.groups for r in self.records)

    def close(self) -> None:
        """Let another process open the shard."""
        self._log.close()

    def _admit(self, record: Record) -> int:
        number = self._numbers[record.producer, record.seq] = len(self.records)
        self.records.append(record)
        self.references.update(record.media)
        return number

    def _groups(self, number: int) -> list[Group]:
        if not 0 <= number < len(self.records):
            raise IndexError(f"{self.root}: record {number} of {len(self.records)}")
        if number not in self._decoded:
            self._decoded[number] = decode(self._log.read(number))
            if len(self._decoded) > self._keep:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(number)
        return self._decoded[number]

    def _keep_media(self, groups: list[Group], media: dict[str, bytes]) -> None:
        stored: tuple[Holder, ...] = (self.media, *self.datasets)
        missing = [sha for g in groups for sha in g.media if not any(sha in store for store in stored)]
        for sha in missing:
            if sha not in media:
                raise ValueError(f"{self.root}: source medium {sha} is neither given nor stored")
            if hashlib.sha256(media[sha]).hexdigest() != sha:
                raise ValueError(f"{self.root}: the {len(media[sha])} bytes given as {sha} have another hash")
        for sha in missing:
            self.media.put(media[sha])


def describe(producer: str, seq: int, groups: Sequence[Group], indices: Sequence[int] = ()) -> Record:
    """The record that some groups make."""
    trajectories = [t for g in groups for t in g.trajectories]
    newest = max((version for t in trajectories for version in t.versions), default=(0, 0))
    media = tuple(dict.fromkeys(sha for g in groups for sha in g.media))
    return Record(producer, seq, tuple(indices), newest, len(groups), len(trajectories), media)


def _record(key: bytes) -> Record:
    raw: dict[str, Any] = json.loads(key)
    lists = {name: tuple(raw[name]) for name in ("indices", "version", "media")}
    return Record(**{**raw, **lists})
