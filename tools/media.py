"""Media: images and clips named by the hash of their bytes, stored once, decoded into a bounded cache."""

import hashlib
import os
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pixelis.tools.clip import Clip
from pixelis.tools.decode import MediaError, decode_image
from pixelis.tools.file import read_file
from pixelis.tools.frame import View
from pixelis.tools.limits import MediaLimits

CACHE_BYTES = 256 << 20

__all__ = ["MediaError", "MediaInfo", "MediaStore"]


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a medium is: size in upright pixels; frames and seconds are 1 and 0 for an image.

    Example:
        >>> MediaInfo("image", 448, 448).frames
        1
    """

    kind: Literal["image", "clip"]
    width: int
    height: int
    frames: int = 1
    seconds: float = 0.0


class MediaStore:
    """Content-addressed bytes, in memory (`root=None`) or under `root/ab/<sha>`; safe to use from several threads.

    Bytes are checked when they are first looked at (`info`, `pixels`): what cannot be decoded raises MediaError with
    one line that names the file (when it came from one) or the hash, and what is wrong. So does what exceeds `limits`.
    """

    def __init__(self, root: Path | None = None, cache_bytes: int = CACHE_BYTES, limits: MediaLimits | None = None):
        self.root = root
        self.cache_bytes = cache_bytes
        self.limits = limits or MediaLimits()
        self._bytes: dict[str, bytes] = {}
        self._names: dict[str, str] = {}
        self._infos: dict[str, MediaInfo] = {}
        self._clips: OrderedDict[str, Clip] = OrderedDict()
        self._cache: OrderedDict[tuple[str, int | None], np.ndarray] = OrderedDict()
        self._cached = 0
        self._lock = threading.RLock()

    def put(self, data: bytes) -> str:
        """Stores bytes once and returns their sha256; on disk they are durable when this returns."""
        sha = hashlib.sha256(data).hexdigest()
        if self.root is None:
            self._bytes.setdefault(sha, bytes(data))
        elif not self._path(sha).exists():
            _write_durably(self._path(sha), data)
        return sha

    def add_file(self, path: str | Path) -> str:
        """Stores a plain file's bytes; later errors name the file. Raises MediaError and OSError as `read_file` does."""
        sha = self.put(read_file(path, self.limits))
        self._names[sha] = str(path)
        return sha

    def get(self, sha: str) -> bytes:
        """The bytes; raises MediaError when they are not here."""
        if self.root is None and sha in self._bytes:
            return self._bytes[sha]
        if self.root is not None and self._path(sha).exists():
            return self._path(sha).read_bytes()
        raise MediaError(f"{self._name(sha)}: no such medium in this store")

    def forget(self, sha: str) -> None:
        """Frees a medium that is in memory, with all that was decoded of it."""
        with self._lock:
            self._bytes.pop(sha, None)
            self._infos.pop(sha, None)
            if sha in self._clips:
                self._clips.pop(sha).close()
            for key in [key for key in self._cache if key[0] == sha]:
                self._cached -= self._cache.pop(key).nbytes

    def remove(self, sha: str) -> None:
        """Deletes a medium, on disk too; one that is not there is no error."""
        self.forget(sha)
        if self.root is not None:
            self._path(sha).unlink(missing_ok=True)

    def __contains__(self, sha: str) -> bool:
        return sha in self._bytes if self.root is None else self._path(sha).exists()

    def info(self, sha: str) -> MediaInfo:
        """Kind, size and length; decodes an image and indexes a clip on first use."""
        with self._lock:
            if sha not in self._infos:
                self._infos[sha] = self._inspect(sha)
            return self._infos[sha]

    def moment(self, sha: str, frame: int) -> float:
        """Seconds from a clip's first frame to frame `frame`; they need not be evenly spaced."""
        with self._lock:
            return self._clip(sha).moment(frame)

    def pixels(self, view: View) -> np.ndarray:
        """The view's pixels, HxWx3 uint8 RGB, read-only (a window into the decoded source, not a copy)."""
        with self._lock:
            if view.frame is None and self.info(view.source).kind == "clip":
                raise ValueError("a clip as a whole has no pixels: name a frame")
            whole = self._whole(view.source, view.frame)
        x0, y0, x1, y1 = view.rect
        if x1 > whole.shape[1] or y1 > whole.shape[0]:
            raise ValueError(f"view {view.rect} lies outside {whole.shape[1]}x{whole.shape[0]} pixels")
        return whole[y0:y1, x0:x1]

    def _inspect(self, sha: str) -> MediaInfo:
        data, name = self.get(sha), self._name(sha)
        if wrong := self.limits.exceeded("bytes", len(data), f"{len(data)} bytes"):
            raise MediaError(f"{name}: {wrong}")
        image = decode_image(data, name, self.limits)
        if image is not None:
            self._keep((sha, None), image)
            return MediaInfo("image", image.shape[1], image.shape[0])
        clip = self._clip(sha)
        first = clip.frame(0)
        self._keep((sha, 0), first)
        return MediaInfo("clip", first.shape[1], first.shape[0], clip.frames, clip.seconds)

    def _whole(self, sha: str, frame: int | None) -> np.ndarray:
        key = (sha, frame)
        if key not in self._cache:
            self._decode(sha, frame)
        self._cache.move_to_end(key)
        return self._cache[key]

    def _decode(self, sha: str, frame: int | None) -> None:
        if frame is None:
            image = decode_image(self.get(sha), self._name(sha), self.limits)
            if image is None:
                raise MediaError(f"{self._name(sha)}: not an image")
            self._keep((sha, None), image)
            return
        info, pixels = self.info(sha), self._clip(sha).frame(frame)
        height, width = pixels.shape[:2]
        if (width, height) != (info.width, info.height):
            told = f"frame {frame} is {width}x{height}, the first {info.width}x{info.height}: convert it to one size"
            raise MediaError(f"{self._name(sha)}: {told}")
        self._keep((sha, frame), pixels)

    def _clip(self, sha: str) -> Clip:
        if sha not in self._clips:
            self._clips[sha] = Clip(self.get(sha), self._name(sha), self.limits)
            while len(self._clips) > 8:  # open decoders hold the clip's bytes and buffers
                self._clips.popitem(last=False)[1].close()
        self._clips.move_to_end(sha)
        return self._clips[sha]

    def _keep(self, key: tuple[str, int | None], array: np.ndarray) -> None:
        array.setflags(write=False)
        self._cached += array.nbytes - (self._cache[key].nbytes if key in self._cache else 0)
        self._cache[key] = array
        self._cache.move_to_end(key)
        while self._cached > self.cache_bytes and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes

    def _path(self, sha: str) -> Path:
        assert self.root is not None
        return self.root / sha[:2] / sha

    def _name(self, sha: str) -> str:
        return self._names.get(sha, f"medium {sha[:12]}")


def _write_durably(path: Path, data: bytes) -> None:
    """Writes under a temporary name, syncs, renames, syncs the folder: a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except OSError:
            os.unlink(file.name)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
