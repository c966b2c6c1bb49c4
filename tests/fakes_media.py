"""Small pictures and clips made by hand, as bytes."""

import io
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
