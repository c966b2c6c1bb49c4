"""The replay shards as actors, without a policy: killed and stopped under load, taken over, read where they lie."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from bench.kills import PARTS, below
from bench.storm import group, storm, wrong
from pixelis.cluster.errors import is_users, told
from pixelis.cluster.part import NAMESPACE, name_of
from pixelis.cluster.shard import Shards, start_shards
from pixelis.memory.codec import encode
from pixelis.memory.replay import ReplayShard, catalogs, route
from pixelis.memory.segment import LogError, Segments

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Shards]:
    made = start_shards(tmp_path, "rft", 60.0, count=2, segment_bytes=40_000)
    yield made
    made.end()


def pids() -> list[int]:
    """The processes of all shards."""
    return below(os.getpid(), PARTS["replay shard"])


def fill(shards: Shards, count: int) -> list[tuple[int, int]]:
    return [shards.add("p", seq, encode([group("p", seq)]), (seq,)) for seq in range(count)]


def test_what_was_acknowledged_is_there_once_after_kills_under_load(shards: Shards) -> None:
    happened = storm(shards, 4, random.Random(0), pids)
    assert happened.killed == 4 and len(happened.acknowledged) > 6
    assert wrong(shards, happened) == []


def test_a_shard_that_hangs_is_replaced_at_its_deadline(shards: Shards) -> None:
    ids = fill(shards, 4)
    impatient = Shards(shards.actors, 5.0)
    for pid in pids():
        os.kill(pid, signal.SIGSTOP)
    assert fill(impatient, 6)[:4] == ids
    assert len(impatient.catalog()) == 6


def test_records_go_to_the_shard_of_their_key_and_are_read_from_disk_once_sealed(shards: Shards) -> None:
    ids = fill(shards, 20)
    assert [shard for shard, _ in ids] == [route("p", seq, 2) for seq in range(20)] and len(set(ids)) == 20
    segments, order = Segments(), ids[::-1]
    assert shards.read(order, segments) == [[group("p", seq)] for seq in reversed(range(20))]
    assert segments.files and all(Path(path).suffix == ".log" for path in segments.files)
    drawn = shards.sample({"storm": 50}, [3, 1])
    assert drawn == shards.sample({"storm": 50}, [3, 1]) and {id for id, _ in drawn} <= set(ids)
    shards.prioritise([(id, 0) for id in ids], [float(id == ids[7]) for id in ids])
    assert set(shards.sample({"storm": 9}, [3, 2])) == {(ids[7], 0)}
    gone = shards.evict(0, 99, cursor=6)
    assert gone and set(gone) < set(ids[:6])
    assert [id for id, record in shards.catalog().items() if record.evicted] == sorted(gone)


def test_a_run_that_goes_on_finds_the_shards_of_before(shards: Shards, tmp_path: Path) -> None:
    """As after a driver was killed: by name, and opened anew when another writer was there meanwhile."""
    ids = fill(shards, 3)
    again = start_shards(tmp_path, "rft", 60.0)
    assert [actor._actor_id for actor in again.actors] == [actor._actor_id for actor in shards.actors]
    folder = tmp_path / "replay" / "rft"
    assert catalogs(folder) == again.catalog()
    assert fill(again, 3) == ids
    other = ReplayShard(folder)
    other.add("elsewhere", 0, [])
    other.close()
    before = len(again.catalog())
    assert len(start_shards(tmp_path, "rft", 60.0).catalog()) == before + 1
    again.end()
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor(name_of("replay", tmp_path, "rft", 0), namespace=NAMESPACE)


def test_a_damaged_shard_is_one_line_for_the_user(tmp_path: Path) -> None:
    shard = ReplayShard(tmp_path / "replay" / "rft")
    shard.add("p", 0, [group("p", 0)])
    shard.close()
    path = tmp_path / "replay" / "rft" / "log" / "00000000.log"
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(LogError) as caught:
        start_shards(tmp_path, "rft", 60.0)
    assert is_users(caught.value)
    assert told(caught.value) == f"{path}: 1 records were acknowledged and 0 are whole, up to byte 0"
