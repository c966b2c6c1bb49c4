"""What a rendered scene is: items, pixels, question, gold answer; the grid every coordinate of PixelWorld lies on."""

import hashlib
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from pixelis.memory.task import Evidence, GoldTask, Task
from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.frame import Box, Point, Rect
from pixelis.tools.handle import Workspace

if TYPE_CHECKING:
    from pixelis.actors.shift import Shift

Pixels = npt.NDArray[np.uint8]
Scope = Literal["demo", "full"]
Dialogue = list[tuple[str, str]]  # questions about one scene and their answers, in order
Place = tuple[int, Rect]  # number of a view, box in its pixels
Recital = Generator[ToolCall, ToolResult, None]  # yields calls, is sent their results

COLORS: dict[str, tuple[int, int, int]] = {  # RGB
    "red": (225, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 80, 225),
    "yellow": (245, 225, 50),
    "orange": (245, 135, 25),
    "purple": (135, 45, 170),
    "cyan": (60, 215, 225),
    "pink": (250, 150, 205),
}
GRAY = (218, 218, 218)  # the plate of a clip: no colour of the questions
GRID: tuple[int, ...] = tuple(i * 1000 // 32 for i in range(33))
# Without what RapidOCR's recogniser confuses: C c, P p, U 0, X x, 6 G, T 7, and L and Y, dropped beside their like.
ALPHABET = "AEFHKMNR3479"
FONT, STROKE = cv2.FONT_HERSHEY_SIMPLEX, 2

cv2.setNumThreads(1)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in a scene, where it truly is.

    Example: ``Item("plate", "red", "K7P", (40, 60, 140, 102))``
    """

    kind: str  # "plate", "lamp", "ellipse", "triangle", "square"
    color: str | None  # a name of COLORS, None for a gray plate
    text: str | None
    box: Rect
    dots: int = 0  # sharp dots on it


@dataclass(frozen=True, slots=True)
class Scene:
    """A rendered scene with its question, gold answer and gold evidence.

    ``frames`` has one list of items for an image and one per frame for a clip; ``asked`` is the colour in the question
    (or the colours, with blanks between), ``shift`` what its id ends in when its pixels were changed (`actors.shift`).

    Example: ``make_scene("code", "demo", 3).question == "What is the code on the red plate?"``
    """

    family: str
    seed: int
    scope: Scope
    media: bytes  # JPEG or AVI (MJPEG)
    size: tuple[int, int]  # width, height in pixels
    frames: tuple[tuple[Item, ...], ...]
    asked: str
    question: str
    answer: str
    evidence: Evidence
    shift: str = ""

    @property
    def id(self) -> str:
        return f"{self.family}-{self.seed}{self.shift}"

    @property
    def source(self) -> str:
        """The sha256 of the media: its name in a MediaStore."""
        return hashlib.sha256(self.media).hexdigest()

    @property
    def task(self) -> GoldTask:
        """The task with its gold fields; ``.task.task`` is the one a rollout may see."""
        task = Task(self.id, self.question, (self.source,), "text", self.family)
        return GoldTask(task, self.answer, self.evidence)

    def find(self, kind: str, color: str | None, frame: int = 0) -> Item:
        """The only item of this kind and colour in a frame; KeyError when it is not there."""
        for item in self.frames[frame]:
            if (item.kind, item.color) == (kind, color):
                return item
        raise KeyError(f"no {color} {kind} in frame {frame} of {self.id}")

    def grid_box(self, box: Rect) -> Box:
        """Source pixels to 0..1000 of the whole picture, rounded outward to GRID."""
        return grid_box(box, self.size)


class Family(Protocol):
    """A kind of question. A third one is a new file with such an object and one line in ``world.FAMILIES``."""

    name: str
    shortest_chain: str  # the shortest sufficient chain of calls, for people
    shortest_calls: int
    choices: int  # possible answers: a blind draw is right once in so many

    def scene(self, seed: int, scope: Scope, shift: "Shift") -> Scene:
        """Render the scene of this seed under a shift; the same seed and shift give the same bytes."""
        ...

    def moves(self, scene: Scene, rng: np.random.Generator, calls: int, workspace: Workspace) -> Recital:
        """A chain of exactly ``calls`` calls with real dependencies that reads the target at least once."""
        ...

    def shortest(self, scene: Scene, workspace: Workspace) -> Recital:
        """The shortest sufficient chain, with gold boxes."""
        ...

    def answers(self, scene: Scene, results: Sequence[ToolResult]) -> list[str]:
        """The answers that results of calls speak for, in order; of a whole demonstration all are the gold one."""
        ...

    def thought(self, scene: Scene) -> str:
        """What the teacher thinks before its first call."""
        ...

    def captions(self, scene: Scene, rng: np.random.Generator) -> list[Dialogue]:
        """Dialogues without calls, numbers from GRID; what they ask is in the picture, not in an earlier answer."""
        ...

    def guess(self, asked: str, views: list[Pixels]) -> list[Place]:
        """Where one would look who has only the pixels the policy sees first; empty when there is no such place."""
        ...

    def glimpse(self, parts: list[Pixels]) -> str:
        """The answer one would give from the pixels of these places, as small as the policy sees them."""
        ...


def make_rng(family: str, seed: int) -> np.random.Generator:
    """The generator of one scene: counter-based, so that no scene depends on another."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, zlib.crc32(family.encode())], dtype=np.uint64)))


def grid_box(box: tuple[float, float, float, float], size: tuple[float, float]) -> Box:
    """A box in pixels of a view of this (width, height) to 0..1000, rounded outward to GRID."""
    (x0, y0, x1, y1), (w, h) = box, size
    return below(x0 * 1000 / w), below(y0 * 1000 / h), above(x1 * 1000 / w), above(y1 * 1000 / h)


def grid_point(x: float, y: float, size: tuple[int, int]) -> Point:
    """The nearest point of GRID to a pixel."""
    return nearest(x * 1000 / size[0]), nearest(y * 1000 / size[1])


def exact_box(box: Rect, size: tuple[int, int]) -> Box:
    """A box in source pixels to the nearest 0..1000: evidence is not rounded to GRID."""
    x0, y0, x1, y1 = scaled(box, size)
    return round(x0), round(y0), round(x1), round(y1)


def scaled(box: Rect, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box in source pixels to 0..1000, unrounded."""
    (x0, y0, x1, y1), (w, h) = box, size
    return x0 * 1000 / w, y0 * 1000 / h, x1 * 1000 / w, y1 * 1000 / h


def corners_of(box: Box) -> tuple[Point, ...]:
    """A box as the polygon of its mask."""
    x0, y0, x1, y1 = box
    return (x0, y0), (x1, y0), (x1, y1), (x0, y1)


def blank_point(scene: "Scene", item: Item) -> Point:
    """A grid point on a plate beside its text: clicks there hit the plate, not a letter."""
    x0, y0, x1, y1 = item.box
    inset = (x1 - x0 - 44) // 4 + 1  # half of the blank strip left of the text
    return grid_point(x0 + inset, (y0 + y1) / 2, scene.size)


def box_within(workspace: Workspace, name: str, rect: Rect) -> Box:
    """A rectangle of source pixels as a grid box of the view a handle has, rounded outward."""
    view = workspace.get(name).view
    x0, y0 = view.from_source(rect[0], rect[1])
    x1, y1 = view.from_source(rect[2], rect[3])
    return grid_box((x0, y0, x1, y1), (1000, 1000))


def below(value: float) -> int:
    """The largest grid value not above ``value`` (0 at least)."""
    return max((g for g in GRID if g <= value + 1e-6), default=0)


def above(value: float) -> int:
    """The smallest grid value not below ``value`` (1000 at most)."""
    return min((g for g in GRID if g >= value - 1e-6), default=1000)


def nearest(value: float) -> int:
    return min(GRID, key=lambda g: abs(g - value))


def widen(box: Box, cells: int) -> Box:
    """A grid box made wider by whole cells on every side, within the view."""
    x0, y0, x1, y1 = (GRID.index(v) for v in box)
    return GRID[max(0, x0 - cells)], GRID[max(0, y0 - cells)], GRID[min(32, x1 + cells)], GRID[min(32, y1 + cells)]


def show(box: Box) -> str:
    """A box as captions write it: ``[62,125,187,218]``."""
    return "[" + ",".join(str(v) for v in box) + "]"


def texts_read(results: Sequence[ToolResult]) -> list[str]:
    """What every successful OCR read, in order."""
    return [str(result.data["text"]) for result in results if result.ok and result.op == "OCR"]


def blobs(pixels: Pixels, rgb: tuple[int, int, int], within: int = 45) -> list[tuple[Rect, float]]:
    """Connected spots of about this colour, largest first: box, and which share of it they fill (a plate: nearly 1)."""
    apart = np.abs(pixels.astype(np.int16) - np.array(rgb, dtype=np.int16)).max(axis=2)
    n, _, stats, _ = cv2.connectedComponentsWithStats((apart < within).astype(np.uint8))
    found = sorted((stats[i].tolist() for i in range(1, n)), key=lambda s: -s[4])
    return [((x, y, x + w, y + h), area / (w * h)) for x, y, w, h, area in found]


def draw_code(rng: np.random.Generator) -> str:
    return "".join(ALPHABET[i] for i in rng.integers(len(ALPHABET), size=3))


def echo(rng: np.random.Generator) -> tuple[str, str]:
    """A caption that teaches to copy: what a tool has read must come back in the answer to the letter."""
    code = draw_code(rng)
    return f"Repeat {code}.", code


def choose(rng: np.random.Generator, names: list[str], n: int) -> list[str]:
    """``n`` different names in random order."""
    return [names[i] for i in rng.permutation(len(names))[:n]]


def background(rng: np.random.Generator, side: int) -> Pixels:
    """A dark, softly clouded ground (side, side, 3): 7x7 noise enlarged, because drawing it in full is slow."""
    base = int(rng.integers(60, 100))
    noise = rng.integers(base, base + 36, (7, 7, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(noise, (side, side), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def place(rng: np.random.Generator, sizes: list[tuple[int, int]], side: int, gap: int) -> list[tuple[int, int]]:
    """Top-left corners of rectangles (w, h) that keep ``gap`` pixels from each other and from the border."""
    while True:
        taken: list[Rect] = []
        for w, h in sizes:
            for _ in range(40):
                x, y = int(rng.integers(gap, side - w - gap)), int(rng.integers(gap, side - h - gap))
                new = (x, y, x + w, y + h)
                if not any(near(new, old, gap) for old in taken):
                    taken.append(new)
                    break
            else:
                break
        if len(taken) == len(sizes):
            return [(x, y) for x, y, _, _ in taken]


def near(a: Rect, b: Rect, gap: int) -> bool:
    """Whether two rectangles come closer than ``gap`` pixels."""
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def paint(pixels: Pixels, item: Item, text_scale: float) -> None:
    """Draw an item into RGB pixels, in place; ``text_scale`` as cv2 has it (0.65: capitals 14 px tall)."""
    rgb = COLORS[item.color] if item.color else GRAY
    x0, y0, x1, y1 = item.box
    if item.kind in ("plate", "square"):
        cv2.rectangle(pixels, (x0, y0), (x1 - 1, y1 - 1), rgb, -1)
    elif item.kind == "triangle":
        cv2.fillPoly(pixels, [np.array([(x0, y1 - 1), (x1 - 1, y1 - 1), ((x0 + x1) // 2, y0)])], rgb, cv2.LINE_AA)
    else:
        middle, axes = ((x0 + x1) // 2, (y0 + y1) // 2), ((x1 - x0) // 2, (y1 - y0) // 2)
        cv2.ellipse(pixels, middle, axes, 0, 0, 360, rgb, -1, cv2.LINE_AA)
    if item.text:
        write(pixels, item.text, item.box, rgb, text_scale)


def write(pixels: Pixels, text: str, box: Rect, ground: tuple[int, int, int], scale: float) -> None:
    """Write text in the middle of a box, black or white, whichever stands out from the ground."""
    x0, y0, x1, y1 = box
    (w, h), _ = cv2.getTextSize(text, FONT, scale, STROKE)
    corner = ((x0 + x1 - w) // 2, (y0 + y1 + h) // 2)
    cv2.putText(pixels, text, corner, FONT, scale, tint_on(ground), STROKE, cv2.LINE_AA)


def tint_on(ground: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out from the ground."""
    return (0, 0, 0) if 0.299 * ground[0] + 0.587 * ground[1] + 0.114 * ground[2] > 135 else (255, 255, 255)


def jpeg(pixels: Pixels, quality: int = 92) -> bytes:
    """RGB pixels to JPEG bytes."""
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()
