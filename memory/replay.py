"""One replay shard: groups of trajectories, durable before they are acknowledged, each exactly once.

A plain class with a single writer; `cluster/` wraps it in a named actor. Exactly once is at-least-once sending plus the
key (producer, seq), rebuilt from the log at every open. What was consumed is not known here: that belongs to the weights
(`memory.ledger`). A run may have several shards; a record is named by its shard and its number there.
"""

import hashlib
import json
import math
import re
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pixelis.memory.codec import decode, encode
from pixelis.memory.fence import Fence
from pixelis.memory.log import Log
from pixelis.memory.rows import Column, Rows
from pixelis.memory.sampler import Key, Sampler
from pixelis.memory.segment import Segments, Span
from pixelis.memory.trajectory import Group, Version
from pixelis.tools.media import MediaStore

RecordId = tuple[int, int]
"""(shard, number of the record there)."""


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
    strata: tuple[str, ...] = ()
    """What its groups are drawn by (`ReplayShard.sample`), one each."""
    evicted: str = ""
    """Why its groups were given up to make room, empty while they are there: "bytes" or "stale"."""


class ReplayShard:
    """Records in the order they came, under `root`: `log/` what they hold, `media/` their source media, `epoch` its fence.

    Opening takes the folder over: whoever had it open before is refused from then on (`memory.fence`). `datasets` are
    read-only media stores (anything that answers `sha in dataset`) whose content is durable already. `stratum` says what
    a group is drawn by.

    Raises: LogError (see `memory.log.Log`) on opening a damaged shard.

    Example: ReplayShard(Path("run/replay-0")).add("run/0/1", 0, [group], {sha: png})
    """

    def __init__(
        self,
        root: Path,
        datasets: Sequence[Holder] = (),
        segment_bytes: int = 64 << 20,
        decoded: int = 16,
        stratum: Callable[[Group], str] | None = None,
    ) -> None:
        self.root, self.datasets, self.stratum = root, tuple(datasets), stratum or family
        self.fence = Fence(root)
        self._log = Log(root / "log", segment_bytes, self.fence.held)
        self.media = MediaStore(root / "media")
        self.records: list[Record] = []
        self.sampler = Sampler()
        self._numbers: dict[tuple[str, int], int] = {}
        self._segments = Segments()
        self._rows = Rows(self._encoded)
        self._decoded: OrderedDict[int, list[Group]] = OrderedDict()
        self._keep = decoded
        self._duplicates = 0
        self.references: Counter[str] = Counter()
        """Records that name a source medium, by sha256: its bytes are needed while there is one."""
        self._admit(read_catalog(self._log))
        self._drop_media(self._log.evicted)  # again, in case a crash came between

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
        Fenced when another writer has taken the shard over.
        """
        if (producer, seq) in self._numbers:
            self._duplicates += 1
            return self._numbers[producer, seq]
        members, data = (decode(groups), groups) if isinstance(groups, bytes) else (groups, encode(groups))
        self._keep_media(members, media or {})
        strata = tuple(map(self.stratum, members))
        record = replace(describe(producer, seq, members, indices), strata=strata)
        number = self._log.append(_key(record), data)
        self._admit([record])
        return number

    def read(self, numbers: Sequence[int]) -> list[list[Group]]:
        """The groups of some records, from disk. IndexError for a record that is not there, Evicted for one given up."""
        return [self._groups(number) for number in numbers]

    def encoded(self, numbers: Sequence[int]) -> list[bytes]:
        """As `read`, undecoded: `memory.codec`."""
        return [self._log.read(self._known(number)) for number in numbers]

    def spans(self, numbers: Sequence[int]) -> list[Span | None]:
        """Where on this node's disk other processes may read some records (`memory.segment.Segments`); None for those in the
        segment that is being written. Raises as `read` does."""
        return [self._log.span(self._known(number)) for number in numbers]

    def catalog(self) -> list[Record]:
        """What every record is, by number."""
        return list(self.records)

    def sample(self, batch: Mapping[str, int], seed: Any) -> list[Key]:
        """(record, which of its groups) of so many groups of each stratum, drawn by their priorities: see `Sampler.draw`."""
        return self.sampler.draw(batch, seed)

    def gather(self, keys: Sequence[Key]) -> dict[str, Column]:
        """Tokens and log-probs of every trajectory of some groups, as one array each: see `memory.rows`."""
        return self._rows.gather(keys)

    def prioritise(self, keys: Sequence[Key], priorities: Sequence[float]) -> None:
        """Set what groups are drawn in proportion to; 1 until then, and again after the shard was opened anew."""
        self.sampler.prioritise(keys, priorities)

    def evict(self, most: int = 0, oldest: int = 0, cursor: float = math.inf) -> list[int]:
        """Give up whole sealed segments, oldest first; returns the numbers of their records.

        Those in which all was sampled by weights of before step `oldest`, and then as many as it takes for the log to have
        `most` bytes (0: no bound). A segment with a record of question `cursor` or a later one stays: it is still to be
        read. What was given up stays in the catalog, so that all is accounted for, and a record sent again is still known.
        """
        gone: list[int] = []
        for segment, numbers in self._log.sealed().items():
            records = [self.records[number] for number in numbers]
            stale = all(record.version[1] < oldest for record in records)
            done = all(max(record.indices, default=-1) < cursor for record in records)
            if done and (stale or 0 < most < self._log.size):
                gone += self._log.evict(segment, b"stale" if stale else b"bytes")
                self._let_go(numbers)
        return gone

    def stats(self) -> dict[str, int]:
        """Counts for a dashboard."""
        return {
            "records": len(self.records),
            "groups": len(self),
            "trajectories": sum(r.trajectories for r in self.records),
            "bytes": self._log.size,
            "media": len(self.references),
            "duplicates": self._duplicates,
            "evicted": len(self._log.evicted),
        }

    def __len__(self) -> int:
        """Groups in all records."""
        return sum(r.groups for r in self.records)

    def close(self) -> None:
        """Let go of the files."""
        self._segments.close()
        self._log.close()

    def _admit(self, records: Sequence[Record]) -> None:
        keys, strata = list[Key](), list[str]()
        for number, record in enumerate(records, len(self.records)):
            self._numbers[record.producer, record.seq] = number
            if not record.evicted:
                self.references.update(record.media)
                keys += [(number, k) for k in range(len(record.strata))]
                strata += record.strata
        self.records += records
        self.sampler.add(keys, strata)

    def _let_go(self, numbers: Sequence[int]) -> None:
        """Forget what was given up: nobody draws it, and media that nobody names any more go too."""
        for number in numbers:
            record, why = self.records[number], self._log.evicted[number].decode()
            self.sampler.remove([(number, k) for k in range(len(record.strata))])
            self.references.subtract(record.media)
            self.records[number] = replace(record, evicted=why)
            self._decoded.pop(number, None)
        self._rows.forget(numbers)
        self.references = +self.references
        self._drop_media(numbers)

    def _drop_media(self, numbers: Collection[int]) -> None:
        for sha in {sha for number in numbers for sha in self.records[number].media} - self.references.keys():
            self.media.remove(sha)

    def _encoded(self, number: int) -> bytes | memoryview:
        span = self._log.span(self._known(number))
        return self._log.read(number) if span is None else self._segments.read(span)

    def _known(self, number: int) -> int:
        if not 0 <= number < len(self.records):
            raise IndexError(f"{self.root}: record {number} of {len(self.records)}")
        return number

    def _groups(self, number: int) -> list[Group]:
        if self._known(number) not in self._decoded:
            self._decoded[number] = decode(self._encoded(number))
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


def family(group: Group) -> str:
    """What kind of question it is."""
    return group.trajectories[0].family


def signature(group: Group) -> str:
    """The operations of its most frequent chain, like "ZOOM OCR"; of two as frequent, the first.

    Example: signature(group_of_three_that_zoomed_and_read)
    """
    chains = Counter(" ".join(turn.call.name for turn in t.turns if turn.call) for t in group.trajectories)
    return chains.most_common(1)[0][0]


def read_catalog(log: Log) -> list[Record]:
    """What the records of a shard's log are."""
    gone = log.evicted
    return [replace(_record(key), evicted=gone[n].decode() if n in gone else "") for n, key in enumerate(log.keys)]


def folders(root: Path, shards: int = 1) -> list[Path]:
    """The folders of the shards of a phase, `shards` or as many as there are: the first is `root`, the others stand in it.

    Example:
        >>> folders(Path("run/replay/rft"), 2)
        [PosixPath('run/replay/rft'), PosixPath('run/replay/rft/shard-1')]
    """
    there = [int(path.name[6:]) + 1 for path in root.glob("shard-*") if re.fullmatch(r"shard-\d+", path.name)]
    return [root, *(root / f"shard-{i}" for i in range(1, max([shards, *there])))]


def route(producer: str, seq: int, shards: int) -> int:
    """Which of some shards a record goes to."""
    return zlib.crc32(f"{producer}/{seq}".encode()) % shards


def catalogs(root: Path) -> dict[RecordId, Record]:
    """The records of all shards of a phase, read without taking them over. LogError when one is damaged."""
    found: dict[RecordId, Record] = {}
    for shard, folder in enumerate(folders(root)):
        log = Log(folder / "log", readonly=True)
        found |= {(shard, number): record for number, record in enumerate(read_catalog(log))}
        log.close()
    return found


def _key(record: Record) -> bytes:
    """A record as the key of its frame; filled up so that Arrow's columns lie in the file at multiples of 8 bytes."""
    raw = asdict(record)
    del raw["evicted"]
    key = json.dumps(raw).encode()
    return key + b" " * (-len(key) % 8)


def _record(key: bytes) -> Record:
    raw: dict[str, Any] = json.loads(key)
    lists = {name: tuple(raw[name]) for name in ("indices", "version", "media", "strata")}
    return Record(**{**raw, **lists})
