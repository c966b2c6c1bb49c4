"""An append-only log on disk: what was appended is durable, and nothing else is ever read back.

A record is `magic | key length | payload length | CRC32(key + payload) | CRC32(of the header so far) | key | payload`,
in segments of bounded size. Only one record at a time is unsynced, so a crash can tear the last one only.
"""

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

_MAGIC = b"PXL1"
_FIELDS = struct.Struct("<4sIII")
_HEADER = _FIELDS.size + 4


class LogError(RuntimeError):
    """A log that cannot be trusted, or is held by another writer."""


class _Place(NamedTuple):
    segment: int
    offset: int
    key: int
    payload: int

    @property
    def end(self) -> int:
        return self.offset + _HEADER + self.key + self.payload


class Log:
    """Records in append order, `len(log)` of them; `keys` holds every key, payloads stay on disk.

    Opening cuts off a torn tail (and says so in the log output). One writer at a time, enforced by a file lock.
    `limit` is the segment size in bytes that starts a new segment.

    Raises: LogError naming file and offset when a record before the tail is damaged; LogError when another writer
    holds the folder.

    Example: Log(Path("replay/log")).append(b"key", b"payload")
    """

    def __init__(self, root: Path, limit: int = 64 << 20) -> None:
        self.root, self.limit = root, limit
        self.keys: list[bytes] = []
        self._places: list[_Place] = []
        self._fd = -1
        root.mkdir(parents=True, exist_ok=True)
        self._lock = locked(root / "lock")
        try:
            numbers = sorted(int(p.stem) for p in root.glob("*.log")) or [0]
            for n in numbers:
                end = self._recover(n, last=n == numbers[-1])
        except LogError:
            os.close(self._lock)
            raise
        self._open(numbers[-1], end)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(p.end - p.offset for p in self._places)

    def append(self, key: bytes, payload: bytes) -> int:
        """Make one record durable, then return its number. After an OSError the record is not in the log."""
        if self._end >= self.limit:
            os.close(self._fd)
            self._open(self._segment + 1, 0)
        os.ftruncate(self._fd, self._end)  # what an earlier append left behind when the disk was full
        record = _pack(key, payload)
        view = memoryview(record)
        while view:
            view = view[os.pwrite(self._fd, view, self._end + len(record) - len(view)) :]
        os.fsync(self._fd)
        self._admit(_Place(self._segment, self._end, len(key), len(payload)), key)
        self._end += len(record)
        return len(self) - 1

    def read(self, number: int) -> bytes:
        """The payload of a record. Raises LogError naming file and offset when the disk changed it."""
        place = self._places[number]
        with self._path(place.segment).open("rb") as f:
            f.seek(place.offset)
            data = f.read(place.end - place.offset)
        if not _intact(data, 0):
            raise LogError(f"{self._path(place.segment)}: damaged record at byte {place.offset}")
        return data[_HEADER + place.key :]

    def close(self) -> None:
        """Let another writer in."""
        os.close(self._fd)
        os.close(self._lock)

    def _path(self, segment: int) -> Path:
        return self.root / f"{segment:08d}.log"

    def _open(self, segment: int, end: int) -> None:
        self._fd = os.open(self._path(segment), os.O_RDWR | os.O_CREAT, 0o644)
        self._segment, self._end = segment, end
        sync(self.root)

    def _admit(self, place: _Place, key: bytes) -> None:
        self._places.append(place)
        self.keys.append(key)

    def _recover(self, segment: int, last: bool) -> int:
        """Read a segment into the index; returns where its good part ends."""
        path, end = self._path(segment), 0
        data = path.read_bytes() if path.exists() else b""
        for end, key, payload in _records(data):
            start = end - _HEADER - key - payload
            self._admit(_Place(segment, start, key, payload), data[start + _HEADER : start + _HEADER + key])
        if end == len(data):
            return end
        if not last or _any_record(data, end + 1):
            raise LogError(f"{path}: damaged record at byte {end} of {len(data)}")
        logger.warning("%s: cut off a torn tail of %d bytes at byte %d", path, len(data) - end, end)
        os.truncate(path, end)
        return end


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes) -> None:
    """Put a small file in the place of another, durably: a reader sees the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def locked(path: Path) -> int:
    """The descriptor of a file that one process at a time can hold; closing it lets go. LogError when another has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(fd)
        raise LogError(f"{path.parent}: another process writes this log") from e
    return fd


def _pack(key: bytes, payload: bytes) -> bytes:
    fields = _FIELDS.pack(_MAGIC, len(key), len(payload), zlib.crc32(payload, zlib.crc32(key)))
    return fields + zlib.crc32(fields).to_bytes(4, "little") + key + payload


def _sizes(data: bytes, at: int) -> tuple[int, int, int] | None:
    """(key length, payload length, crc) of the record that starts at a byte, None when no sound header is there."""
    head = data[at : at + _HEADER]
    if len(head) < _HEADER or zlib.crc32(head[:-4]) != int.from_bytes(head[-4:], "little"):
        return None
    magic, key, payload, crc = _FIELDS.unpack(head[:-4])
    return (key, payload, crc) if magic == _MAGIC else None


def _intact(data: bytes, at: int) -> tuple[int, int] | None:
    """(key length, payload length) when a whole record with the right checksum starts at a byte."""
    sizes = _sizes(data, at)
    if sizes is None:
        return None
    key, payload, crc = sizes
    body = memoryview(data)[at + _HEADER : at + _HEADER + key + payload]
    return (key, payload) if len(body) == key + payload and zlib.crc32(body) == crc else None


def _records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(end, key length, payload length) of each record up to the first that is not sound."""
    at = 0
    while sizes := _intact(data, at):
        at += _HEADER + sum(sizes)
        yield at, *sizes


def _any_record(data: bytes, start: int) -> bool:
    """Does a sound record begin anywhere from a byte on? Then what lies before it is damage, not a torn tail."""
    at = data.find(_MAGIC, start)
    while at >= 0:
        if _intact(data, at):
            return True
        at = data.find(_MAGIC, at + 1)
    return False
