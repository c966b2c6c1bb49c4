"""Segments of a log: how records are framed in a file, and reading them where they lie, memory-mapped.

A record is `magic | number | key length | payload length | CRC32(key + payload) | CRC32(of the header so far) | key |
payload`. Its number is its place in the whole log: a file that has lost its end, or is gone, is found by the next one.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MAGIC, _OLD = b"PXL2", b"PXL1"
_FIELDS = struct.Struct("<4sIIII")
HEADER = _FIELDS.size + 4
"""Bytes before a record's key."""


class LogError(RuntimeError):
    """A log that cannot be trusted, or is held by another writer."""


class Frame(NamedTuple):
    """A record in a segment's bytes: its first byte, and the lengths of its key and its payload."""

    offset: int
    key: int
    payload: int

    @property
    def body(self) -> int:
        """The first byte of its payload."""
        return self.offset + HEADER + self.key

    @property
    def end(self) -> int:
        """The byte after its last."""
        return self.body + self.payload


class Span(NamedTuple):
    """Where a record lies that will never change again: another process may read it there (`Segments`)."""

    path: str
    number: int
    frame: Frame


class Segments:
    """Records of sealed segments, without a copy: files are memory-mapped, `most` of them at a time.

    Example:
        >>> Segments().read(log.span(7))                                       # doctest: +SKIP
        <memory at 0x7f2f4c0b5e80>
    """

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._maps: OrderedDict[str, tuple[int, mmap.mmap]] = OrderedDict()

    def read(self, span: Span) -> memoryview:
        """A record's payload. LogError naming file and byte when the disk changed it, FileNotFoundError when it was evicted."""
        number, size, data = span.number, *self._mapped(span.path)
        if span.frame.end > size or intact(data, span.frame.offset, number) != span.frame:
            raise LogError(f"{span.path}: damaged record {number} at byte {span.frame.offset} of {size}")
        return memoryview(data)[span.frame.body : span.frame.end]

    @property
    def files(self) -> list[str]:
        """What is mapped now."""
        return list(self._maps)

    def _mapped(self, path: str) -> tuple[int, mmap.mmap]:
        """(bytes that the file has now, its map): what lies beyond the file's end must not be touched."""
        if path not in self._maps:
            with open(path, "rb") as file:
                self._maps[path] = os.dup(file.fileno()), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if len(self._maps) > self._most:
                os.close(self._maps.popitem(last=False)[1][0])
        self._maps.move_to_end(path)
        fd, data = self._maps[path]
        return min(os.fstat(fd).st_size, len(data)), data

    def close(self) -> None:
        """Let go of all files; what was read stays readable."""
        while self._maps:
            os.close(self._maps.popitem()[1][0])


def pack(number: int, key: bytes, payload: bytes) -> bytes:
    """A record as it stands in a file."""
    fields = _FIELDS.pack(_MAGIC, number, len(key), len(payload), zlib.crc32(payload, zlib.crc32(key)))
    return fields + zlib.crc32(fields).to_bytes(4, "little") + key + payload


def intact(data: bytes | mmap.mmap, at: int, number: int | None = None) -> Frame | None:
    """The record that starts at a byte, when it is whole, with the right checksums, and that of this number."""
    head = data[at : at + HEADER]
    if len(head) < HEADER or zlib.crc32(head[:-4]) != int.from_bytes(head[-4:], "little"):
        return None
    magic, found, key, payload, crc = _FIELDS.unpack(head[:-4])
    frame = Frame(at, key, payload)
    with memoryview(data) as view:
        if magic != _MAGIC or (number is not None and found != number) or frame.end > len(view):
            return None
        with view[at + HEADER : frame.end] as body:
            return frame if zlib.crc32(body) == crc else None


def frames(data: bytes, first: int) -> Iterator[Frame]:
    """The records of a segment whose first has number `first`, up to the first that is not sound."""
    at = 0
    while frame := intact(data, at, first):
        yield frame
        at, first = frame.end, first + 1


def damage(data: bytes, end: int, number: int) -> str:
    """What is wrong with a segment whose records are sound up to a byte; nothing where a torn tail explains it.

    `number` is that of the record that should begin there.
    """
    if data.startswith(_OLD):
        return "a log of an older version of pixelis"
    if intact(data, end):
        found = _FIELDS.unpack_from(data, end)[1]
        return f"record {found} at byte {end} of {len(data)}, where record {number} is due: what lay between is lost"
    at = data.find(_MAGIC, end + 1)
    while at >= 0:
        if intact(data, at):
            return f"damaged record at byte {end} of {len(data)}"
        at = data.find(_MAGIC, at + 1)
    return ""


def stems(root: Path, *suffixes: str) -> list[int]:
    """Numbers of the segments in a folder."""
    return sorted({int(path.stem) for suffix in suffixes for path in root.glob(f"*{suffix}")})
