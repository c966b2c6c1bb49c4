"""Replay shards killed under load: every record that was acknowledged is there once, whatever was killed when.

Usage: python bench/storm.py [KILLS]   (default 20; a Ray of its own)

Producers push records as fast as they are acknowledged, while processes of the shards die by SIGKILL at random moments.
"""

import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pixelis.cluster.shard import Shards, start_shards
from pixelis.memory.codec import encode
from pixelis.memory.replay import RecordId
from pixelis.memory.segment import Segments
from pixelis.memory.trajectory import Group, Trajectory, Turn

PAUSE = 1.5
"""Mean seconds between kills."""


@dataclass
class Storm:
    """What was acknowledged, by where it is said to stand, and how long that took."""

    acknowledged: dict[RecordId, tuple[str, int]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    killed: int = 0


def group(producer: str, seq: int, tokens: int = 2000) -> Group:
    """A group that only this producer sends, and only once."""
    turn = Turn(tuple(range(tokens)), (seq,), (-0.5,))
    return Group(f"{producer}/{seq}", (Trajectory(f"{producer}/{seq}", f"{producer}/{seq}", "?", (), (turn,), family="storm"),))


def storm(shards: Shards, kills: int, rng: random.Random, pids: Callable[[], list[int]], producers: int = 3) -> Storm:
    """Push and kill one of `pids()`, until all kills are done and each producer has then had a record more acknowledged."""
    out, over = Storm(), threading.Event()

    def push(producer: str) -> None:
        seq, last = 0, False
        while not last:
            last, start = over.is_set(), time.monotonic()
            out.acknowledged[shards.add(producer, seq, encode([group(producer, seq)]), (seq,))] = producer, seq
            out.seconds.append(time.monotonic() - start)
            seq += 1

    with ThreadPoolExecutor(producers) as pool:
        working = [pool.submit(push, f"p{i}") for i in range(producers)]
        try:
            while out.killed < kills and not any(one.done() for one in working):
                time.sleep(rng.uniform(0, 2 * PAUSE))
                if found := pids():
                    os.kill(rng.choice(found), signal.SIGKILL)
                    out.killed += 1
        finally:
            over.set()
        for one in working:
            one.result()
    return out


def wrong(shards: Shards, told: Storm) -> list[str]:
    """What is lost, twice or different, one line each."""
    records = shards.catalog()
    keys = [(record.producer, record.seq) for record in records.values()]
    out = [f"{key} is there {keys.count(key)} times" for key in set(keys) if keys.count(key) > 1]
    for id, key in told.acknowledged.items():
        if id not in records or (records[id].producer, records[id].seq) != key:
            out.append(f"{key} was acknowledged as {id}, which is {records.get(id)}")
    ids, segments = list(told.acknowledged), Segments()
    for id, read in zip(ids, shards.read(ids, segments), strict=True):
        if read != [group(*told.acknowledged[id])]:
            out.append(f"{id} is not what was sent")
    segments.close()
    return out


def main() -> None:
    """A storm on two shards, and what came of it."""
    import ray
    from kills import PARTS, below

    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        shards = start_shards(Path(folder), "storm", 60.0, count=2, segment_bytes=1 << 20)
        told = storm(shards, kills, random.Random(0), lambda: below(os.getpid(), PARTS["replay shard"]))
        errors = wrong(shards, told)
        shards.end()
    print(f"{told.killed} kills, {len(told.acknowledged)} records acknowledged, {len(errors)} of them lost, twice or different")
    print(f"push: p50 {1000 * statistics.median(told.seconds):.1f} ms, longest {max(told.seconds):.1f} s")
    print("\n".join(errors))
    ray.shutdown()
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
