"""An append-only log on disk: what was appended is durable, and nothing else is ever read back.

Records (`memory.segment`) stand in segments of bounded size. Only one record at a time is unsynced, so a crash can tear the
last one only. The file `mark` says how many were acknowledged; it is not synced, so that it may lag behind after a power
cut, but where it says more than what is whole, acknowledged records were lost, and the log does not open.
"""

from __future__ import annotations

import fcntl
import logging
import os
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pixelis.memory.segment import HEADER, Frame, LogError, Span, damage, frames, pack, stems

logger = logging.getLogger(__name__)

__all__ = ["Evicted", "Log", "LogError", "locked", "replace_file", "sync"]

_MARK = 12
"""Bytes of the file `mark`: a count, and its CRC32."""


class Evicted(LookupError):
    """A record whose payload was given up to make room."""


class Log:
    """Records in append order, `len(log)` of them; `keys` holds every key, payloads stay on disk.

    Opening cuts off a torn tail (and says so in the log output). `limit` is the segment size in bytes that starts a new
    segment; full ones are sealed: never written again, read by others where they lie (`span`), and evicted as a whole.
    One writer at a time: by a file lock for as long as it lives, or where `guard` is given (`memory.fence.Fence.held`) by
    that, around each write. With `readonly` nothing is locked or written, and a torn tail is left where it is.

    Raises: LogError naming file and offset when a record before the tail is damaged, or when acknowledged ones are missing;
    LogError when another writer holds the folder.

    Example: Log(Path("replay/log")).append(b"key", b"payload")
    """

    def __init__(
        self,
        root: Path,
        limit: int = 64 << 20,
        guard: Callable[[], AbstractContextManager[None]] | None = None,
        readonly: bool = False,
    ) -> None:
        self.root, self.limit, self.readonly = root, limit, readonly
        self.keys: list[bytes] = []
        self.size = 0
        """Bytes on disk."""
        self.evicted: dict[int, bytes] = {}
        """Why a record's payload was given up, by its number."""
        self._frames: list[Frame] = []
        self._segments: list[int] = []
        """Of each record."""
        self._guard = guard or nullcontext
        self._lock = self._fd = self._mark = -1
        if not readonly:
            root.mkdir(parents=True, exist_ok=True)
        if not readonly and guard is None:
            self._lock = locked(root / "lock")
        try:
            with self._guard():
                self._recover()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, key: bytes, payload: bytes) -> int:
        """Make one record durable, then return its number. After an OSError the record is not in the log."""
        with self._guard():
            if self._end >= self.limit:
                self._open(self._segment + 1, 0)
            os.ftruncate(self._fd, self._end)  # what an earlier append left behind when the disk was full
            record = pack(len(self), key, payload)
            view = memoryview(record)
            while view:
                view = view[os.pwrite(self._fd, view, self._end + len(record) - len(view)) :]
            os.fsync(self._fd)
            _write_mark(self._mark, len(self) + 1)
        self._admit(self._segment, Frame(self._end, len(key), len(payload)), key)
        self._end += len(record)
        return len(self) - 1

    def read(self, number: int) -> bytes:
        """The payload of a record. Evicted when it was given up; LogError naming file and offset when the disk changed it."""
        path, frame = self._path(self._segments[number]), self._frames[number]
        if number in self.evicted:
            raise Evicted(f"{self.root}: record {number} was given up ({self.evicted[number].decode()})")
        with path.open("rb") as f:
            f.seek(frame.offset)
            data = f.read(frame.end - frame.offset)
        if not any(frames(data, number)):
            raise LogError(f"{path}: damaged record at byte {frame.offset}")
        return data[HEADER + frame.key :]

    def span(self, number: int) -> Span | None:
        """Where a record lies, for another process to read it there; None while its segment is still written to.

        Raises Evicted when it was given up.
        """
        if number in self.evicted:
            raise Evicted(f"{self.root}: record {number} was given up ({self.evicted[number].decode()})")
        segment = self._segments[number]
        return Span(str(self._path(segment)), number, self._frames[number]) if segment < self._segment else None

    def sealed(self) -> dict[int, list[int]]:
        """The records of each sealed segment that still has them, oldest first."""
        out: dict[int, list[int]] = {}
        for number, segment in enumerate(self._segments):
            if segment < self._segment and number not in self.evicted:
                out.setdefault(segment, []).append(number)
        return out

    def evict(self, segment: int, why: bytes) -> list[int]:
        """Give up the payloads of a sealed segment, durably; keys and numbers stay. Returns the numbers of its records."""
        numbers = self.sealed()[segment]
        with self._guard():
            left = [pack(number, self.keys[number], why) for number in numbers]
            replace_file(self._path(segment, ".gone"), b"".join(left))
            self._path(segment).unlink()
            sync(self.root)
        for number, record in zip(numbers, left, strict=True):
            self.size += len(record) - (self._frames[number].end - self._frames[number].offset)
            self.evicted[number] = why
        return numbers

    def close(self) -> None:
        """Let another writer in."""
        for fd in (self._fd, self._mark, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._mark = self._lock = -1

    def _path(self, segment: int, suffix: str = ".log") -> Path:
        return self.root / f"{segment:08d}{suffix}"

    def _open(self, segment: int, end: int) -> None:
        fd = os.open(self._path(segment), os.O_RDWR | os.O_CREAT, 0o644)  # may find no room: then the old one is still open
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._segment, self._end = fd, segment, end
        sync(self.root)

    def _admit(self, segment: int, frame: Frame, key: bytes) -> None:
        self._segments.append(segment)
        self._frames.append(frame)
        self.keys.append(key)
        self.size += frame.end - frame.offset

    def _recover(self) -> None:
        """Read all segments into the index, then cut off what a crash has left of an unacknowledged record."""
        found = stems(self.root, ".log", ".gone") or [0]
        gone = set(stems(self.root, ".gone"))
        end = torn = 0
        for segment in found:
            end, torn = self._index(segment, segment in gone, last=segment == found[-1])
        told, mark = self._path(found[-1]), self.root / "mark"
        if (acknowledged := _read_mark(mark)) > len(self):
            raise LogError(f"{told}: {acknowledged} records were acknowledged and {len(self)} are whole, up to byte {end}")
        self._segment = found[-1]
        if self.readonly:
            return
        for segment in gone:
            self._path(segment).unlink(missing_ok=True)  # a crash came between
        if torn:
            logger.warning("%s: cut off a torn tail of %d bytes at byte %d", told, torn, end)
            os.truncate(told, end)
        self._open(*((found[-1] + 1, 0) if found[-1] in gone else (found[-1], end)))
        self._mark = os.open(mark, os.O_RDWR | os.O_CREAT, 0o644)
        _write_mark(self._mark, len(self))

    def _index(self, segment: int, gone: bool, last: bool) -> tuple[int, int]:
        """(where its good part ends, bytes after that)."""
        path, end = self._path(segment, ".gone" if gone else ".log"), 0
        data = path.read_bytes() if path.exists() else b""
        for frame in frames(data, len(self)):
            key, end = data[frame.offset + HEADER : frame.body], frame.end
            if gone:
                self.evicted[len(self)] = data[frame.body : end]
            self._admit(segment, frame, key)
        if end < len(data) and (wrong := damage(data, end, len(self))):
            raise LogError(f"{path}: {wrong}")
        if end < len(data) and (gone or not last):
            raise LogError(f"{path}: damaged record at byte {end} of {len(data)}")
        return end, len(data) - end


def _write_mark(fd: int, count: int) -> None:
    number = count.to_bytes(8, "little")
    os.pwrite(fd, number + zlib.crc32(number).to_bytes(4, "little"), 0)


def _read_mark(path: Path) -> int:
    """How many records were acknowledged, as far as is known. LogError when it cannot be read."""
    data = path.read_bytes() if path.exists() else b""
    if not any(data):  # a power cut came before its first bytes were on disk
        return 0
    if len(data) != _MARK or zlib.crc32(data[:8]) != int.from_bytes(data[8:], "little"):
        raise LogError(f"{path}: damaged; without this file the log opens, unaware of acknowledged records that are missing")
    return int.from_bytes(data[:8], "little")


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
