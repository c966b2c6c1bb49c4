import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from samples import PICTURE, SHA, group

from pixelis.memory.codec import CodecError, encode
from pixelis.memory.log import LogError
from pixelis.memory.replay import Record, ReplayShard


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
        shard.add(producer, seq, [group(seq)], {SHA: PICTURE})


def numbers(shard):
    read = shard.read(range(len(shard.records)))
    return [g.trajectories[0].turns[0].sampled[0] for groups in read for g in groups]


def test_stored_once_whoever_sends_it_again(opened):
    shard = opened()
    fill(shard, 3)
    assert shard.add("p", 1, encode([group(1)])) == 1
    assert shard.add("q", 1, encode([group(10), group(11)])) == 3
    shard = opened()
    assert [shard.add("p", seq, [group(seq)]) for seq in (2, 0, 5, 1, 5)] == [2, 0, 4, 1, 4]
    assert numbers(shard) == [0, 1, 2, 10, 11, 5] and len(shard) == 6


def test_a_record_says_what_it_holds(opened):
    shard = opened()
    shard.add("p", 4, [group(1), group(7)], {SHA: PICTURE}, indices=(4, 6))
    shard.add("p", 5, [], indices=(5,))
    expected = [Record("p", 4, (4, 6), (0, 7), 2, 2, (SHA,)), Record("p", 5, (5,), (0, 0), 0, 0)]
    assert shard.catalog() == expected == opened().catalog()


def test_bytes_of_media_are_counted_by_the_records_that_need_them(opened):
    fill(opened(), 3)
    other = hashlib.sha256(b"other").hexdigest()
    shard = opened(datasets=[{other}])
    shard.add("p", 3, [group(3, sources=(SHA, other)), group(4)])
    for found in (shard, opened()):
        assert found.references == {SHA: 4, other: 1}


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
    stored = numbers(shard)
    assert stored == list(range(len(stored))) and len(acknowledged) <= len(stored) <= len(acknowledged) + 1
    assert len(stored) == {"torn": 7, "unsaid": 8}.get(mode, len(stored))
    assert ("torn tail" in caplog.text) >= (mode == "torn")
    again = [shard.add("child", seq, [group(seq)]) for seq in range(len(stored) + 1)]
    assert again == list(range(len(stored) + 1)) and len(shard.records) == len(stored) + 1


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
    assert shard.add("p", 0, [group(0)], {SHA: PICTURE}) == 0
    assert opened().media.get(SHA) == PICTURE
    other = hashlib.sha256(b"other").hexdigest()
    assert opened(datasets=[{other}]).add("p", 1, [group(1, sources=(SHA, other))]) == 1


def test_foreign_bytes_are_refused(opened):
    shard = opened()
    with pytest.raises(CodecError):
        shard.add("p", 0, b"junk")
    assert len(shard) == 0 and shard.add("p", 0, [group(0)], {SHA: PICTURE}) == 0


def test_read_back_in_any_order_from_many_segments(opened):
    shard = opened(segment_bytes=3000, decoded=2)
    fill(shard, 10)
    found = [g.trajectories[0].turns[0].sampled[0] for [g] in shard.read([7, 0, 7, 9])]
    assert found == [7, 0, 7, 9]
    assert shard.stats() | {"bytes": 0} == {
        "records": 10, "groups": 10, "trajectories": 10, "bytes": 0, "media": 1, "duplicates": 0,
    }  # fmt: skip


def test_an_empty_shard(opened):
    shard = opened()
    assert shard.read([]) == shard.catalog() == [] and len(shard) == 0
    for number in (0, -1):
        with pytest.raises(IndexError, match=f"record {number} of 0"):
            shard.read([number])
