import fcntl
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelis.memory.log import Evicted, Log, LogError
from pixelis.memory.segment import Segments


def filled(root, n=5, acknowledged=4, **given):
    """A log whose last record the disk has not seen acknowledged, as after a power cut."""
    log = Log(root, **given)
    for i in range(n):
        if i == acknowledged:
            mark = (root / "mark").read_bytes()
        assert log.append(b"key%d" % i, bytes([i]) * 100) == i
    log.close()
    (root / "mark").write_bytes(mark)
    return sorted(root.glob("*.log"))


def contents(root):
    log = Log(root)
    found = [(key, log.read(i)) for i, key in enumerate(log.keys)]
    log.close()
    return found


WHOLE = [(b"key%d" % i, bytes([i]) * 100) for i in range(5)]


@pytest.mark.parametrize("limit", [1, 200, 1 << 20])
def test_what_was_appended_is_read_back_over_any_number_of_segments(tmp_path, limit):
    assert len(filled(tmp_path, limit=limit)) == {1: 5, 200: 3, 1 << 20: 1}[limit]
    assert contents(tmp_path) == WHOLE


def test_every_torn_tail_is_cut_off_and_said(tmp_path, caplog):
    (path,) = filled(tmp_path)
    data, size = path.read_bytes(), path.stat().st_size // 5
    for cut in range(1, size, 3):
        path.write_bytes(data[: len(data) - cut])
        caplog.clear()
        assert contents(tmp_path) == WHOLE[:4]
        assert f"cut off a torn tail of {size - cut} bytes at byte {4 * size}" in caplog.text
        assert path.stat().st_size == 4 * size


def test_a_tail_of_zeros_is_torn_too(tmp_path):
    (path,) = filled(tmp_path)
    with path.open("ab") as f:
        f.write(bytes(500))
    assert contents(tmp_path) == WHOLE


def test_after_a_torn_tail_appending_goes_on(tmp_path):
    (path,) = filled(tmp_path)
    os.truncate(path, path.stat().st_size - 3)
    log = Log(tmp_path)
    log.append(b"key4", bytes([4]) * 100)
    log.close()
    assert contents(tmp_path) == WHOLE


@pytest.mark.parametrize("limit", [200, 1 << 20])
def test_any_changed_byte_before_the_tail_is_an_error_with_its_place(tmp_path, limit):
    path = filled(tmp_path, limit=limit)[0]
    data = path.read_bytes()
    record = len(data) // {200: 2, 1 << 20: 5}[limit]
    for at in range(0, record, 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
        with pytest.raises(LogError, match=f"{path.name}: damaged record at byte 0 of {len(data)}"):
            Log(tmp_path)
    path.write_bytes(data)
    assert contents(tmp_path) == WHOLE


def test_a_tail_that_was_acknowledged_is_not_cut_off_but_told(tmp_path):
    """Whether its end is missing or changed; the file is left as it is."""
    (path,) = filled(tmp_path, acknowledged=0)
    contents(tmp_path)
    data = path.read_bytes()
    for damaged in (data[:-3], data[:-1] + b"?", b""):
        path.write_bytes(damaged)
        with pytest.raises(LogError, match=f"{path.name}: 5 records were acknowledged and {4 * bool(damaged)} are whole"):
            Log(tmp_path)
        assert path.read_bytes() == damaged
    path.write_bytes(data)
    assert contents(tmp_path) == WHOLE


def test_records_that_are_missing_between_segments_are_told(tmp_path):
    """A segment that lost its end exactly between two records, and one that is gone altogether."""
    first, second, _ = filled(tmp_path, limit=200)
    data, record = first.read_bytes(), first.stat().st_size // 2
    first.write_bytes(data[:record])
    with pytest.raises(LogError, match=f"{second.name}: record 2 at byte 0 of .* where record 1 is due"):
        Log(tmp_path)
    first.write_bytes(data)
    second.unlink()
    with pytest.raises(LogError, match=r"record 4 at byte 0 of .* where record 2 is due"):
        Log(tmp_path)


def test_a_log_of_an_older_version_is_not_taken_for_a_torn_one(tmp_path):
    (tmp_path / "00000000.log").write_bytes(b"PXL1" + bytes(60))
    with pytest.raises(LogError, match="older version"):
        Log(tmp_path)
    assert (tmp_path / "00000000.log").stat().st_size == 64


def test_reading_a_log_needs_neither_lock_nor_pen(tmp_path):
    (path,) = filled(tmp_path)
    os.truncate(path, path.stat().st_size - 3)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    writer = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(writer, fcntl.LOCK_EX)
    log = Log(tmp_path, readonly=True)
    assert [(key, log.read(i)) for i, key in enumerate(log.keys)] == WHOLE[:4]
    log.close()
    os.close(writer)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_sealed_segments_are_read_where_they_lie(tmp_path):
    filled(tmp_path, limit=200)
    log, segments = Log(tmp_path, limit=200), Segments(most=1)
    spans = [log.span(i) for i in range(5)]
    assert spans[4] is None and log.sealed() == {0: [0, 1], 1: [2, 3]}
    assert [bytes(segments.read(span)) for span in spans[:4]] == [payload for _, payload in WHOLE[:4]]
    path = tmp_path / "00000000.log"
    with path.open("r+b") as file:
        file.seek(spans[1].frame.body + 7)
        file.write(b"?")
    with pytest.raises(LogError, match=f"{path}: damaged record 1 at byte {spans[1].frame.offset} of"):
        segments.read(spans[1])
    os.truncate(path, 20)
    with pytest.raises(LogError, match="damaged record 0 at byte 0 of 20"):
        segments.read(spans[0])


@pytest.mark.parametrize("crash", [False, True])
def test_what_is_given_up_keeps_its_key_and_number(tmp_path, crash):
    paths = filled(tmp_path, limit=200)
    data = paths[1].read_bytes()
    log = Log(tmp_path, limit=200)
    whole = log.size
    assert log.evict(1, b"stale") == [2, 3] and log.sealed() == {0: [0, 1]}
    if crash:  # after the stand-in is there, before the segment is gone
        paths[1].write_bytes(data)
    for again in (False, True):
        if again:
            log.close()
            log = Log(tmp_path, limit=200)
        assert log.keys == [key for key, _ in WHOLE] and log.evicted == {2: b"stale", 3: b"stale"}
        assert [log.read(i) for i in (0, 1, 4)] == [bytes([i]) * 100 for i in (0, 1, 4)] and log.size < whole - 180
        for read in (log.read, log.span):
            with pytest.raises(Evicted, match=r"record 2 was given up \(stale\)"):
                read(2)
    assert log.append(b"key5", b"5") == 5 and not paths[1].exists()
    log.close()


@given(st.data())
@settings(max_examples=1000)
def test_whatever_is_cut_or_flipped_all_that_was_acknowledged_is_there_once_or_the_damage_is_named(data):
    """Records of some segments, one damage anywhere on disk: then the log opens with all of them, or says what is wrong."""
    sizes = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=12))
    told = [(b"key%d" % i, os.urandom(size)) for i, size in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        log = Log(root, limit=150)
        for record in told:
            log.append(*record)
        if log.sealed() and data.draw(st.booleans()):
            log.evict(0, b"bytes")
        evicted = set(log.evicted)
        log.close()
        path = data.draw(st.sampled_from([p for p in sorted(root.iterdir()) if p.stat().st_size]))
        at = data.draw(st.integers(0, path.stat().st_size - 1))
        if data.draw(st.booleans()):
            os.truncate(path, at)
        else:
            flipped = bytearray(path.read_bytes())
            flipped[at] ^= 1 << data.draw(st.integers(0, 7))
            path.write_bytes(flipped)
        try:
            log = Log(root, limit=150)
        except LogError as error:
            assert str(root) in str(error) and "\n" not in str(error)
            return
        assert log.keys == [key for key, _ in told] and set(log.evicted) == evicted
        assert [log.read(i) for i in range(len(log)) if i not in evicted] == [
            p for i, (_, p) in enumerate(told) if i not in evicted
        ]
        log.close()


def test_damage_after_opening_is_found_when_reading(tmp_path):
    (path,) = filled(tmp_path)
    log = Log(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:50] + b"?" + data[51:])
    with pytest.raises(LogError, match="damaged record at byte 0"):
        log.read(0)
    assert log.read(1) == WHOLE[1][1]


def test_one_writer_at_a_time(tmp_path):
    log = Log(tmp_path)
    with pytest.raises(LogError, match="another process writes this log"):
        Log(tmp_path)
    log.close()
    Log(tmp_path).close()


def test_a_full_disk_leaves_no_trace(tmp_path, monkeypatch):
    log, real = Log(tmp_path), os.pwrite
    log.append(*WHOLE[0])

    def half(fd, data, offset):
        real(fd, data[: len(data) // 2], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(OSError, match="No space left"):
        log.append(b"lost", bytes(1000))
    monkeypatch.undo()
    assert log.append(*WHOLE[1]) == 1
    log.close()
    assert contents(tmp_path) == WHOLE[:2]
