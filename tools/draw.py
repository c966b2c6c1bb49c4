"""Drawing: what tools found, over the picture or the clip they looked at, for people to check."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.frame import Box, Rect, View
from pixelis.tools.handle import Handle, Mask, Track, Window, Workspace
from pixelis.tools.media import MediaInfo, MediaStore

COLORS = ((255, 64, 64), (64, 200, 64), (80, 120, 255), (250, 200, 40), (200, 80, 220), (40, 210, 220))
RIM = (20, 20, 20)
SIDE = 1280  # pixels of a drawn picture's longer side, at most...
SMALLEST, THINNEST = 240, 24  # ...but of its longer and its shorter side at least, where that can be
SHEET = 8  # most frames drawn side by side
LONGEST = 600  # most frames of an annotated clip
BESIDE = 4  # texts that are written beside their boxes; more of them are numbered, and stand at the foot
STILLS = (".png", ".jpg", ".jpeg")
UNITS = {"area": "/1000", "orientation": "°", "perimeter": " px", "distance": " px", "speed": " px/s", "direction": "°"}

Said = tuple[ToolCall, ToolResult]


class DrawError(ValueError):
    """What was asked for cannot be drawn, or not in that format; the message is one line."""


@dataclass(frozen=True)
class _Mark:
    """A box in source pixels with its name, and the mask inside it (HxW bool of the box) where it has one."""

    rect: Rect
    name: str
    color: tuple[int, int, int]
    inside: np.ndarray | None = None
    aside: bool = False  # the name is text that stands in the box: it goes beside it


def check_target(path: str | Path) -> None:
    """DrawError when `save` cannot write such a file."""
    if Path(path).suffix.lower() not in (*STILLS, ".mp4"):
        raise DrawError(f"{path}: drawings are written as .png or .jpg (a picture, or a clip's frames side by side) or .mp4")


def save(workspace: Workspace, said: Sequence[Said], path: str | Path) -> None:
    """Draws all handles and what the calls found; .png and .jpg: `overlay`, .mp4: `annotate`. Raises DrawError, OSError."""
    check_target(path)
    handles = list(workspace.handles.values())
    if Path(path).suffix.lower() == ".mp4":
        annotate(workspace.store, handles, path, said)
    else:
        overlay(workspace.store, handles, said=said).save(path)


def overlay(store: MediaStore, handles: Sequence[Handle], side: int = SIDE, said: Sequence[Said] = ()) -> Image.Image:
    """Masks tinted, crops, tracks and texts that were read as boxes with their names, on the source they come from.

    A clip's handles are drawn on the frames they name (windows: first and last; tracks: spread over the clip), side by
    side, its windows on a bar of the whole time below. What PROP measured and longer texts stand at the foot.
    The longer side of one picture is at most `side` pixels; small and thin ones are enlarged. DrawError without handles.
    """
    scene = _Scene(store, handles, said)
    numbers: Sequence[int | None] = scene.named() if scene.info.kind == "clip" else [None]
    pictures = [scene.picture(number, side if len(numbers) == 1 else side // 2) for number in numbers]
    return scene.footed(_sheet(pictures))


def annotate(
    store: MediaStore, handles: Sequence[Handle], path: str | Path, said: Sequence[Said] = (), side: int = SIDE
) -> None:
    """Writes an MP4 of the stretch that the handles of a clip name (all of it when they name none), each frame drawn on.

    In the speed of the source; of a stretch of more than LONGEST frames every second, third ... frame. Raises DrawError
    for an image, MediaError for a frame that does not decode.
    """
    import av

    scene = _Scene(store, handles, said)
    if scene.info.kind != "clip":
        raise DrawError(f"{path}: an image has no time: name a .png or .jpg")
    first, last = scene.stretch()
    step = -(-(last - first + 1) // LONGEST)
    rate = Fraction(scene.rate / step).limit_denominator(1000)
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = None
        for number in range(first, last + 1, step):
            pixels = _even(np.array(scene.footed(scene.picture(number, side), number)))
            if stream is None:
                stream = container.add_stream(_encoder(), rate=rate)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


class _Scene:
    """Handles of one source, and what calls on them found."""

    def __init__(self, store: MediaStore, handles: Sequence[Handle], said: Sequence[Said]):
        if not handles:
            raise DrawError("nothing to draw")
        self.store = store
        self.source = handles[0].view.source
        self.handles = [h for h in handles if h.view.source == self.source]
        self.said = [(call, result) for call, result in said if result.ok]
        self.info: MediaInfo = store.info(self.source)

    @property
    def rate(self) -> float:
        """Frames a second."""
        return self.info.frames / self.info.seconds if self.info.seconds else 10.0

    def numbers(self) -> set[int]:
        """All frames that the handles name."""
        found: set[int] = set()
        for handle in self.handles:
            if handle.view.frame is not None:
                found.add(handle.view.frame)
            if isinstance(handle.payload, Window):
                found |= {handle.payload.first, handle.payload.last}
            if isinstance(handle.payload, Track):
                spots = handle.payload.spots
                found |= {spots[round(i)].frame for i in np.linspace(0, len(spots) - 1, min(6, len(spots)))}
        return found

    def named(self) -> list[int]:
        """The frames to draw side by side, at most SHEET of them, evenly chosen."""
        ordered = sorted(self.numbers()) or [0]
        if len(ordered) <= SHEET:
            return ordered
        return [ordered[round(i)] for i in np.linspace(0, len(ordered) - 1, SHEET)]

    def stretch(self) -> tuple[int, int]:
        """First and last frame to show as a clip: a second at least, where the source has it."""
        ordered = sorted(self.numbers()) or [0, self.info.frames - 1]
        first, last = ordered[0], ordered[-1]
        short = max(0, round(self.rate) - (last - first + 1))
        return max(0, first - short // 2), min(self.info.frames - 1, last + -(-short // 2))

    def picture(self, number: int | None, side: int) -> Image.Image:
        """The image, or one frame with its time, and all marks on it."""
        whole = (0, 0, self.info.width, self.info.height)
        pixels = self.store.pixels(View(self.source, whole, number)).copy()
        drawn = _drawn(pixels, list(self.marks(number)), side)
        if number is not None:
            told = f"{self.store.moment(self.source, number):.2f} s"
            _write(ImageDraw.Draw(drawn), (4, drawn.height), told, _letters(drawn), (255, 255, 255))
        return drawn

    def marks(self, number: int | None) -> Iterator[_Mark]:
        """What is to be seen on the image, or on a frame."""
        for index, handle in enumerate(self.handles):
            color = COLORS[index % len(COLORS)]
            if isinstance(handle.payload, Track):
                yield from _followed(handle, number, color)
            elif handle.view.frame == number and isinstance(handle.payload, Mask):
                yield _masked(handle, handle.payload, color)
            elif handle.view.frame == number and handle.view.rect != (0, 0, self.info.width, self.info.height):
                yield _Mark(handle.view.rect, handle.name, color)
        for view, box, name, _ in self.read():
            if box is not None and view.frame == number:
                yield _Mark(view.pixels_of(box), name, COLORS[len(self.handles) % len(COLORS)], aside=True)

    def read(self) -> list[tuple[View, Box | None, str, str]]:
        """Each text that OCR read: of which view, in which box of it (None: everywhere), its name in the picture, itself."""
        by_name = {handle.name: handle.view for handle in self.handles}
        found: list[tuple[View, Box | None, str]] = []
        for call, result in self.said:
            view = by_name.get(str(call.arguments.get("on")))
            if call.name != "OCR" or view is None:
                continue
            for item in result.data.get("items", [{"box": call.arguments.get("box"), "text": result.data["text"]}]):
                found.append((view, tuple(item["box"]) if item["box"] else None, item["text"]))
        many = len(found) > BESIDE
        return [(view, box, f"{n}" if many else text, text) for n, (view, box, text) in enumerate(found, 1)]

    def lines(self) -> list[str]:
        """What has no place in the picture."""
        out = [f"{call.arguments.get('of')}: {_values(result)}" for call, result in self.said if call.name == "PROP"]
        read = [(box, name, text) for _, box, name, text in self.read()]
        return out + [f"{name}  {text}" if name != text else text for box, name, text in read if box is None or name != text]

    def footed(self, image: Image.Image, now: int | None = None) -> Image.Image:
        """The picture with a bar of the clip's windows and the lines below it."""
        windows = [(h, h.payload) for h in self.handles if isinstance(h.payload, Window)]
        lines, size = self.lines(), _letters(image)
        height = (2 * size if windows else 0) + len(lines) * round(1.5 * size)
        if not height:
            return image
        out = Image.new("RGB", (image.width, image.height + height + size // 2), "white")
        out.paste(image)
        pen, y = ImageDraw.Draw(out), image.height + size // 4
        if windows:
            self._bar(pen, windows, y, size, now)
            y += 2 * size
        for line in lines:
            while len(line) > 4 and pen.textlength(line, font_size=size) > image.width - 8:
                line = line[: -max(2, len(line) // 20)].rstrip("…") + "…"
            pen.text((4, y), line, fill=RIM, font_size=size)
            y += round(1.5 * size)
        return out

    def _bar(self, pen: Any, windows: list[tuple[Handle, Window]], y: int, size: int, now: int | None) -> None:
        width = pen.im.size[0]

        def across(frame: int) -> int:
            return round((width - 1) * frame / self.info.frames)

        pen.rectangle((0, y, width - 1, y + round(1.6 * size)), fill=(225, 225, 225))
        for handle, window in windows:
            color = COLORS[self.handles.index(handle) % len(COLORS)]
            left, right = across(window.first), max(across(window.last + 1) - 1, across(window.first) + 1)
            pen.rectangle((left, y, right, y + round(1.6 * size)), fill=color, outline=RIM)
            pen.text((left + 4, y + 2), handle.name, fill=RIM, font_size=size)
        if now is not None:
            pen.rectangle((across(now) - 1, y - 2, across(now) + 1, y + round(1.6 * size) + 2), fill=RIM)


def _followed(handle: Handle, number: int | None, color: tuple[int, int, int]) -> Iterator[_Mark]:
    """Where a track was last looked for, no longer ago than it is looked for at all."""
    assert isinstance(handle.payload, Track)
    spots = handle.payload.spots
    stride = spots[1].frame - spots[0].frame if len(spots) > 1 else 1
    last = [s for s in spots if number is not None and 0 <= number - s.frame < stride]
    if last and last[-1].visible:
        yield _Mark(last[-1].box, handle.name, color)


def _masked(handle: Handle, mask: Mask, color: tuple[int, int, int]) -> _Mark:
    inside = mask.array()
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    x, y = handle.view.rect[:2]
    return _Mark((x + left, y + top, x + right, y + bottom), handle.name, color, inside[top:bottom, left:right])


def _values(result: ToolResult) -> str:
    return ", ".join(f"{key} {value}{UNITS.get(key, '')}" for key, value in result.data.items())


def _drawn(pixels: np.ndarray, marks: list[_Mark], side: int) -> Image.Image:
    """The marks on HxWx3 pixels, shrunk or enlarged first: lines and letters are the same on a thumbnail and a 4K photo."""
    for mark in marks:
        if mark.inside is not None:
            x0, y0, x1, y1 = mark.rect
            part = pixels[y0:y1, x0:x1]
            part[mark.inside] = (0.5 * part[mark.inside] + 0.5 * np.array(mark.color)).astype(np.uint8)
    height, width = pixels.shape[:2]
    scale = _scale(width, height, side)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    picture = Image.fromarray(pixels) if scale == 1 else Image.fromarray(pixels).resize(size, way)
    letters = _letters(picture)
    thin = Image.new("RGB", (max(picture.width, 4 * letters), max(picture.height, 3 * letters)), "white")
    if picture.size != thin.size:  # a strip: names stand beside it
        thin.paste(picture)
        picture = thin
    pen = ImageDraw.Draw(picture)
    boxes = [tuple(round(v * s / n) for v, s, n in zip(m.rect, 2 * size, 2 * (width, height), strict=True)) for m in marks]
    for mark, box in zip(marks, boxes, strict=True):
        _box(pen, box, mark.color, max(1, min(max(2, max(size) // 400), min(size) // 20)))
    for mark, box in zip(marks, boxes, strict=True):
        _write(pen, _place(pen, box, mark, letters), mark.name, letters, mark.color)
    return picture


def _scale(width: int, height: int, side: int) -> float:
    long, short = max(width, height), min(width, height)
    if long < SMALLEST:
        return math.ceil(SMALLEST / long)
    scale = min(1.0, side / long)
    return scale if short * scale >= THINNEST else min(THINNEST / short, 4 * side / long)


def _letters(picture: Image.Image) -> int:
    """Size of letters on a picture."""
    return min(28, max(13, max(picture.size) // 45))


def _box(pen: Any, box: Sequence[int], color: tuple[int, int, int], width: int) -> None:
    left, top = box[0], box[1]
    right, bottom = max(left, box[2] - 1), max(top, box[3] - 1)
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=RIM, width=1)  # seen on a ground of any colour
    pen.rectangle((left, top, right, bottom), outline=color, width=width)


def _place(pen: Any, box: Sequence[int], mark: _Mark, letters: int) -> tuple[int, int]:
    """Left and foot of a name: inside its box where it fits, else above, else below."""
    left, top, right, bottom = box
    long, high = pen.textlength(mark.name, font_size=letters), round(1.25 * letters)
    if not mark.aside and right - left > long + 8 and bottom - top > high + 8:
        return left + 5, top + high + 3
    if mark.aside and left > long + 4 and bottom - top < 3 * high:
        return left - int(long) - 4, min(bottom, (top + bottom + high) // 2)
    x = max(1, min(left, pen.im.size[0] - int(long) - 2))
    return (x, top - 1) if top >= high else (x, min(bottom + high + 1, pen.im.size[1] - 1))


def _write(pen: Any, foot: tuple[int, int], text: str, letters: int, color: tuple[int, int, int]) -> None:
    spot = (foot[0], foot[1] - round(0.2 * letters))
    pen.text(spot, text, fill=color, font_size=letters, anchor="ls", stroke_width=max(1, letters // 10), stroke_fill=RIM)


def _sheet(pictures: list[Image.Image]) -> Image.Image:
    if len(pictures) == 1:
        return pictures[0]
    columns = 2 if len(pictures) <= 4 else 4
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet


def _even(pixels: np.ndarray) -> np.ndarray:
    """With the last row and column twice where their number is odd: encoders take even sizes only."""
    return np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")


def _encoder() -> str:
    """H.264 where PyAV was built with it, MPEG-4 otherwise."""
    import av

    return "libx264" if "libx264" in av.codecs_available else "mpeg4"
