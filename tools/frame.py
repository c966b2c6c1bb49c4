"""Frames of reference: what rectangle of which source a handle looks at, and which frame a time names."""

from dataclasses import dataclass, field

FINE = 1 << 20  # parts of a source pixel in which exact edges are kept: 30 zooms on end lose less than a ten-thousandth of it
SCALE = 1000  # every coordinate and time in a call is an integer 0..1000 of its handle (paper.md 2.2)

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in 0..1000 of one handle, x0 < x1, y0 < y1
Point = tuple[int, int]  # x, y in 0..1000 of one handle
Rect = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole source pixels, x1 and y1 exclusive


@dataclass(frozen=True, slots=True)
class View:
    """The pixels a handle looks at: a whole-pixel rectangle of one frame of one source medium.

    `source` is the sha256 of the source bytes, `rect` lies in upright source pixels (at least 1x1), `frame` is the
    0-based frame number of a clip (None for an image, and for a clip as a whole).

    `edges` is where 0 and 1000 lie, exactly, in FINE parts of a source pixel: the box of a box of a box is what it would be
    on real numbers, and only what is shown (`rect`) is rounded, once, to the nearest whole pixels. None means `rect`.
    Views that show the same pixels are equal.

    Example:
        >>> View("ab", (0, 0, 8000, 6000)).crop((500, 0, 501, 1000)).rect
        (4000, 0, 4008, 6000)
    """

    source: str
    rect: Rect
    frame: int | None = None
    edges: Rect | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.rect
        if not (0 <= x0 < x1 and 0 <= y0 < y1):
            raise ValueError(f"a view needs at least one pixel and no negative corner, got {self.rect}")

    @property
    def width(self) -> int:
        """Width in source pixels."""
        return self.rect[2] - self.rect[0]

    @property
    def height(self) -> int:
        """Height in source pixels."""
        return self.rect[3] - self.rect[1]

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """Maps 0..1000 of this view to source pixels (pixel i covers [i, i+1))."""
        x0, y0, x1, y1 = self._fine()
        return (x0 + x * (x1 - x0) / SCALE) / FINE, (y0 + y * (y1 - y0) / SCALE) / FINE

    def from_source(self, x: float, y: float) -> tuple[float, float]:
        """Maps source pixels to 0..1000 of this view, unrounded; values outside 0..1000 lie outside the view."""
        x0, y0, x1, y1 = self._fine()
        return (x * FINE - x0) * SCALE / (x1 - x0), (y * FINE - y0) * SCALE / (y1 - y0)

    def pixels_of(self, box: Box) -> Rect:
        """The whole source pixels nearest to `box`, inside this view: no edge is off by more than half a pixel.

        A box of less than a pixel is the pixel that its middle lies in.
        """
        return self._nearest(self._inner(box))

    def box_of(self, x0: float, y0: float, x1: float, y1: float) -> Box:
        """A source-pixel rectangle as 0..1000 of this view: rounded to nearest, clipped, never empty."""
        a, b = self.from_source(x0, y0)
        c, d = self.from_source(x1, y1)
        left, right = _span(a, c)
        top, bottom = _span(b, d)
        return left, top, right, bottom

    def crop(self, box: Box) -> "View":
        """The child view that shows `box` (0..1000 of this view); its own 0 and 1000 are the box's edges, unrounded.

        Across a box of less than a pixel they are that pixel's: what is shown is never much more than what is meant.
        """
        x0, y0, x1, y1 = self._inner(box)
        left, top, right, bottom = rect = self._nearest((x0, y0, x1, y1))
        if x1 - x0 < FINE:
            x0, x1 = left * FINE, right * FINE
        if y1 - y0 < FINE:
            y0, y1 = top * FINE, bottom * FINE
        return View(self.source, rect, self.frame, (x0, y0, x1, y1))

    def to_list(self) -> list[object]:
        """JSON form; `from_list` reads it back."""
        return [self.source, list(self.rect), self.frame, *([list(self.edges)] if self.edges else [])]

    @staticmethod
    def from_list(value: list) -> "View":
        """Reads what `to_list` wrote."""
        source, rect, frame, *edges = value
        return View(source, _rect(rect), frame, _rect(edges[0]) if edges else None)

    def _fine(self) -> Rect:
        x0, y0, x1, y1 = self.rect
        return self.edges or (x0 * FINE, y0 * FINE, x1 * FINE, y1 * FINE)

    def _inner(self, box: Box) -> Rect:
        """The edges of a box, in FINE parts of a source pixel."""
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= SCALE and 0 <= y0 < y1 <= SCALE):
            raise ValueError(f"a box needs 0 <= x0 < x1 <= {SCALE} and the same for y, got {box}")
        left, top, right, bottom = self._fine()
        w, h = right - left, bottom - top
        return left + x0 * w // SCALE, top + y0 * h // SCALE, left + x1 * w // SCALE, top + y1 * h // SCALE

    def _nearest(self, edges: Rect) -> Rect:
        left, right = _pixels(edges[0], edges[2], self.rect[0], self.rect[2])
        top, bottom = _pixels(edges[1], edges[3], self.rect[1], self.rect[3])
        return left, top, right, bottom


def time_of(frame: int, frames: int) -> int:
    """The time 0..1000 that names a frame: the middle of its share of the clip, rounded down.

    With 16 frames the times are 31, 93, 156, ... 968, all of them number tokens of the nano policy.
    """
    return SCALE * (2 * frame + 1) // (2 * frames)


def frame_at(time: float, frames: int) -> int:
    """The frame shown at a time 0..1000; `frame_at(time_of(k, n), n) == k` up to 500 frames, within one beyond."""
    return min(frames - 1, max(0, int(time * frames // SCALE)))


def edge_time(frame: int, frames: int) -> int:
    """The time 0..1000 at which a frame begins (`frames` itself gives 1000): where windows start and end."""
    return SCALE * frame // frames


def _span(low: float, high: float) -> tuple[int, int]:
    """Two coordinates as integers 0..1000 with low < high."""
    a = min(SCALE - 1, max(0, round(low)))
    b = min(SCALE, max(a + 1, round(high)))
    return a, b


def _pixels(low: int, high: int, first: int, last: int) -> tuple[int, int]:
    """The whole pixels first..last nearest to an exact stretch, at least one."""
    a, b = (low + FINE // 2) // FINE, (high + FINE // 2) // FINE
    if high - low < FINE:
        a, b = (low + high) // (2 * FINE), 0
    a = min(last - 1, max(first, a))
    return a, min(last, max(a + 1, b))


def _rect(values: list[int]) -> Rect:
    x0, y0, x1, y1 = values
    return x0, y0, x1, y1
