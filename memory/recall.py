"""The episode memory: what is remembered, over all shards, found by the likeness of question and picture (paper 6.2)."""

from __future__ import annotations

import concurrent.futures as futures
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pixelis.memory.episodes import EpisodeShard
from pixelis.memory.remembered import Keys, Remembered, Row, Space, encode, to_table
from pixelis.memory.select import Found, Query, RecallSettings, merge
from pixelis.memory.task import Task

PATIENCE = 120.0
"""Seconds in which a shard has to make durable, or to forget, what it was told."""


class AwayError(RuntimeError):
    """A shard that cannot be asked: dead, unreachable, or too slow."""


class Encoder(Protocol):
    """Makes keys: of questions, or of media by their sha256."""

    hash: str
    """sha256 of the weights that make them, and of how."""

    def __call__(self, items: Sequence[str], /) -> np.ndarray:
        """One key a row, float32 [n, d]."""
        ...


class Handle(Protocol):
    """A shard, wherever it is. Its future raises AwayError when the shard is gone, and the shard's own errors."""

    name: str

    def ask(self, method: str, *given: Any) -> futures.Future[Any]:
        """Call a method of EpisodeShard."""
        ...


class Here:
    """A shard of this process, on a thread of its own: what it is asked it does one after another."""

    def __init__(self, shard: EpisodeShard) -> None:
        self.shard, self.name = shard, str(shard.root)
        self._thread = futures.ThreadPoolExecutor(1, f"memory-{shard.root.name}")

    def ask(self, method: str, *given: Any) -> futures.Future[Any]:
        """Call a method of the shard."""
        return self._thread.submit(getattr(self.shard, method), *given)

    def rest(self) -> None:
        """End the thread, when it has done what it was asked."""
        self._thread.shutdown()

    def close(self) -> None:
        """Let another process open the shard."""
        self.rest()
        self.shard.close()


class EpisodeMemory:
    """Remembers and finds episodes. `text` makes keys of questions, `pixels` of media.

    Example: EpisodeMemory([Here(EpisodeShard(folder))], words, pictures).recall(task).hits
    """

    def __init__(
        self, shards: Sequence[Handle], text: Encoder, pixels: Encoder, settings: RecallSettings | None = None
    ) -> None:
        self.shards, self.text, self.pixels = list(shards), text, pixels
        self.settings = settings or RecallSettings()

    def keys(self, questions: Sequence[str], media: Sequence[Sequence[str]]) -> list[Keys]:
        """The keys of questions and of their media: of several, the mean. Each distinct one is encoded once."""
        words, shas = list(dict.fromkeys(questions)), list(dict.fromkeys(sha for some in media for sha in some))
        text = dict(zip(words, self.text(words), strict=True))
        pixels = dict(zip(shas, self.pixels(shas), strict=True))
        return [
            Keys(text[question], np.mean([pixels[sha] for sha in some], axis=0), self.pixels.hash, self.text.hash)
            for question, some in zip(questions, media, strict=True)
        ]

    def remember(self, items: Sequence[Remembered]) -> int:
        """Make episodes durable, each once by its id; returns how many are new. See `add`."""
        keys = self.keys([item.question for item in items], [item.media for item in items])
        return self.add(list(zip(items, keys, strict=True)))

    def add(self, rows: Sequence[Row]) -> int:
        """`remember` with keys made already: see `store`."""
        return store(self.shards, rows)

    def recall(self, task: Task) -> Found:
        """Neighbours of a question."""
        return self.search([self.query(task)])[0]

    def query(self, task: Task) -> Query:
        """A question as it is looked for."""
        [keys] = self.keys([task.question], [task.media])
        return Query(keys, task.question, task.answer_type, task.media)

    def search(self, queries: Sequence[Query]) -> list[Found]:
        """Neighbours of each query, of the shards that answer in time; which do not is said in `Found.away`."""
        asked = {handle.ask("search", queries, self.settings): handle for handle in self.shards}
        done, late = futures.wait(asked, self.settings.seconds)
        away = {asked[future].name: f"no answer within {self.settings.seconds:g} s" for future in late}
        for future in late:
            future.cancel()
        parts = []
        for future in asked:  # in the order of the shards
            if future in done:
                try:
                    parts.append(future.result())
                except AwayError as e:
                    away[asked[future].name] = str(e)
        return [merge([part[i] for part in parts], query, self.settings, away) for i, query in enumerate(queries)]

    def read(self, ids: Sequence[str]) -> dict[str, Remembered]:
        """Those of some episodes that are remembered, by id. AwayError for a shard that does not answer."""
        asked = [(handle, handle.ask("read", list(ids))) for handle in self.shards]
        parts = [_answer(future, handle, PATIENCE, "read episodes") for handle, future in asked]
        return {id: item for part in parts for id, item in part.items()}

    def forget(self, media: Sequence[str]) -> int:
        """Forget all episodes on media named by their sha256, on every shard; returns how many there were.

        Raises: AwayError naming a shard that did not confirm it: what it holds is not forgotten before this succeeds.
        """
        asked = [(handle, handle.ask("forget", list(media))) for handle in self.shards]
        return sum(_answer(future, handle, PATIENCE, "forget media") for handle, future in asked)

    def stats(self) -> dict[str, dict[str, Any]]:
        """Counts of each shard by its name. AwayError for one that does not answer."""
        asked = [(handle, handle.ask("stats")) for handle in self.shards]
        return {handle.name: _answer(future, handle, PATIENCE, "count its rows") for handle, future in asked}


def store(shards: Sequence[Handle], rows: Sequence[Row]) -> int:
    """Make episodes durable with their keys, each once by its id; returns how many are new.

    Raises: AwayError naming a shard that did not acknowledge: send them again, none is stored twice.
    """
    parts: dict[tuple[int, Space], list[Row]] = defaultdict(list)
    for item, keys in rows:
        parts[shard_of(item.id, len(shards)), keys.space].append((item, keys))
    asked = [(shards[n], shards[n].ask("add", encode(to_table(part)))) for (n, _), part in parts.items()]
    return sum(_answer(future, handle, PATIENCE, "make episodes durable") for handle, future in asked)


def shard_of(id: str, shards: int) -> int:
    """Which of some shards an episode belongs to.

    Example:
        >>> shard_of("r0/t3/1", 1)
        0
    """
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") % shards


def folders(root: Path) -> list[Path]:
    """The shards' folders under a memory's, in their order: as many as it was made with, since they say which is whose."""
    return sorted((path for path in root.glob("*") if path.name.isdigit()), key=lambda path: int(path.name))


def _answer(future: futures.Future[Any], handle: Handle, seconds: float, what: str) -> Any:
    try:
        return future.result(seconds)
    except futures.TimeoutError as e:
        raise AwayError(f"{handle.name} did not {what} within {seconds:g} s") from e
