"""Decoding: bytes to RGB arrays, strictly (a truncated file is an error, not a grey half)."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class MediaError(Exception):
    """Bytes that cannot be decoded, or a medium that is not there; the message is one line."""


def decode_image(data: bytes, name: str) -> np.ndarray | None:
    """HxWx3 uint8 RGB, upright by EXIF, transparency over white; None when the bytes are no image at all."""
    if not data:
        raise MediaError(f"{name}: empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data)) as file:
            image = ImageOps.exif_transpose(file)
            return np.array(_flatten(image))
    except UnidentifiedImageError:
        return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"{name}: broken image: {_line(error)}") from error


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode.startswith("I"):  # 16- and 32-bit grey: PIL's convert clips instead of scaling
        grey = np.asarray(image).astype(np.float64)
        top = 65535.0 if grey.max(initial=0) > 255 else 255.0
        return Image.fromarray((grey * 255 / top).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


class Clip:
    """An open clip: frames by number, decoded forward from the last position or from the key frame before.

    Frame numbers follow presentation order. Raises MediaError when nothing can be decoded or frames are missing.
    """

    def __init__(self, data: bytes, name: str):
        import av  # 40 ms, and only clips need it

        self._av = av
        self.name = name
        try:
            self._box: Any = av.open(io.BytesIO(data))
            self._stream = self._first_stream()
            stamps, keys = self._index()
        except av.error.FFmpegError as error:
            raise MediaError(f"{name}: neither an image nor a clip: {_line(error)}") from error
        self.frames = len(stamps)
        declared = self._stream.frames
        if not stamps or (declared and self.frames < declared):
            raise MediaError(f"{name}: truncated clip: {self.frames} of {declared or 'unknown'} frames")
        self._ordered = all(s is not None for s in stamps)
        self._stamps = sorted(s for s in stamps if s is not None)
        self._number = {stamp: i for i, stamp in enumerate(self._stamps)}
        self._keys = sorted(self._number[k] for k in keys if k is not None) if self._ordered else [0]
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.seconds = float(self.frames / rate) if rate else 0.0
        self._flow: Iterator[Any] | None = None
        self._next = 0

    def frame(self, number: int) -> np.ndarray:
        """Frame `number` (0-based), HxWx3 uint8 RGB."""
        if not 0 <= number < self.frames:
            raise ValueError(f"{self.name}: frame {number} of {self.frames}")
        key = max((k for k in self._keys if k <= number), default=0)
        if self._flow is None or number < self._next or key > self._next:
            self._seek(key if self._ordered else 0)
        try:
            return self._forward(number)
        except self._av.error.FFmpegError as error:
            raise MediaError(f"{self.name}: broken clip at frame {number}: {_line(error)}") from error

    def close(self) -> None:
        """Frees the decoder."""
        self._flow = None
        self._box.close()

    def _first_stream(self) -> Any:
        if not self._box.streams.video or "tty" in self._box.format.name:  # FFmpeg takes any text for ANSI art
            raise MediaError(f"{self.name}: neither an image nor a clip")
        stream = self._box.streams.video[0]
        stream.codec_context.thread_count = 1
        return stream

    def _index(self) -> tuple[list[int | None], list[int | None]]:
        """Time stamps of all packets, and of the key frames, without decoding."""
        packets = [p for p in self._box.demux(self._stream) if p.size]
        return [p.pts for p in packets], [p.pts for p in packets if p.is_keyframe]

    def _seek(self, key: int) -> None:
        # Whole-file decoding starts from stamp 0; a clip without time stamps can only be read from there.
        stamp = self._stamps[key] if self._ordered else 0
        self._box.seek(stamp, stream=self._stream, backward=True)
        self._flow = self._box.decode(self._stream)
        self._next = key

    def _forward(self, number: int) -> np.ndarray:
        assert self._flow is not None
        for frame in self._flow:
            at = self._number.get(frame.pts, self._next) if self._ordered else self._next
            self._next = at + 1
            if at == number:
                return frame.to_ndarray(format="rgb24")
        self._flow = None
        raise MediaError(f"{self.name}: broken clip: frame {number} does not decode")


def _line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
