"""One shard of the episode memory: episodes in a log on disk, and a FAISS index of their keys as its cache (paper 6.2).

The log is the truth: an episode is durable before it is acknowledged, and the index is built from it whenever the shard opens.
Media that are to be forgotten leave a tombstone, and then the log is written anew without what they were in.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pixelis.memory.log import Log, LogError, locked, replace_file, sync
from pixelis.memory.remembered import Remembered, Row, Space, decode, encode, from_table, is_sha, keys_of, to_table
from pixelis.memory.select import POOL, Hit, Part, Query, RecallSettings, alike, topic

ROWS, FORGOTTEN = b"rows", b"forgotten"
"""Keys of the log's records: episodes as Arrow, and digests of media as JSON."""
CHUNK = 1024
"""Rows of a record when the log is written anew."""
CURRENT = "current"
"""The file that names the folder of the log."""


class _Place(NamedTuple):
    """What is held in memory of an episode, beside its keys in the index."""

    record: int
    row: int
    topic: str
    media: tuple[bytes, ...]
    step: int


class _Index:
    """The keys of one space: exact inner products, in the order that they came."""

    def __init__(self, text: int, pixels: int) -> None:
        import faiss

        self.text, self.pixels = text, pixels
        self.flat: Any = faiss.IndexFlatIP(text + pixels)
        self.ids: list[str] = []

    def add(self, ids: Sequence[str], keys: np.ndarray) -> None:
        """Keys [n, t + p] under ids."""
        self.flat.add(keys)
        self.ids += ids

    def nearest(self, query: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(similarities [n], places [n], joined keys [n, t + p]) of the most similar."""
        scores, places = self.flat.search(query[None], number)
        return scores[0], places[0], self.flat.reconstruct_batch(places[0])


class EpisodeShard:
    """Episodes under `root`, each once by its id; one process at a time.

    `decoded` episodes that were found lately are kept in memory.

    Raises: LogError on opening a damaged or busy shard.

    Example: EpisodeShard(Path("runs/x/memory/0")).add([(remembered, keys)])
    """

    def __init__(self, root: Path, segment_bytes: int = 64 << 20, decoded: int = 4096) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self._limit, self._keep = root, segment_bytes, decoded
        self._duplicates = 0
        self._lock = locked(root / "lock")
        try:
            self._open()
            if self._stale:  # it died between a tombstone and the new log
                self._compact()
        except BaseException:
            os.close(self._lock)
            raise

    def __len__(self) -> int:
        return len(self._places)

    def add(self, rows: bytes | Sequence[Row]) -> int:
        """Store episodes (encoded or not), all of one space; returns how many are new, when they are durable.

        An id that is there already is not stored again, nor is an episode on a medium that was forgotten.

        Raises: ValueError for keys of several spaces, or of another width than those of their space; nothing is stored then.
        CodecError for foreign bytes.
        """
        table = decode(rows) if isinstance(rows, bytes) else to_table(rows).combine_chunks()
        ids: list[str] = table["id"].to_pylist()
        fresh = [i for i, id in enumerate(ids) if id not in self._places and id not in ids[:i]]
        self._duplicates += len(ids) - len(fresh)
        media = table["media"].to_pylist()
        fresh = [i for i in fresh if not self._is_forgotten(map(bytes.fromhex, media[i]))]
        if not fresh:
            return 0
        table = table.take(fresh).combine_chunks()
        self._fits(table)
        number = self._log.append(ROWS, encode(table))
        self._admit(number, table, list(range(len(table))))
        return len(table)

    def search(self, queries: Sequence[Query], settings: RecallSettings) -> list[Part]:
        """What is nearest to each query, without its own and without near-duplicates."""
        return [self._search(query, settings) for query in queries]

    def read(self, ids: Sequence[str]) -> dict[str, Remembered]:
        """Those of some episodes that are here, by id."""
        return {id: self._item(id) for id in ids if id in self._places}

    def forget(self, media: Sequence[str]) -> int:
        """Forget every episode on media named by their sha256, now and for good; returns how many there were.

        When this returns their bytes are in no file of the shard: a tombstone was made durable, the log written anew without
        them, and the old one deleted. The tombstone has a hash of the hash. Raises ValueError for what is no sha256.
        """
        for sha in media:
            if not is_sha(sha):
                raise ValueError(f"{sha[:80]!r} is no sha256")
        before = len(self)
        new = {_digest(bytes.fromhex(sha)) for sha in media} - self._forgotten
        if new:
            self._log.append(FORGOTTEN, json.dumps(sorted(new)).encode())
            self._forgotten |= new
        if any(self._is_forgotten(place.media) for place in self._places.values()):
            self._compact()
        return before - len(self)

    def tables(self) -> Iterator[pa.Table]:
        """All episodes from disk, with their keys, in the order they came. LogError where the disk changed them."""
        for number, key in enumerate(self._log.keys):
            if key == ROWS:
                table = decode(self._log.read(number))
                yield table.take(pa.array(self._remembered(table), pa.int64()))

    def stats(self) -> dict[str, Any]:
        """Counts for a dashboard."""
        spaces: list[dict[str, Any]] = [
            {"vision": space[0], "reader": space[1], "rows": len(one.ids), "text": one.text, "pixels": one.pixels}
            for space, one in self._indexes.items()
        ]
        return {
            "rows": len(self),
            "records": len(self._log),
            "bytes": self._log.size,
            "index_bytes": sum(4 * s["rows"] * (s["text"] + s["pixels"]) for s in spaces),
            "media": len({sha for place in self._places.values() for sha in place.media}),
            "forgotten": len(self._forgotten),
            "duplicates": self._duplicates,
            "topics": dict(Counter(place.topic.split()[0] for place in self._places.values())),
            "spaces": spaces,
        }

    def verify(self, queries: int = 32, step: Callable[[int], None] = lambda done: None) -> list[str]:
        """What is wrong with records, ids, hashes and keys on disk, and with the index beside an exact search; a line each.

        `step` is told how many records were read.
        """
        wrong: list[str] = []
        seen: Counter[str] = Counter()
        exact = {space: _Exact(index, queries) for space, index in self._indexes.items()}
        for number, key in enumerate(self._log.keys):
            try:
                if key == ROWS:
                    table = decode(self._log.read(number))
                    seen.update(table["id"].to_pylist())
                    wrong += [f"record {number}: {line}" for line in self._compared(table, exact)]
                else:
                    json.loads(self._log.read(number))
            except (LogError, ValueError) as e:
                wrong.append(f"record {number}: {e}")
            step(number + 1)
        wrong += [f"episode {id} is stored {count} times" for id, count in seen.items() if count > 1]
        wrong += [f"episode {id} is indexed, and on disk no more" for id in self._places.keys() - seen.keys()]
        wrong += [line for one in exact.values() for line in one.wrong()]
        return wrong

    def close(self) -> None:
        """Let another process open the shard."""
        self._log.close()
        os.close(self._lock)

    def _search(self, query: Query, settings: RecallSettings) -> Part:
        index = self._indexes.get(query.keys.space)
        if index is None:
            return Part(foreign=len(self))
        foreign = len(self) - len(index.ids)
        if (len(query.keys.text), len(query.keys.pixels)) != (index.text, index.pixels):
            wide = f"{len(query.keys.text)} + {len(query.keys.pixels)}"
            raise ValueError(f"{self.root}: keys of {wide} numbers for episodes with {index.text} + {index.pixels}")
        asked, wanted = settings.weighed(query.keys), POOL * settings.count
        number = 2 * wanted
        while True:  # wider, while guards leave too few
            number = min(number, len(index.ids))
            scores, places, keys = index.nearest(asked, number)
            kept, own = self._guarded(query, settings, index, scores, places, keys, wanted)
            if len(kept) == wanted or number == len(index.ids) or scores[-1] < settings.least:
                break
            number *= 4
        hits = [
            Hit(
                self._item(index.ids[places[i]]), float(scores[i]), float(keys[i][: index.text] @ query.keys.text),
                float(keys[i][index.text :] @ query.keys.pixels), keys[i],
            )
            for i in kept
        ]  # fmt: skip
        return Part(tuple(hits), own, foreign)

    def _guarded(
        self, query: Query, settings: RecallSettings, index: _Index,
        scores: np.ndarray, places: np.ndarray, keys: np.ndarray, wanted: int,
    ) -> tuple[list[int], int]:  # fmt: skip
        """The candidates that may be returned, at most `wanted`, and how many were the query's own."""
        media, asked = {bytes.fromhex(sha) for sha in query.media}, query.topic
        same = alike(query.keys.joined, keys, index.text, settings.duplicate)
        kept: list[int] = []
        own = 0
        for i in range(int((scores >= settings.least).sum())):
            place = self._places[index.ids[places[i]]]
            if place.topic != asked or self._is_forgotten(place.media):  # the disk was full when it was to be deleted
                continue
            if query.before is not None and place.step >= query.before:  # nor may it take the place of another
                continue
            if same[i] or not media.isdisjoint(place.media):
                own += 1
            elif not alike(keys[i], keys[kept], index.text, settings.duplicate).any():
                kept.append(i)
                if len(kept) == wanted:
                    break
        return kept, own

    def _item(self, id: str) -> Remembered:
        if id not in self._items:
            place = self._places[id]
            [self._items[id]] = from_table(decode(self._log.read(place.record)).slice(place.row, 1))
            if len(self._items) > self._keep:
                self._items.popitem(last=False)
        self._items.move_to_end(id)
        return self._items[id]

    def _fits(self, table: pa.Table) -> None:
        spaces = _spaces(table)
        if len(spaces) > 1:
            raise ValueError(f"{self.root}: keys of {len(spaces)} spaces in one call: {spaces}")
        text, pixels = keys_of(table)
        index = self._indexes.get(spaces[0])
        if index is not None and (text.shape[1], pixels.shape[1]) != (index.text, index.pixels):
            wide, known = f"{text.shape[1]} + {pixels.shape[1]}", f"{index.text} + {index.pixels}"
            raise ValueError(f"{self.root}: keys of {wide} numbers, where those of this space have {known}")

    def _open(self) -> None:
        """Read the log that is current into memory; what else a crash left behind is deleted."""
        current = self.root / CURRENT
        self._folder = self.root / (current.read_text() if current.is_file() else "log-0")
        for other in self.root.glob("log-*"):
            if other != self._folder:
                shutil.rmtree(other)
        self._log = Log(self._folder, self._limit)
        self._places: dict[str, _Place] = {}
        self._indexes: dict[Space, _Index] = {}
        self._items: OrderedDict[str, Remembered] = OrderedDict()
        self._forgotten: set[str] = set()
        self._stale = 0
        for number, key in enumerate(self._log.keys):
            if key == FORGOTTEN:
                self._forgotten |= set(json.loads(self._log.read(number)))
        for number, key in enumerate(self._log.keys):
            if key == ROWS:
                table = decode(self._log.read(number))
                rows = self._remembered(table)
                self._stale += len(table) - len(rows)
                self._admit(number, table, rows)

    def _admit(self, record: int, table: pa.Table, rows: list[int]) -> None:
        """Index some rows of a record."""
        if not rows:
            return
        [space] = _spaces(table)
        text, pixels = keys_of(table)
        if space not in self._indexes:
            self._indexes[space] = _Index(text.shape[1], pixels.shape[1])
        names = ("id", "kind", "question", "media", "step")
        ids, kinds, questions, media, steps = (table[name].to_pylist() for name in names)
        for row in rows:
            hashes = tuple(map(bytes.fromhex, media[row]))
            self._places[ids[row]] = _Place(record, row, topic(kinds[row], questions[row]), hashes, steps[row])
        self._indexes[space].add([ids[row] for row in rows], np.concatenate([text, pixels], axis=1)[rows])

    def _compact(self) -> None:
        """Write the log anew without what is forgotten, put it in the old one's place, delete that, and read it."""
        number = int(self._folder.name.removeprefix("log-")) + 1
        folder = self.root / f"log-{number}"
        fresh = Log(folder, self._limit)
        try:
            fresh.append(FORGOTTEN, json.dumps(sorted(self._forgotten)).encode())
            for table in _chunks(self.tables()):
                fresh.append(ROWS, encode(table))
        except BaseException:
            shutil.rmtree(folder)
            raise
        finally:
            fresh.close()
        replace_file(self.root / CURRENT, folder.name.encode())
        self._log.close()
        self._open()
        sync(self.root)

    def _remembered(self, table: pa.Table) -> list[int]:
        """The rows none of whose media is forgotten."""
        if not self._forgotten:
            return list(range(len(table)))
        media = table["media"].to_pylist()
        return [row for row in range(len(table)) if not self._is_forgotten(map(bytes.fromhex, media[row]))]

    def _is_forgotten(self, media: Iterable[bytes]) -> bool:
        return bool(self._forgotten) and any(_digest(sha) in self._forgotten for sha in media)

    def _compared(self, table: pa.Table, exact: dict[Space, _Exact]) -> Iterator[str]:
        """What is wrong with a record's rows, looked at by themselves and beside the index."""
        [space] = _spaces(table)
        text, pixels = keys_of(table)
        index = self._indexes.get(space)
        if index is None or (text.shape[1], pixels.shape[1]) != (index.text, index.pixels):
            yield f"keys of {text.shape[1]} + {pixels.shape[1]} numbers, which the index of their space has not"
            return
        for name, keys in (("text", text), ("pixel", pixels)):
            if not np.allclose(np.linalg.norm(keys, axis=1), 1, atol=1e-4):
                yield f"a {name} key is no unit vector"
        for item in from_table(table):  # it checks answer types, hashes and scores
            if item.id not in self._places:
                yield f"episode {item.id} is not in the index"
        exact[space].take(table["id"].to_pylist(), np.concatenate([text, pixels], axis=1))


class _Exact:
    """A search of all keys by plain products, beside the index's own answers to the same queries."""

    def __init__(self, index: _Index, queries: int) -> None:
        rng = np.random.default_rng(0)
        some = rng.choice(len(index.ids), min(queries, len(index.ids)), replace=False)
        keys = index.flat.reconstruct_batch(some)
        self.index = index
        self.queries = (keys + rng.normal(0, 0.1 / keys.shape[1] ** 0.5, keys.shape)).astype(np.float32)
        self.count = min(8, len(index.ids))
        self.best = np.full((len(some), self.count), -np.inf, np.float32)
        self.rows = 0

    def take(self, ids: Sequence[str], keys: np.ndarray) -> None:
        """Keys [n, t + p], as the disk has them."""
        both = np.concatenate([self.best, self.queries @ keys.T], axis=1)
        self.best = -np.sort(-both, axis=1)[:, : self.count]
        self.rows += len(ids)

    def wrong(self) -> Iterator[str]:
        """How the index differs."""
        if self.rows != self.index.flat.ntotal or self.rows != len(self.index.ids):
            yield f"the index has {self.index.flat.ntotal} keys for {self.rows} on disk"
        found, _ = self.index.flat.search(self.queries, self.count)
        share = float(np.isclose(found, self.best, atol=1e-5).mean())
        if share < 1:
            yield f"the index finds {share:.3f} of what an exact search finds"


def _chunks(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of about CHUNK rows, each of one space."""
    held: list[pa.Table] = []
    for table in tables:
        if held and (sum(map(len, held)) + len(table) > CHUNK or _spaces(held[0]) != _spaces(table)):
            yield pa.concat_tables(held).combine_chunks()
            held = []
        held += [table] if len(table) else []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _spaces(table: pa.Table) -> list[Space]:
    pairs = table.select(["vision", "reader"]).group_by(["vision", "reader"]).aggregate([])
    return sorted(zip(pairs["vision"].to_pylist(), pairs["reader"].to_pylist(), strict=True))


def _digest(sha: bytes) -> str:
    """What a tombstone has of a medium's hash: enough to know it again, and not the hash."""
    return hashlib.sha256(b"forgotten" + sha).hexdigest()
