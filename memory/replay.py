"""One replay shard: groups of trajectories, durable before they are acknowledged, each exactly once.

A plain class with a single writer; `cluster/` wraps it in a named actor. Exactly once is at-least-once sending plus the
key (producer, seq), rebuilt from the log at every open.
"""

import hashlib
import json
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from pixelis.memory.codec import decode, encode
from pixelis.memory.log import Log, replace_file
from pixelis.memory.trajectory import Group
from pixelis.tools.media import MediaStore


class Holder(Protocol):
    """Anything that knows which media it holds durably: a MediaStore, a set of sha256."""

    def __contains__(self, sha: str, /) -> bool: ...


class Seen:
    """Which (producer, seq) were stored: per producer a high-water mark, and a set for what came ahead of it."""

    def __init__(self) -> None:
        self._below: dict[str, int] = {}
        self._ahead: dict[str, set[int]] = {}

    def __contains__(self, key: tuple[str, int]) -> bool:
        producer, seq = key
        return seq < self._below.get(producer, 0) or seq in self._ahead.get(producer, ())

    def add(self, producer: str, seq: int) -> None:
        """Remember one key; sequences start at 0."""
        ahead, mark = self._ahead.setdefault(producer, set()), self._below.get(producer, 0)
        ahead.add(seq)
        while mark in ahead:
            ahead.remove(mark)
            mark += 1
        self._below[producer] = mark


class ReplayShard:
    """Groups in insertion order under `root`: `log/` their records, `media/` their source media, `consumed.json`.

    `datasets` are read-only media stores (anything that answers `sha in dataset`) whose content is durable already.
    `cursor` counts the groups consumed. It and the drop counts survive a killed process; a run that resumes from a
    checkpoint overrides both with what that says (`seek`).

    Raises: LogError (see `memory.log.Log`) on opening a damaged or busy shard.

    Example: ReplayShard(Path("run/replay-0")).add("run/0/1", 0, [group], {sha: png})
    """

    def __init__(
        self, root: Path, datasets: Sequence[Holder] = (), segment_bytes: int = 64 << 20, decoded: int = 16
    ) -> None:
        self.root, self.datasets = root, tuple(datasets)
        self._log = Log(root / "log", segment_bytes)
        self.media = MediaStore(root / "media")
        self._seen = Seen()
        self._firsts: list[int] = []  # number of the first group in each record
        self._len = 0
        self._decoded: OrderedDict[int, list[Group]] = OrderedDict()
        self._keep = decoded
        self._duplicates = 0
        for key in self._log.keys:
            self._admit(**json.loads(key))
        self.cursor, self._dropped = 0, Counter[str]()
        self._load_consumed()

    def add(
        self, producer: str, seq: int, groups: bytes | list[Group], media: dict[str, bytes] | None = None
    ) -> Literal["stored", "dup"]:
        """Store groups (encoded or not) once per (producer, seq); returns when they and their media are durable.

        `media` maps sha256 to bytes. Raises ValueError naming the sha of a source medium that a group names and that
        is neither given, nor in this shard, nor in a dataset; nothing is stored then. CodecError for foreign bytes.
        """
        if (producer, seq) in self._seen:
            self._duplicates += 1
            return "dup"
        if seq < 0:
            raise ValueError(f"producer {producer}: seq {seq} is negative")
        members, data = (decode(groups), groups) if isinstance(groups, bytes) else (groups, encode(groups))
        self._keep_media(members, media or {})
        key = {"producer": producer, "seq": seq, "groups": len(members)}
        self._log.append(json.dumps(key).encode(), data)
        self._admit(producer, seq, len(members))
        return "stored"

    def take(self, n: int, cursor: int | None = None) -> list[Group]:
        """The next `n` groups (fewer when fewer are there) in insertion order; the cursor moves past them.

        A caller that may send a call twice gives the cursor it reads from: the repeated call answers the same.
        """
        start = self.cursor if cursor is None else self._checked(cursor)
        stop = min(start + n, len(self))
        groups = [self[i] for i in range(start, stop)]
        self.cursor = stop
        self._save_consumed()
        return groups

    def sample(self, n: int, rng: np.random.Generator) -> list[Group]:
        """`n` different groups (fewer when fewer are there), uniform over everything stored; the cursor stays."""
        return [self[int(i)] for i in rng.permutation(len(self))[:n]]

    def seek(self, cursor: int, dropped: dict[str, int] | None = None) -> None:
        """Go back (or on) to a saved cursor, with the drop counts saved beside it when given."""
        self.cursor = self._checked(cursor)
        if dropped is not None:
            self._dropped = Counter(dropped)
        self._save_consumed()

    def drop(self, reason: str, count: int = 1) -> None:
        """Account for taken groups that will not be trained on."""
        self._dropped[reason] += count
        self._save_consumed()

    @property
    def dropped(self) -> dict[str, int]:
        """Groups dropped, by reason."""
        return dict(self._dropped)

    def stats(self) -> dict[str, Any]:
        """Counts of groups (except `records` and `bytes`); `pending` are stored and not consumed."""
        return {
            "groups": len(self),
            "records": len(self._log),
            "bytes": self._log.size,
            "cursor": self.cursor,
            "pending": len(self) - self.cursor,
            "duplicates": self._duplicates,
            "dropped": self.dropped,
        }

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, index: int) -> Group:
        """The group with this number in insertion order, read back from disk."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.root}: group {index} of {len(self)}")
        record = bisect_right(self._firsts, index) - 1
        return self._record(record)[index - self._firsts[record]]

    def close(self) -> None:
        """Let another process open the shard."""
        self._log.close()

    def _admit(self, producer: str, seq: int, groups: int) -> None:
        self._seen.add(producer, seq)
        self._firsts.append(self._len)
        self._len += groups

    def _record(self, number: int) -> list[Group]:
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

    def _checked(self, cursor: int) -> int:
        if not 0 <= cursor <= len(self):
            raise ValueError(f"{self.root}: cursor {cursor} is outside 0..{len(self)}")
        return cursor

    def _load_consumed(self) -> None:
        path = self.root / "consumed.json"
        if path.exists():
            raw = json.loads(path.read_text())
            self.cursor, self._dropped = self._checked(raw["cursor"]), Counter(raw["dropped"])

    def _save_consumed(self) -> None:
        state = {"cursor": self.cursor, "dropped": self._dropped}
        replace_file(self.root / "consumed.json", json.dumps(state).encode())
