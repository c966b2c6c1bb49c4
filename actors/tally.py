"""The tally family: how many sharp dots two plates of named colours carry.

A dot is smaller than a thumbnail's pixel (4.7 source pixels), and every plate carries smudges too: as many fewer as it has
more dots, each about as dark as a dot once it has shrunk. So neither brightness nor texture nor size of a plate in the
thumbnail tells the number; SEG and PROP of each plate do. In full scope dotted shapes of other kinds stand among the plates;
in about half of the scenes one has an asked colour.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from pixelis.actors.code import GAP, SIDE, plate_captions, plate_like, plate_size, shape_colors, shape_size
from pixelis.actors.glimpse import Counter, thumbnail
from pixelis.actors.scene import (
    COLORS,
    GRID,
    Dialogue,
    Item,
    Pixels,
    Place,
    Recital,
    Scene,
    Scope,
    background,
    below,
    choose,
    corners_of,
    exact_box,
    jpeg,
    make_rng,
    nearest,
    paint,
    place,
    show,
    tint_on,
    widen,
)
from pixelis.actors.shift import Shift
from pixelis.memory.task import Evidence
from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.frame import Point, Rect, View
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore

MOST = 9  # dots on a plate, 1 at least
MARKS = (9, 12)  # dots and smudges together
ON_SHAPE = 4  # dots and smudges on a shape
PITCH = 6.5  # pixels between marks, centre to centre: 1.4 pixels of the thumbnail
BLANK = 34  # pixels at the left of a plate without marks: SEG clicks there
RADIUS = (1.8, 2.2)
INK = (0.6, 0.85)  # how far a dot goes from the plate's colour to black or white
SMUDGE = 2.5  # standard deviation in pixels
SHARE = (0.6, 1.6)  # a smudge's ink over a dot's
COUNTER_SCENES = 300

Spot = tuple[float, float]


class TallyFamily:
    """Shortest chain: SEG(img0, point), PROP(m1, spots), SEG(img0, point), PROP(m2, spots) -> answer (4 calls)."""

    name = "tally"
    shortest_chain = "SEG(img0, point on a plate), PROP(its mask, spots), and both again for the other plate"
    shortest_calls = 4
    choices = MOST**2

    def scene(self, seed: int, scope: Scope, shift: Shift) -> Scene:
        """A 448x448 JPEG with 2-4 plates (demo) or 2-8 plates and 0-4 dotted shapes (full)."""
        rng = make_rng(self.name, seed)
        plates = int(rng.integers(2, 5 if scope == "demo" else 9))
        shapes = 0 if scope == "demo" else int(rng.integers(5))
        kinds = ["plate"] * plates + [("ellipse", "triangle")[i] for i in rng.integers(2, size=shapes)]
        sizes = [plate_size(rng) if kind == "plate" else shape_size(rng) for kind in kinds]
        colors = choose(rng, list(COLORS), plates)
        asked = colors[:2]
        colors += shape_colors(rng, asked[int(rng.integers(2))], shapes)
        most = [MOST] * plates + [ON_SHAPE] * shapes
        dots = [int(rng.integers(1, n + 1)) for n in most]
        boxes: list[Rect] = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(place(rng, sizes, SIDE, GAP), sizes, strict=True)]
        items = [Item(k, c, None, b, n) for k, c, b, n in zip(kinds, colors, boxes, dots, strict=True)]
        pixels = background(rng, SIDE)
        for item in items:
            paint(pixels, item, 0)
            draw_marks(pixels, item, rng)
        gold = tuple(exact_box(item.box, (SIDE, SIDE)) for item in items[:2])
        return Scene(
            family=self.name,
            seed=seed,
            scope=scope,
            media=jpeg(shift.effect(self.name, seed)(pixels, items[0])),
            size=(SIDE, SIDE),
            frames=(tuple(items),),
            asked=" ".join(asked),
            question=f"How many dots are on the {asked[0]} plate and how many on the {asked[1]} plate?",
            answer=f"{dots[0]}, {dots[1]}",
            evidence=Evidence(boxes=gold, masks=tuple(corners_of(box) for box in gold)),
            shift=shift.mark,
        )

    def moves(self, scene: Scene, rng: np.random.Generator, calls: int, workspace: Workspace) -> Recital:
        """Masks that are counted, in the picture or in a zoom; counted again, or asked for their colour, in between."""
        waiting, done = asked_plates(scene), list[Item]()
        mask: str | None = None
        left = calls
        while left:
            spare = left - 2 * len(waiting)
            options = ["count", "count"] if waiting else []
            options += ["zoom"] if waiting and spare >= 1 else []
            options += ["color", "again"] if mask and spare >= 1 else []
            options += ["anew"] if done and spare >= 2 else []
            move = options[int(rng.integers(len(options)))]
            if move in ("color", "again"):
                yield ToolCall("PROP", {"of": mask, "keys": ["color" if move == "color" else "spots"]})
                left -= 1
                continue
            plate = done[int(rng.integers(len(done)))] if move == "anew" else waiting.pop(0)
            name = "img0"
            if move == "zoom":
                zoom = yield ToolCall("ZOOM", {"on": "img0", "box": list(widen(scene.grid_box(plate.box), 1))})
                name = zoom.ref or name
                left -= 1
            found = yield ToolCall("SEG", {"on": name, "point": list(point_on(workspace, name, plate))})
            if found.ref is None:
                return
            mask = found.ref
            yield ToolCall("PROP", {"of": mask, "keys": ["spots"]})
            left -= 2
            done += [plate] if plate not in done else []

    def shortest(self, scene: Scene, workspace: Workspace) -> Recital:
        """Each plate's mask, counted."""
        for plate in asked_plates(scene):
            found = yield ToolCall("SEG", {"on": "img0", "point": list(point_on(workspace, "img0", plate))})
            if found.ref is not None:
                yield ToolCall("PROP", {"of": found.ref, "keys": ["spots"]})

    def answers(self, scene: Scene, results: Sequence[ToolResult]) -> list[str]:
        """Every pair of counts of the two plates; a count is of the last mask before it."""
        plates = asked_plates(scene)
        counts: list[list[int]] = [[] for _ in plates]
        which: int | None = None
        for result in results:
            if result.ok and result.op == "SEG":
                which = next((i for i, plate in enumerate(plates) if in_middle(result, plate.box)), None)
            elif result.ok and "spots" in result.data and which is not None:
                counts[which].append(result.data["spots"])
        return [f"{a}, {b}" for a in counts[0] for b in counts[1]]

    def thought(self, scene: Scene) -> str:
        """The colours to look for and where they are: in the words of the captions."""
        return " ".join(f"Look for {p.color}. {show(scene.grid_box(p.box))}." for p in asked_plates(scene))

    def captions(self, scene: Scene, rng: np.random.Generator) -> list[Dialogue]:
        """One dialogue that asks where each plate is, in random order."""
        return plate_captions(scene, rng)

    def guess(self, asked: str, views: list[Pixels]) -> list[Place]:
        """The plate-like spot of each asked colour; empty when one colour has none."""
        found = [spot for color in asked.split() for spot in plate_like(color, views[0])]
        return found if len(found) == 2 else []

    def glimpse(self, parts: list[Pixels]) -> str:
        """Counts guessed by a regression on other scenes' thumbnails."""
        return ", ".join(str(n) for n in counter().count(parts))


@cache
def counter() -> Counter:
    """Fitted on every plate of some scenes that no split uses: their seeds lie far above."""
    store = MediaStore(None)
    parts: list[Pixels] = []
    dots: list[int] = []
    for seed in range(1 << 40, (1 << 40) + COUNTER_SCENES):
        scene = TallyFamily().scene(seed, "full", Shift())
        pixels = thumbnail(store.pixels(View(store.put(scene.media), (0, 0, SIDE, SIDE))))
        for item in scene.frames[0]:
            if item.kind == "plate":
                x0, y0, x1, y1 = (v * pixels.shape[0] // SIDE for v in item.box)
                parts.append(pixels[y0 : y1 + 1, x0 : x1 + 1])
                dots.append(item.dots)
    return Counter(parts, dots)


def asked_plates(scene: Scene) -> list[Item]:
    """The two plates in the order of the question."""
    return [scene.find("plate", color) for color in scene.asked.split()]


def point_on(workspace: Workspace, name: str, plate: Item) -> Point:
    """Where to click on a plate: a grid point of a handle's view in the blank strip.

    In the whole picture it lies two steps right of and below the corner of the plate's grid box.
    """
    if name == "img0":
        left, top = (below(v * 1000 / SIDE) for v in plate.box[:2])
        return GRID[GRID.index(left) + 2], GRID[GRID.index(top) + 2]
    x, y = workspace.get(name).view.from_source(plate.box[0] + BLANK / 2, (plate.box[1] + plate.box[3]) / 2)
    return nearest(x), nearest(y)


def in_middle(mask: ToolResult, rect: Rect) -> bool:
    """Whether the middle of a mask's box lies in a rectangle of source pixels."""
    x0, y0, x1, y1 = mask.data["box"]
    x, y = mask.views[0].to_source((x0 + x1) / 2, (y0 + y1) / 2)
    return rect[0] <= x < rect[2] and rect[1] <= y < rect[3]


def draw_marks(pixels: Pixels, item: Item, rng: np.random.Generator) -> None:
    """Draw an item's dots, and smudges beside them, into RGB pixels, in place."""
    x0, y0, x1, y1 = item.box
    total = ON_SHAPE if item.kind != "plate" else int(rng.integers(MARKS[0], MARKS[1] + 1))
    middles = np.array(scatter(rng, field_of(item), total))  # [total, (x, y)]
    radius, ink = rng.uniform(*RADIUS), rng.uniform(*INK)
    shares = rng.uniform(*SHARE, total - item.dots)
    columns, rows = np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5
    far = np.hypot(columns[None, None] - middles[:, 0, None, None], rows[None, :, None] - middles[:, 1, None, None])
    layers = np.clip(radius + 0.5 - far[: item.dots], 0, 1).sum(axis=0)
    peaks = radius**2 * shares / (2 * SMUDGE**2)  # as much ink as `shares` dots
    layers += (peaks[:, None, None] * np.exp(-(far[item.dots :] ** 2) / (2 * SMUDGE**2))).sum(axis=0)
    cover = np.clip(ink * layers, 0, 1)[..., None]
    part = pixels[y0:y1, x0:x1]
    tint = np.array(tint_on(COLORS[str(item.color)]))
    part[:] = np.round(part * (1 - cover) + tint * cover)


def field_of(item: Item) -> tuple[float, float, float, float]:
    """Where the marks of an item lie."""
    x0, y0, x1, y1 = item.box
    if item.kind == "plate":
        return x0 + BLANK, y0 + 8, x1 - 8, y1 - 8
    w, h = x1 - x0, y1 - y0
    return x0 + 0.36 * w, y0 + 0.5 * h, x1 - 0.36 * w, y1 - 0.14 * h


def scatter(rng: np.random.Generator, field: tuple[float, float, float, float], n: int) -> list[Spot]:
    """`n` random points of a field that keep PITCH from each other."""
    while True:
        taken: list[Spot] = []
        for x, y in rng.uniform(field[:2], field[2:], (60 * n, 2)).tolist():
            if all(np.hypot(x - a, y - b) >= PITCH for a, b in taken):
                taken.append((x, y))
            if len(taken) == n:
                return taken
