"""Drawing: handles over the picture they belong to, for people to check."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from pixelis.tools.frame import View
from pixelis.tools.handle import Handle, Mask, Track, Window
from pixelis.tools.media import MediaStore

COLORS = ((255, 64, 64), (64, 200, 64), (80, 120, 255), (250, 200, 40), (200, 80, 220), (40, 210, 220))
RIM = (20, 20, 20)
SHEET = 8  # most frames drawn side by side


def overlay(store: MediaStore, handles: Sequence[Handle], side: int = 1280) -> Image.Image:
    """Masks tinted, crops and tracks as boxes, each in its colour with its name, on the source they come from.

    A clip's handles are drawn on the frames they name (windows: first and last; tracks: spread over the clip), side by
    side. The longer side of one picture is at most `side` pixels. Raises ValueError without handles.
    """
    if not handles:
        raise ValueError("nothing to draw")
    source = handles[0].view.source
    info = store.info(source)
    whole = (0, 0, info.width, info.height)
    numbers: Sequence[int | None] = _frames(handles) if info.kind == "clip" else [None]
    pictures = []
    for number in numbers:
        pixels = store.pixels(View(source, whole, number)).copy()
        for index, handle in enumerate(h for h in handles if h.view.source == source):
            pixels = _draw(pixels, handle, number, COLORS[index % len(COLORS)])
        picture = Image.fromarray(pixels)
        picture.thumbnail((side, side) if len(numbers) == 1 else (side // 2, side // 2))
        pictures.append(picture)
    return _sheet(pictures)


def _frames(handles: Sequence[Handle]) -> Sequence[int | None]:
    """The frame numbers to draw, at most SHEET of them, evenly chosen."""
    numbers: set[int] = set()
    for handle in handles:
        if handle.view.frame is not None:
            numbers.add(handle.view.frame)
        if isinstance(handle.payload, Window):
            numbers |= {handle.payload.first, handle.payload.last}
        if isinstance(handle.payload, Track):
            spots = handle.payload.spots
            numbers |= {spots[round(i)].frame for i in np.linspace(0, len(spots) - 1, min(6, len(spots)))}
    ordered = sorted(numbers) or [0]
    if len(ordered) <= SHEET:
        return ordered
    return [ordered[round(i)] for i in np.linspace(0, len(ordered) - 1, SHEET)]


def _draw(pixels: np.ndarray, handle: Handle, number: int | None, color: tuple[int, int, int]) -> np.ndarray:
    x0, y0, x1, y1 = handle.view.rect
    if isinstance(handle.payload, Track):
        for spot in handle.payload.spots:
            if spot.frame == number and spot.visible:
                return _boxed(pixels, spot.box, color, handle.name)
        return pixels
    if handle.view.frame != number:
        return pixels
    if isinstance(handle.payload, Mask):
        part = pixels[y0:y1, x0:x1]
        inside = handle.payload.array()
        part[inside] = (0.5 * part[inside] + 0.5 * np.array(color)).astype(np.uint8)
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return _boxed(pixels, (x0 + left, y0 + top, x0 + right, y0 + bottom), color, handle.name)
    whole = (x0, y0, x1, y1) == (0, 0, pixels.shape[1], pixels.shape[0])
    return pixels if whole else _boxed(pixels, handle.view.rect, color, handle.name)


def _boxed(pixels: np.ndarray, box: tuple[int, int, int, int], color: tuple[int, int, int], name: str) -> np.ndarray:
    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    width = max(2, max(picture.size) // 200)
    left, top, right, bottom = box[0], box[1], box[2] - 1, box[3] - 1
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=RIM, width=1)  # seen on a ground of any colour
    pen.rectangle((left, top, right, bottom), outline=color, width=width)
    size, spot = max(13, max(picture.size) // 28), (left + 2 * width, top + width)
    pen.text(spot, name, fill=color, font_size=size, stroke_width=max(1, width // 2), stroke_fill=RIM)
    return np.array(picture)


def _sheet(pictures: list[Image.Image]) -> Image.Image:
    if len(pictures) == 1:
        return pictures[0]
    columns = 2 if len(pictures) <= 4 else 4
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet
