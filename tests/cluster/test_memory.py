"""The episode memory on a real Ray: killed under load nothing acknowledged is lost, and answers say what they lack."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import ray

from pixelis.cluster.memory import start_memory, stop_memory
from pixelis.cluster.part import NAMESPACE, name_of
from pixelis.memory.episodes import EpisodeShard
from pixelis.memory.recall import AwayError, EpisodeMemory, folders, shard_of
from pixelis.memory.remembered import Remembered, from_table
from pixelis.memory.select import RecallSettings
from pixelis.memory.task import Task

pytestmark = [pytest.mark.ray, pytest.mark.slow]
KILLS = 6


class Hashing:
    """Keys that follow from the text of what they are of."""

    hash = "hashing"

    def __call__(self, items: Sequence[str], /) -> np.ndarray:
        seeds = [int.from_bytes(hashlib.sha256(item.encode()).digest()[:4], "big") for item in items]
        return np.array([np.random.default_rng(seed).normal(size=16) for seed in seeds], np.float32)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield tmp_path / "memory"
    stop_memory(tmp_path / "memory")
    ray.shutdown()


def item(number: int) -> Remembered:
    medium = hashlib.sha256(b"%d" % number).hexdigest()
    return Remembered(f"e{number}", f"What is number {number}?", "text", str(number), (medium,))


def pids(root: Path) -> dict[int, int]:
    """Which process each living shard is."""
    found = {}
    for number, _ in enumerate(folders(root)):
        actor = ray.get_actor(name_of("memory", root, number), NAMESPACE)
        found[number] = int(ray.get(actor.health.remote(), timeout=120).split()[1])
    return found


def test_killed_under_load_every_acknowledged_episode_is_there_once(root: Path) -> None:
    settings = RecallSettings(least=-9, seconds=0.5)
    memory = EpisodeMemory(start_memory(root, 2), Hashing(), Hashing(), settings)
    rng, sent, partial = random.Random(0), 0, 0
    for _ in range(KILLS):
        assert memory.remember([item(n) for n in range(sent, sent + 20)]) == 20
        number, victim = rng.choice(list(pids(root).items()))
        futures = [memory.shards[n].ask("stats") for n in range(2)]
        os.kill(victim, signal.SIGKILL)
        found = memory.recall(Task("t", "What is it?", (item(10_000).media[0],)))
        if found.partial:
            partial += 1
            assert list(found.away) == [f"memory shard {number}"]
            assert all(shard_of(hit.item.id, 2) != number for hit in found.hits)
        assert memory.remember([item(n) for n in range(sent, sent + 30)]) == 10  # sent again: 20 are known
        assert [future.result(120)["rows"] for future in futures]
        sent += 30
    assert partial, "a shard was killed under every search, and none said so"
    end = time.monotonic() + 120
    while (found := memory.recall(Task("t", "What is it?", (item(10_000).media[0],)))).partial:
        assert time.monotonic() < end, found.away
    assert len(found.hits) == 8
    assert memory.forget([item(0).media[0], item(1).media[0]]) == 2
    again = start_memory(root, 5)  # found running: as many as it was made with
    assert len(again) == 2 and sum(handle.ask("stats").result(60)["rows"] for handle in again) == sent - 2
    stop_memory(root)
    with pytest.raises(AwayError):
        again[0].ask("stats").result(60)
    ids = []
    for folder in folders(root):
        shard = opened(folder)
        assert shard.verify() == []
        ids += [one.id for table in shard.tables() for one in from_table(table)]
        shard.close()
    assert sorted(ids) == sorted(f"e{n}" for n in range(2, sent))


def opened(folder: Path) -> EpisodeShard:
    """As soon as the actor that was ended has let go of it."""
    end = time.monotonic() + 60
    while True:
        try:
            return EpisodeShard(folder)
        except RuntimeError:
            assert time.monotonic() < end
            time.sleep(0.2)
