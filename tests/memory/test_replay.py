import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import PICTURE, SHA, group

from pixelis.memory.codec import CodecError, encode
from pixelis.memory.log import LogError
from pixelis.memory.replay import ReplayShard, Seen


@pytest.fixture
def opened(tmp_path):
    """Opens the shard of this test, closing the one opened before."""
    shards = []

    def open_shard(**given):
        if shards:
            shards.pop().close()
        shards.append(ReplayShard(tmp_path / "shard", **given))
        return shards[-1]

    yield open_shard
    shards.pop().close()


def fill(shard, n, producer="p"):
    for seq in range(n):
        assert shard.add(producer, seq, [group(seq)], {SHA: PICTURE}) == "stored"


def numbers(groups):
    return [g.trajectories[0].turns[0].sampled[0] for g in groups]


def test_stored_once_whoever_sends_it_again(opened):
    shard = opened()
    fill(shard, 3)
    assert shard.add("p", 1, encode([group(1)])) == "dup"
    assert shard.add("q", 1, encode([group(10), group(11)])) == "stored"
    shard = opened()
    assert [shard.add("p", seq, [group(seq)]) for seq in range(4)] == ["dup", "dup", "dup", "stored"]
    assert numbers(shard.take(99)) == [0, 1, 2, 10, 11, 3] and len(shard) == 6


def test_keys_that_come_out_of_order():
    seen = Seen()
    for seq in (2, 0, 5):
        seen.add("p", seq)
    assert [seq for seq in range(7) if ("p", seq) in seen] == [0, 2, 5] and ("q", 0) not in seen
    for seq in (1, 3, 4):
        seen.add("p", seq)
    assert [seq for seq in range(7) if ("p", seq) in seen] == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["torn", "unsaid", "outside"])
def test_kill_9_in_the_middle_of_writing(opened, tmp_path, mode, caplog):
    command = [sys.executable, Path(__file__).with_name("writer.py"), tmp_path / "shard", mode]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    acknowledged = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        for line in child.stdout:
            acknowledged.append(int(line))
            if mode == "outside" and len(acknowledged) == 12:
                child.kill()
    assert child.returncode == -9
    shard = opened()
    stored = numbers(shard.take(1000))
    assert stored == list(range(len(stored))) and len(acknowledged) <= len(stored) <= len(acknowledged) + 1
    assert len(stored) == {"torn": 7, "unsaid": 8}.get(mode, len(stored))
    assert ("torn tail" in caplog.text) >= (mode == "torn")
    again = [shard.add("child", seq, [group(seq)]) for seq in range(len(stored) + 1)]
    assert again == ["dup"] * len(stored) + ["stored"]


def test_a_shard_damaged_in_the_middle_does_not_open(tmp_path):
    shard = ReplayShard(tmp_path)
    fill(shard, 3)
    shard.close()
    (path,) = (tmp_path / "log").glob("*.log")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(LogError, match=f"{path}: damaged record at byte {len(data) // 3} of {len(data)}"):
        ReplayShard(tmp_path)


def test_media_must_be_durable_before_the_group_is(opened, tmp_path):
    shard = opened()
    with pytest.raises(ValueError, match=f"source medium {SHA} is neither given nor stored"):
        shard.add("p", 0, [group(0)])
    with pytest.raises(ValueError, match=f"given as {SHA} have another hash"):
        shard.add("p", 0, [group(0)], {SHA: b"something else"})
    assert len(shard) == 0 and SHA not in shard.media
    assert shard.add("p", 0, [group(0)], {SHA: PICTURE}) == "stored"
    assert opened().media.get(SHA) == PICTURE
    other = hashlib.sha256(b"other").hexdigest()
    assert opened(datasets=[{other}]).add("p", 1, [group(1, sources=(SHA, other))]) == "stored"


def test_foreign_bytes_are_refused(opened):
    shard = opened()
    with pytest.raises(CodecError):
        shard.add("p", 0, b"junk")
    assert len(shard) == 0 and shard.add("p", 0, [group(0)], {SHA: PICTURE}) == "stored"


def test_taken_in_order_once_and_again_after_seek(opened):
    shard = opened(segment_bytes=3000)
    fill(shard, 10)
    assert numbers(shard.take(4)) == [0, 1, 2, 3]
    shard.drop("stale", 2)
    shard.drop("infra")
    saved = json.loads(json.dumps([shard.cursor, shard.dropped]))
    assert numbers(shard.take(4)) == [4, 5, 6, 7]
    shard.drop("stale")
    shard = opened()  # as after kill -9
    assert (shard.cursor, shard.dropped) == (8, {"stale": 3, "infra": 1})
    shard.seek(*saved)
    assert numbers(shard.take(99)) == [4, 5, 6, 7, 8, 9] and shard.take(1) == []
    assert shard.dropped == {"stale": 2, "infra": 1}
    assert shard.stats() | {"bytes": 0} == {
        "groups": 10, "records": 10, "bytes": 0, "cursor": 10, "pending": 0, "duplicates": 0,
        "dropped": {"stale": 2, "infra": 1},
    }  # fmt: skip


def test_a_take_sent_twice_answers_the_same(opened):
    shard = opened()
    fill(shard, 6)
    assert numbers(shard.take(2, cursor=0)) == numbers(shard.take(2, cursor=0)) == [0, 1]
    assert shard.cursor == 2
    with pytest.raises(ValueError, match=r"cursor 7 is outside 0\.\.6"):
        shard.take(1, cursor=7)


def test_sampling_is_uniform_seeded_and_leaves_the_cursor(opened):
    shard = opened(decoded=2)
    fill(shard, 8)
    first, second = (numbers(shard.sample(5, np.random.default_rng(3))) for _ in range(2))
    assert first == second and len(set(first)) == 5
    rng = np.random.default_rng(0)
    counts = np.bincount([i for _ in range(200) for i in numbers(shard.sample(2, rng))], minlength=8)
    assert counts.sum() == 400 and counts.min() > 25  # 50 expected of each
    assert sorted(numbers(shard.sample(99, rng))) == list(range(8)) and shard.cursor == 0


def test_an_empty_shard(opened):
    shard = opened()
    assert shard.take(3) == shard.sample(3, np.random.default_rng(0)) == [] and len(shard) == 0
    with pytest.raises(IndexError):
        shard[0]
