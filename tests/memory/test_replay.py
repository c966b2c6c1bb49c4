import fcntl
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from samples import PICTURE, SHA, group

from pixelis.memory.codec import CodecError, decode, encode
from pixelis.memory.fence import Fenced
from pixelis.memory.log import Evicted, LogError
from pixelis.memory.replay import Record, ReplayShard, catalogs, folders, route, signature
from pixelis.memory.segment import Segments
from pixelis.memory.trajectory import Group, Trajectory, Turn
from pixelis.tools.call import ToolCall


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
    expected = [Record("p", 4, (4, 6), (0, 7), 2, 2, (SHA,), ("", "")), Record("p", 5, (5,), (0, 0), 0, 0)]
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
        "records": 10, "groups": 10, "trajectories": 10, "bytes": 0, "media": 1, "duplicates": 0, "evicted": 0,
    }  # fmt: skip


def test_an_empty_shard(opened):
    shard = opened()
    assert shard.read([]) == shard.catalog() == [] and len(shard) == 0
    for number in (0, -1):
        with pytest.raises(IndexError, match=f"record {number} of 0"):
            shard.read([number])


def test_a_writer_that_was_taken_over_writes_no_more(opened, tmp_path):
    """As after a network cut: it lives, has the files open, and knows nothing of the other one."""
    zombie, other = ReplayShard(tmp_path / "shard"), opened()
    other.add("p", 0, [group(0)], {SHA: PICTURE})
    with pytest.raises(Fenced, match="this writer has epoch 1, another one has claimed epoch 2 since"):
        zombie.add("p", 1, [group(1)])
    with pytest.raises(Fenced):
        zombie.evict(oldest=9) or zombie.add("p", 2, [group(2)])
    assert other.add("p", 1, [group(7)]) == 1 and len(zombie.records) == 0
    zombie.close()
    assert numbers(opened()) == [0, 7]


def test_a_writer_waits_while_another_process_writes_and_says_so_when_it_does_not_end(opened):
    shard = opened()
    shard.fence.patience = 0.2
    lock = os.open(shard.root / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(LogError, match=r"another process has been writing here for 0\.2 s"):
        shard.add("p", 0, [group(0)], {SHA: PICTURE})
    os.close(lock)
    assert shard.add("p", 0, [group(0)]) == 0


def test_sealed_records_are_decoded_where_they_lie_in_aligned_columns(opened):
    shard, segments = opened(segment_bytes=6000), Segments()
    fill(shard, 6)
    spans = shard.spans(range(6))
    assert [span is None for span in spans] == [False] * 4 + [True] * 2
    assert [decode(segments.read(span)) for span in spans[:4]] == shard.read(range(4))
    assert all(span.frame.body % 8 == 0 for span in spans[:4])
    assert [decode(data) for data in shard.encoded([5, 0])] == shard.read([5, 0])


def test_columns_are_gathered_without_decoding_from_sealed_and_open_segments(opened):
    shard = opened(segment_bytes=6000)
    two = Group("task9", (*group(9, tokens=5).trajectories, *(replace(t, id="other") for t in group(9, tokens=2).trajectories)))
    shard.add("p", 0, [group(0), two, group(1, tokens=0)], {SHA: PICTURE})
    fill(shard, 4, "q")
    keys = [(0, 1), (4, 0), (0, 2), (0, 1)]
    wanted = [t for number, k in keys for t in shard.read([number])[0][k].trajectories]
    for found in (shard.gather(keys), shard.gather(keys)):
        for name, arrays in (("tokens", [t.tokens for t in wanted]), ("logprobs", [t.logprobs[t.mask] for t in wanted])):
            column = found[name]
            assert len(column.offsets) == len(wanted) + 1 == 7
            assert all(
                (column.values[a:b] == row).all() for a, b, row in zip(column.offsets, column.offsets[1:], arrays, strict=False)
            )
            assert column.values.dtype == arrays[0].dtype and column.offsets[-1] == len(column.values)
    with pytest.raises(IndexError):
        shard.gather([(0, 3)])


def test_eviction_gives_up_what_is_stale_and_what_is_too_much_and_both_stay_in_the_catalog(opened):
    pictures = [bytes([i]) * 50 for i in range(6)]
    sources = [hashlib.sha256(picture).hexdigest() for picture in pictures]
    shard = opened(segment_bytes=1)
    for i in range(6):
        shard.add("p", i, [group(i, sources=(sources[i], sources[0]))], dict(zip(sources, pictures, strict=True)), (i % 2,))
    before = shard.catalog()
    assert shard.evict(oldest=3, cursor=1) == [0, 2]
    assert shard.evict(most=shard.stats()["bytes"] - 1) == [1]
    for found in (shard, opened(segment_bytes=1)):
        assert [r.evicted for r in found.catalog()] == ["stale", "bytes", "stale", "", "", ""]
        assert [replace(r, evicted="") for r in found.catalog()] == before
        assert found.references == {sources[0]: 3, sources[3]: 1, sources[4]: 1, sources[5]: 1}
        assert [sha in found.media for sha in sources] == [True, False, False, True, True, True]
        assert found.stats()["evicted"] == 3 and set(found.sample({"": 200}, 0)) == {(3, 0), (4, 0), (5, 0)}
        with pytest.raises(Evicted, match="record 1 was given up"):
            found.read([1])
        assert found.add("p", 1, [group(1)]) == 1 and found.evict() == []
        shard.close()


def test_groups_are_drawn_by_stratum_and_priority(opened):
    shard = opened(stratum=lambda g: "odd" if int(g.task_id[4:]) % 2 else "even")
    shard.add("p", 0, [group(0), group(1), group(2)], {SHA: PICTURE})
    fill(shard, 4, "q")
    shard.prioritise([(0, 0), (1, 0)], [0.0, 9.0])
    drawn = shard.sample({"even": 1000, "odd": 10}, [5, 3])
    assert drawn == shard.sample({"even": 1000, "odd": 10}, [5, 3]) != shard.sample({"even": 1000, "odd": 10}, [5, 4])
    assert set(drawn[1000:]) <= {(0, 1), (2, 0), (4, 0)} and set(drawn[:1000]) == {(0, 2), (1, 0), (3, 0)}
    assert 750 < drawn.count((1, 0)) < 870
    with pytest.raises(ValueError, match="no clip to draw 1 from: there is even, odd"):
        shard.sample({"clip": 1}, 0)


def test_a_groups_signature_is_its_most_frequent_chain():
    def chain(*ops):
        turns = tuple(Turn((1,), (2,), (-0.5,), call=ToolCall(op, {})) for op in ops)
        return Trajectory("t", "t", "?", (), (*turns, Turn((1,), (2,), (-0.5,))))

    assert signature(Group("t", (chain("OCR"), chain("ZOOM", "OCR"), chain("ZOOM", "OCR")))) == "ZOOM OCR"


def test_several_shards_of_a_phase_are_told_apart_and_read_without_taking_them_over(tmp_path):
    assert folders(tmp_path) == [tmp_path]
    shards = [ReplayShard(folder) for folder in folders(tmp_path, 3)]
    for seq in range(30):
        shards[route("p", seq, 3)].add("p", seq, [group(seq)], {SHA: PICTURE})
    assert len(folders(tmp_path)) == 3 and all(len(shard) > 3 for shard in shards)
    found = catalogs(tmp_path)
    assert {id: record.seq for id, record in found.items()} == {
        (s, n): record.seq for s, shard in enumerate(shards) for n, record in enumerate(shard.records)
    }
    assert shards[0].add("p", 99, [group(99)]) == len(shards[0].records) - 1
    for shard in shards:
        shard.close()
