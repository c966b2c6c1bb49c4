"""Small pictures and clips made by hand, as bytes."""

import io
import struct
from fractions import Fraction

import av
import cv2
import numpy as np
from PIL import Image

RED, GREEN, BLUE, GRAY = (220, 30, 30), (30, 160, 60), (40, 70, 220), (120, 120, 120)


def blank(width: int = 320, height: int = 240, color: tuple[int, int, int] = GRAY) -> np.ndarray:
    """HxWx3 uint8 RGB of one colour."""
    return np.full((height, width, 3), color, np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """Lossless bytes."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def jpeg(pixels: np.ndarray) -> bytes:
    """JPEG bytes."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=92)
    return out.getvalue()


def plate(text: str, color: tuple[int, int, int] = RED) -> np.ndarray:
    """A 320x240 gray picture with a coloured plate at x 110..220, y 90..140 that carries white text."""
    pixels = blank()
    cv2.rectangle(pixels, (110, 90), (219, 139), color, -1)
    cv2.putText(pixels, text, (135, 124), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (255, 255, 255), 2, cv2.LINE_AA)
    return pixels


def avi(frames: list[np.ndarray], rate: int = 8) -> bytes:
    """An MJPEG clip, every frame a key frame."""
    out = io.BytesIO()
    with av.open(out, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.time_base = "yuvj420p", Fraction(1, rate)
        for number, pixels in enumerate(frames):
            packet = av.Packet(jpeg(pixels))
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, rate), True
            packet.pts = packet.dts = number
            container.mux(packet)
    return out.getvalue()


def mp4(frames: list[np.ndarray], rate: int = 10) -> bytes:
    """An MPEG-4 clip with frames that depend on each other (a key frame every 12)."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def rectangles(seed: int, side: int) -> np.ndarray:
    """A side x side gray picture with six coloured rectangles that depend on `seed`."""
    rng = np.random.default_rng(seed)
    pixels = blank(side, side)
    for x, y in rng.integers(0, side - 40, (6, 2)).tolist():
        cv2.rectangle(pixels, (x, y), (x + 38, y + 30), rng.integers(0, 256, 3).tolist(), -1)
    return pixels


def moving_square(frames: int = 12, step: int = 6) -> tuple[list[np.ndarray], list[tuple[int, int, int, int]]]:
    """A textured square on a soft ground that moves right by `step` a frame, and its boxes."""
    rng = np.random.default_rng(3)
    ground = cv2.resize(rng.integers(60, 110, (6, 8, 3), dtype=np.uint8), (320, 240))
    texture = cv2.resize(rng.integers(120, 255, (5, 5, 3), dtype=np.uint8), (48, 48), interpolation=cv2.INTER_NEAREST)
    pictures, boxes = [], []
    for number in range(frames):
        x, y = 40 + step * number, 90
        pixels = ground.copy()
        pixels[y : y + 48, x : x + 48] = texture
        pictures.append(pixels)
        boxes.append((x, y, x + 48, y + 48))
    return pictures, boxes


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    """A PIL image in a format of PIL's."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def gif(frames: list[np.ndarray], milliseconds: int | list[int] = 100) -> bytes:
    """A GIF, animated when there are several frames."""
    first, *rest = [Image.fromarray(pixels) for pixels in frames]
    return saved(first, "GIF", save_all=True, append_images=rest, duration=milliseconds)


def h264(frames: list[np.ndarray], stamps: list[int], rate: int = 10) -> bytes:
    """An MKV with B-frames whose frames are shown at the given tenths of milliseconds (any rate, or a variable one)."""
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=rate, options={"bf": "3", "crf": "12", "g": "12"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 10_000)
        stream.codec_context.time_base = Fraction(1, 10_000)
        for pixels, stamp in zip(frames, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 10_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def sound(form: str = "mp4") -> bytes:
    """A second of silence: a container without pictures."""
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for number in range(16):
            frame.pts = 1024 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def turned(clip: bytes, quarter: int) -> bytes:
    """An MP4 as a phone writes it that was held otherwise: to be shown `quarter` times 90 degrees clockwise."""
    matrices = {0: (1, 0, 0, 1), 1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}
    a, b, c, d = (v * 65536 for v in matrices[quarter])
    at = clip.index(b"tkhd") + 4 + 40  # version and flags, times, ids, duration, layer, volume
    return clip[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + clip[at + 36 :]
