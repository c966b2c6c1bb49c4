"""Frames of reference: what rectangle of which source a handle looks at, and which frame a time names."""

from dataclasses import dataclass

SCALE = 1000  # every coordinate and time in a call is an integer 0..1000 of its handle (paper.md 2.2)

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in 0..1000 of one handle, x0 < x1, y0 < y1
Point = tuple[int, int]  # x, y in 0..1000 of one handle
Rect = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole source pixels, x1 and y1 exclusive


@dataclass(frozen=True, slots=True)
class View:
    """The pixels a handle looks at: a whole-pixel rectangle of one frame of one source medium.

    `source` is the sha256 of the source bytes, `rect` lies in upright source pixels (at least 1x1), `frame` is the
    0-based frame number of a clip (None for an image, and for a clip as a whole).

    Example:
        >>> View("ab", (0, 0, 8000, 6000)).crop((500, 0, 501, 1000)).rect
        (4000, 0, 4008, 6000)
    """

    source: str
    rect: Rect
    frame: int | None = None

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
        return self.rect[0] + x * self.width / SCALE, self.rect[1] + y * self.height / SCALE

    def from_source(self, x: float, y: float) -> tuple[float, float]:
        """Maps source pixels to 0..1000 of this view, unrounded; values outside 0..1000 lie outside the view."""
        return (x - self.rect[0]) * SCALE / self.width, (y - self.rect[1]) * SCALE / self.height

    def pixels_of(self, box: Box) -> Rect:
        """The whole source pixels that `box` touches: rounded outward, inside this view, exact in integers."""
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= SCALE and 0 <= y0 < y1 <= SCALE):
            raise ValueError(f"a box needs 0 <= x0 < x1 <= {SCALE} and the same for y, got {box}")
        left, top, w, h = self.rect[0], self.rect[1], self.width, self.height
        return (
            left + x0 * w // SCALE,
            top + y0 * h // SCALE,
            left - (-x1 * w // SCALE),
            top - (-y1 * h // SCALE),
        )

    def box_of(self, x0: float, y0: float, x1: float, y1: float) -> Box:
        """A source-pixel rectangle as 0..1000 of this view: rounded to nearest, clipped, never empty."""
        a, b = self.from_source(x0, y0)
        c, d = self.from_source(x1, y1)
        left, right = _span(a, c)
        top, bottom = _span(b, d)
        return left, top, right, bottom

    def crop(self, box: Box) -> "View":
        """The child view that shows `box` (0..1000 of this view), rounded outward to whole source pixels."""
        return View(self.source, self.pixels_of(box), self.frame)

    def to_list(self) -> list[object]:
        """JSON form; `from_list` reads it back."""
        return [self.source, list(self.rect), self.frame]

    @staticmethod
    def from_list(value: list) -> "View":
        """Reads what `to_list` wrote."""
        source, rect, frame = value
        x0, y0, x1, y1 = rect
        return View(source, (x0, y0, x1, y1), frame)


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
