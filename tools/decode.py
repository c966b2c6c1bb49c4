"""Decoding of images: bytes to RGB arrays, strictly (a truncated file is an error, not a grey half)."""

import io
import re
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pixelis.tools.limits import MediaLimits

SCANS = 32  # of one progressive JPEG; each costs as much as a whole picture (cameras and editors write about ten)
READS = "pixelis reads JPEG, PNG, GIF, WebP, BMP, TIFF, PNM and AVIF, and clips in MP4, MOV, MKV, WebM, AVI and GIF"
# By content and never by name. What PIL reads beyond these runs other programs (EPS) or is read in slow Python.
_IMAGES = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("BMP", re.compile(rb"BM")),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("PPM", re.compile(rb"P[456]\s")),
    ("AVIF", re.compile(rb"....ftypavi[fs]", re.DOTALL)),
)
HEIC = "a HEIC picture"
_OTHERS = (
    ("an SVG drawing", re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", re.DOTALL)),
    ("a web page", re.compile(rb"\s*<(!doctype html|html|head|body)", re.IGNORECASE)),
    ("a PDF", re.compile(rb"%PDF")),
    (HEIC, re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL)),
    ("an archive", re.compile(rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf")),
    ("text", re.compile(rb"[\t\n\r\x20-\x7e]{16,}")),
)
# What PIL's plugins raise on broken bytes.
BROKEN = (
    OSError, SyntaxError, RuntimeError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip


class MediaError(Exception):
    """Bytes that cannot be decoded or are too much, or a medium that is not there; the message is one line."""


def decode_image(data: bytes, name: str, limits: MediaLimits) -> np.ndarray | None:
    """HxWx3 uint8 RGB, upright by EXIF, transparency over white; None when the bytes are no image.

    The size that the file declares is checked before a pixel is decoded. An animated GIF is a clip, thus None; of an
    animated PNG, WebP or AVIF and of a TIFF with several pages this is the first picture. 16 bits become 8.
    """
    if not data:
        raise MediaError(f"{name}: empty (0 bytes)")
    kind = _matching(_IMAGES, data)
    if kind is None:
        if _matching(_OTHERS, data) == HEIC:  # FFmpeg would take its first tile for a clip
            raise MediaError(f"{name}: {HEIC}: save it as JPEG; {READS}")
        return None
    try:
        file = _opened(kind, data)
        _check(file, kind, data, name, limits)
        if kind == "GIF" and getattr(file, "is_animated", False):
            return None
        ImageOps.exif_transpose(file, in_place=True)
        return np.array(_flatten(file))
    except Image.DecompressionBombError as error:  # WebP and GIF, above twice PIL's own limit: before the size is known
        told = f"at most {limits.pixels} pixels are allowed (MediaLimits.pixels)"
        raise MediaError(f"{name}: {one_line(error)} {told}") from error
    except BROKEN as error:
        raise MediaError(f"{name}: broken image: {one_line(error)}") from error


def looks_like(data: bytes) -> str:
    """What undecodable bytes seem to be, in words.

    Example:
        >>> looks_like(b"%PDF-1.7")
        'it looks like a PDF'
    """
    kind = _matching(_OTHERS, data)
    return f"it looks like {kind}" if kind else "its content is of no known kind"


def one_line(error: BaseException) -> str:
    """An error's message without line breaks and at most 200 characters long; its type when it has none."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _opened(kind: str, data: bytes) -> Any:
    """PIL's reader of one format. Not Image.open, whose limit is one for the whole process; GIF and TIFF warn of it, too."""
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.OPEN[kind][0](io.BytesIO(data), "")


def _check(file: Image.Image, kind: str, data: bytes, name: str, limits: MediaLimits) -> None:
    size = f"{file.width}x{file.height} pixels"
    wrong = limits.exceeded("pixels", file.width * file.height, size) or limits.exceeded("side", max(file.size), size)
    if wrong:
        raise MediaError(f"{name}: {wrong}")
    if kind == "JPEG" and _scans(data) > SCANS:
        raise MediaError(f"{name}: a JPEG of more than {SCANS} scans, which no camera writes: save it again")


def _scans(data: bytes) -> int:
    """Scans of a JPEG's picture, counted without decoding, at most SCANS + 1."""
    at, scans = 2, 0
    marker = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in a scan, FF 00 is data and FF D0..D7 are restarts
    while scans <= SCANS and (found := marker.search(data, at)) and found[0] != b"\xff\xd9":
        scans += found[0] == b"\xff\xda"
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        at = found.end() + max(2, length)
    return scans


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        white.alpha_composite(rgba)
        return white.convert("RGB")
    if image.mode.startswith("I"):  # PIL's convert clips 16-bit grey instead of scaling
        grey = np.asarray(image)
        if grey.min(initial=0) < 0 or grey.max(initial=0) > 65535:
            raise ValueError("32-bit grey: save it with 16 or 8 bits")
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, which have no agreed white: save it with 16 or 8 bits")
    return image.convert("RGB")


def _matching(table: tuple[tuple[str, re.Pattern[bytes]], ...], data: bytes) -> str | None:
    return next((name for name, pattern in table if pattern.match(data[:4096])), None)
