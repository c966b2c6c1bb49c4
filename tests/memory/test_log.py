import os

import pytest

from pixelis.memory.log import Log, LogError


def filled(root, n=5, **given):
    log = Log(root, **given)
    for i in range(n):
        assert log.append(b"key%d" % i, bytes([i]) * 100) == i
    log.close()
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
