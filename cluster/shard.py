"""The replay shards of a phase: `memory.replay.ReplayShard` as detached actors beside the run's media, and the way to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle

from pixelis.cluster.part import NAMESPACE, Late, answer, name_of
from pixelis.cluster.watchdog import tell
from pixelis.memory.codec import decode
from pixelis.memory.replay import Record, RecordId, ReplayShard, family, folders, route, signature
from pixelis.memory.sampler import Key
from pixelis.memory.segment import Segments, Span
from pixelis.memory.trajectory import Group
from pixelis.tools.media import MediaStore

RESTART = 60.0
"""Seconds in which Ray has a shard's process again, on a busy machine."""
STRATA: dict[str, Callable[[Group], str]] = {"family": family, "signature": signature}


class Shard:
    """A shard whose source media are durable in the run's media folder already. Opened by the first call, so that what is
    wrong with it is the answer of that call, in one line, and not the death of an actor."""

    def __init__(self, root: Path, media: Path, segment_bytes: int, strata: str) -> None:
        self.root, self.media, self.segment_bytes, self.strata = root, media, segment_bytes, strata

    @cached_property
    def replay(self) -> ReplayShard:
        """The shard; whoever had it open before writes no more."""
        return ReplayShard(self.root, [MediaStore(self.media)], self.segment_bytes, stratum=STRATA[self.strata])

    def refresh(self) -> int:
        """Open it anew if another writer has had it since (a run that goes on finds actors of before); returns its epoch."""
        if "replay" in vars(self) and self.replay.fence.current() != self.replay.fence.epoch:
            self.replay.close()
            del self.replay
        return self.replay.fence.epoch

    def add(self, producer: str, seq: int, groups: bytes, indices: Sequence[int]) -> int:
        """See `ReplayShard.add`."""
        return self.replay.add(producer, seq, groups, indices=indices)

    def spans(self, numbers: Sequence[int]) -> tuple[str, list[Span | None]]:
        """This node's id, and where on it some records can be read."""
        return ray.get_runtime_context().get_node_id(), self.replay.spans(numbers)

    def encoded(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """Some records' bytes, as arrays: those cross processes without a copy."""
        return [np.frombuffer(data, np.uint8) for data in self.replay.encoded(numbers)]

    def catalog(self) -> list[Record]:
        """See `ReplayShard.catalog`."""
        return self.replay.catalog()

    def weights(self) -> dict[str, float]:
        """The sum of priorities in each stratum."""
        return self.replay.sampler.weights

    def sample(self, batch: Mapping[str, int], seed: Sequence[int]) -> list[Key]:
        """See `ReplayShard.sample`."""
        return self.replay.sample(batch, seed)

    def prioritise(self, keys: Sequence[Key], priorities: Sequence[float]) -> None:
        """See `ReplayShard.prioritise`."""
        self.replay.prioritise(keys, priorities)

    def evict(self, most: int, oldest: int, cursor: int) -> list[int]:
        """See `ReplayShard.evict`."""
        return self.replay.evict(most, oldest, cursor)

    def __repr__(self) -> str:
        phase = self.root.parent if self.root.name.startswith("shard-") else self.root
        return f"Replay({self.root.relative_to(phase.parent)})"


@dataclass(frozen=True)
class Shards:
    """The shards of one phase, as rollout actors, learners and the driver reach them; a small value that travels.

    A shard that does not answer within `deadline` seconds is ended and asked once more: Ray restarts it on its log, and
    what it was told twice it stores once. PartError when it is late again.

    Example:
        >>> shards = start_shards(root, "rft", 150.0, count=2)                  # doctest: +SKIP
        >>> shards.read([shards.add("run/rft/0", 3, encode(groups), (6, 7))])  # doctest: +SKIP
    """

    actors: tuple[ActorHandle, ...]
    deadline: float

    def add(self, producer: str, seq: int, groups: bytes, indices: Sequence[int] = ()) -> RecordId:
        """Store encoded groups once per (producer, seq), durably, in the shard that the key says."""
        shard = route(producer, seq, len(self.actors))
        return shard, self._ask([shard], lambda _, actor: actor.add.remote(producer, seq, groups, indices))[shard]

    def read(self, ids: Sequence[RecordId], segments: Segments) -> list[list[Group]]:
        """The groups of some records."""
        return [decode(data) for data in self.encoded(ids, segments)]

    def encoded(self, ids: Sequence[RecordId], segments: Segments) -> list[Any]:
        """Some records' bytes: of sealed segments on this node from disk by `segments`, others from the shard."""
        here, found = ray.get_runtime_context().get_node_id(), dict[RecordId, Any]()
        asked = _by_shard(ids)
        for shard, (node, spans) in self._ask(asked, lambda shard, actor: actor.spans.remote(asked[shard])).items():
            for number, span in zip(asked[shard], spans, strict=True):
                if node == here and span is not None:
                    found[shard, number] = segments.read(span)
        rest = _by_shard(id for id in ids if id not in found)
        for shard, encoded in self._ask(rest, lambda shard, actor: actor.encoded.remote(rest[shard])).items():
            found |= {(shard, number): memoryview(data) for number, data in zip(rest[shard], encoded, strict=True)}
        return [found[id] for id in ids]

    def catalog(self) -> dict[RecordId, Record]:
        """What every record is."""
        found = self._ask(range(len(self.actors)), lambda _, actor: actor.catalog.remote())
        return {(shard, number): record for shard, records in found.items() for number, record in enumerate(records)}

    def sample(self, batch: Mapping[str, int], seed: Sequence[int]) -> list[tuple[RecordId, int]]:
        """(record, which of its groups) of so many groups of each stratum, by their priorities in all shards.

        The same for the same seed, shards and priorities. ValueError naming a stratum in which there is nothing.
        """
        rng = np.random.default_rng(seed)
        weights = self._ask(range(len(self.actors)), lambda _, actor: actor.weights.remote())
        shares: dict[int, dict[str, int]] = {}
        for name, count in batch.items():
            share = np.array([held.get(name, 0.0) for held in weights.values()])
            if not share.any():
                raise ValueError(f"no {name} to draw {count} from in {len(self.actors)} replay shards")
            for shard, some in enumerate(rng.multinomial(count, share / share.sum()).tolist()):
                if some:
                    shares.setdefault(shard, {})[name] = some
        drawn = self._ask(shares, lambda shard, actor: actor.sample.remote(shares[shard], [*seed, shard]))
        return [((shard, number), group) for shard, keys in drawn.items() for number, group in keys]

    def prioritise(self, keys: Sequence[tuple[RecordId, int]], priorities: Sequence[float]) -> None:
        """Set what groups are drawn in proportion to; 1 until then, and again after a shard was restarted."""
        shares: dict[int, tuple[list[Key], list[float]]] = {}
        for ((shard, number), group), priority in zip(keys, priorities, strict=True):
            some, values = shares.setdefault(shard, ([], []))
            some.append((number, group))
            values.append(priority)
        self._ask(shares, lambda shard, actor: actor.prioritise.remote(*shares[shard]))

    def evict(self, most: int, oldest: int, cursor: int) -> list[RecordId]:
        """Make room in each shard: see `ReplayShard.evict`."""
        gone = self._ask(range(len(self.actors)), lambda _, actor: actor.evict.remote(most, oldest, cursor))
        return [(shard, number) for shard, numbers in gone.items() for number in numbers]

    def end(self) -> None:
        """End the actors; what they hold stays on disk."""
        for actor in self.actors:
            ray.kill(actor)

    def _ask(self, shards: Iterable[int], ask: Callable[[int, ActorHandle], Any]) -> dict[int, Any]:
        refs = {shard: ask(shard, self.actors[shard]) for shard in shards}
        return {shard: self._answer(shard, ref, ask) for shard, ref in refs.items()}

    def _answer(self, shard: int, ref: Any, ask: Callable[[int, ActorHandle], Any]) -> Any:
        part, actor = f"replay shard {shard}", self.actors[shard]
        try:
            return answer(ref, self.deadline, part)
        except Late as late:
            tell(f"{late}: it is ended, and another one goes on with its log")
            ray.kill(actor, no_restart=False)
            return answer(ask(shard, actor), self.deadline + RESTART, part)


def start_shards(
    root: Path, phase: str, deadline: float, count: int = 1, segment_bytes: int = 64 << 20, strata: str = "family"
) -> Shards:
    """The shards of one phase, `count` or as many as it has, under `root/replay/PHASE`.

    They are detached actors, which outlive a driver that is killed.
    A run that goes on takes over those that still live; whoever ends in good order calls `end`. Ray restarts them when
    they die, and sends again what died with them. LogError when the log of one is damaged.
    """
    make: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Shard)
    once = {"namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True, "scheduling_strategy": "SPREAD"}
    places = folders(root / "replay" / phase, count)
    made = [
        make.options(name=name_of("replay", root, phase, shard), **once).remote(folder, root / "media", segment_bytes, strata)
        for shard, folder in enumerate(places)
    ]
    shards = Shards(tuple(made), deadline)
    try:
        shards._ask(range(len(made)), lambda _, actor: actor.refresh.remote())
    except BaseException:
        shards.end()
        raise
    return shards


def _by_shard(ids: Iterable[RecordId]) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for shard, number in ids:
        out.setdefault(shard, []).append(number)
    return out
