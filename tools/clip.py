"""Clips: frames of a video by number, in presentation order, decoded as far as needed and no further."""

import io
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from pixelis.tools.decode import READS, MediaError, looks_like, one_line
from pixelis.tools.limits import MediaLimits

# Containers that hold their own frames and declare their streams in a header. Playlists (HLS, DASH, concat) would open other
# files and addresses; streams without a header (MPEG-TS, FLV) would be decoded to find their size, before any check.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif"


class Clip:
    """An open clip: frames by number, decoded forward from the last position or from the key frame before.

    Numbers follow presentation order at any frame rate; frames are upright by the container's rotation. A frame that
    is missing or broken raises MediaError, those that do not build on it come as usual. MediaError, too, when there is
    no video, when packets are missing, and when a limit is exceeded.
    """

    def __init__(self, data: bytes, name: str, limits: MediaLimits):
        import av  # 40 ms, and only clips need it

        self._av = av
        self.name = name
        self._limits = limits
        self._errors = (av.error.FFmpegError, OverflowError, ValueError)  # the latter: numbers PyAV cannot pass on
        self._bound = {"max_pixels": str(2 * limits.frame_pixels + (1 << 16))}  # FFmpeg counts what it pads, too
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none", **self._bound}
        try:
            self._box: Any = av.open(io.BytesIO(data), options=options)
        except self._errors as error:
            raise MediaError(f"{name}: neither an image nor a clip: {looks_like(data)}; {READS}") from error
        try:
            self._stream = self._first_stream()
            self._index()
        except self._errors as error:
            raise MediaError(f"{name}: broken clip: {one_line(error)}") from error
        self._flow: Iterator[Any] | None = None
        self._ready: deque[Any] = deque()
        self._next = 0
        self._damaged = False

    def frame(self, number: int) -> np.ndarray:
        """Frame `number` (0-based), HxWx3 uint8 RGB."""
        if not 0 <= number < self.frames:
            raise ValueError(f"{self.name}: frame {number} of {self.frames}")
        key = max((k for k in self._keys if k <= number), default=0)
        try:
            if self._flow is None or number < self._next or key > self._next:
                self._seek(key)
            return self._forward(number)
        except self._errors as error:
            self._flow = None
            raise MediaError(f"{self.name}: broken clip at frame {number}: {one_line(error)}") from error

    def moment(self, number: int) -> float:
        """Seconds from the first frame to frame `number`."""
        if self._stamps:
            return float((self._stamps[number] - self._stamps[0]) * self._stream.time_base)
        return self.seconds * number / self.frames

    def close(self) -> None:
        """Frees the decoder."""
        self._flow = None
        self._ready.clear()
        self._box.close()

    def _first_stream(self) -> Any:
        cover = self._av.stream.Disposition.attached_pic
        streams = [s for s in self._box.streams.video if not s.disposition & cover]
        if not streams:
            raise MediaError(f"{self.name}: no video stream, only {_listed(self._box.streams)}: name a clip with pictures")
        stream = streams[0]
        codec = stream.codec_context
        if codec is None:
            raise MediaError(f"{self.name}: no decoder for its video stream: convert it to H.264")
        limit, size = self._limits.frame_pixels, f"{codec.width}x{codec.height}"
        if wrong := self._limits.exceeded("frame_pixels", codec.width * codec.height, f"frames of {size}"):
            raise MediaError(f"{self.name}: {wrong}")
        if not codec.width or not codec.height:  # also what FFmpeg makes of a size above max_pixels
            raise MediaError(f"{self.name}: no frame size, or one above the limit of {limit} pixels (MediaLimits.frame_pixels)")
        codec.thread_count = 1
        codec.options = self._bound
        return stream

    def _index(self) -> None:
        """Frame numbers and times from the time stamps of all packets, without decoding."""
        until = time.monotonic() + self._limits.patience
        stamps: list[int | None] = []
        keys: list[int | None] = []
        packets, length = 0, 0
        for packet in self._box.demux(self._stream):
            if not packet.size:
                continue
            packets += 1
            if packet.is_discard:  # decoded for others' sake and never shown
                continue
            stamps.append(packet.pts)
            length = packet.duration or length
            if packet.is_keyframe:
                keys.append(packet.pts)
            self._allowed("frames", packets)
            if time.monotonic() > until:
                raise MediaError(f"{self.name}: no end found in {self._limits.patience:g} s: {packets} frames so far")
        declared = self._stream.frames
        if not stamps or packets < declared:
            raise MediaError(f"{self.name}: truncated clip: {packets} of {declared or 'unknown'} frames")
        self.frames = len(stamps)
        self._order(stamps, keys)
        self.seconds = self._seconds(length)
        self._allowed("seconds", self.seconds)

    def _order(self, stamps: list[int | None], keys: list[int | None]) -> None:
        """Without a time stamp for every frame, or where key frames do not stand alone, frames are counted from the start."""
        known = sorted(s for s in stamps if s is not None)
        self._stamps = known if len(set(known)) == len(stamps) else []
        self._number = {stamp: i for i, stamp in enumerate(self._stamps)}
        whole = self._stamps and self._box.format.name != "gif"
        self._keys = sorted(self._number[k] for k in keys if k in self._number) if whole else [0]

    def _seconds(self, length: int) -> float:
        """From the first frame to the end of the last; its length is that of its packet, or of the mean frame."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        if not self._stamps:
            return float(self.frames / rate) if rate else 0.0
        span = self._stamps[-1] - self._stamps[0]
        last = length or (span / (self.frames - 1) if self.frames > 1 else 0)
        return float((span + last) * self._stream.time_base)

    def _allowed(self, name: str, found: float) -> None:
        if wrong := self._limits.exceeded(name, found, f"{found:g} {name}"):
            raise MediaError(f"{self.name}: {wrong}")

    def _seek(self, key: int) -> None:
        self._box.seek(self._stamps[key] if self._stamps else 0, stream=self._stream, backward=True)
        self._flow = self._box.demux(self._stream)
        self._ready.clear()
        self._next, self._damaged = key, False

    def _forward(self, number: int) -> np.ndarray:
        until = time.monotonic() + self._limits.patience
        while (frame := self._decoded()) is not None:
            at = self._number.get(frame.pts, self._next) if self._stamps else self._next
            self._next = at + 1
            if at == number and not frame.is_corrupt:
                upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                return np.ascontiguousarray(upright)
            if at >= number:
                break
            if time.monotonic() > until:
                raise MediaError(f"{self.name}: frame {number} was not reached in {self._limits.patience:g} s, only frame {at}")
        if frame is None:
            self._flow = None
        raise MediaError(f"{self.name}: broken clip: frame {number} is missing or does not decode")

    def _decoded(self) -> Any:
        """The next frame that the decoder gives, or None at the end. After a broken packet: from the next key frame on."""
        assert self._flow is not None
        while not self._ready:
            packet = next(self._flow, None)
            if packet is None:
                return None
            try:
                frames = packet.decode()
            except self._av.error.EOFError:
                return None
            except self._av.error.FFmpegError:
                if not self._stamps:  # nothing says which number the frames behind the gap have
                    raise
                self._damaged, frames = True, []
            for frame in frames:
                self._damaged &= not frame.key_frame
                if not self._damaged:
                    self._ready.append(frame)
        return self._ready.popleft()


def _listed(streams: Any) -> str:
    return " and ".join(sorted({str(s.type) for s in streams})) or "an empty container"
