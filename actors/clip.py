"""The clip family: a lamp changes its colour, a plate its code; read the code while the lamp has a named colour.

The policy sees 8 frames of 48x48: enough to see the lamp, far too few pixels to read the plate. In full scope plate and
lamp drift, and in about half of the scenes a square shows colours too.
"""

import io
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

from pixelis.actors.glimpse import read_enlarged
from pixelis.actors.scene import (
    ALPHABET,
    COLORS,
    GRAY,
    GRID,
    Dialogue,
    Item,
    Pixels,
    Place,
    Recital,
    Scene,
    Scope,
    background,
    blank_point,
    blobs,
    box_within,
    choose,
    corners_of,
    draw_code,
    exact_box,
    grid_point,
    jpeg,
    make_rng,
    paint,
    place,
    show,
    texts_read,
    widen,
)
from pixelis.actors.shift import Shift
from pixelis.memory.task import Evidence
from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.frame import Rect, edge_time, frame_at, time_of
from pixelis.tools.handle import Workspace

SIDE = 224
FRAMES = 16
RATE = 8  # frames per second
SHORTEST = 4  # frames of a segment: any four hold two of the seen frames
SEEN = tuple(t for t in GRID if t % 125 == 0 and t < 1000)  # 0, 125, ... 875: the times of the frames the policy sees
DRIFT = 20  # pixels over the whole clip, at most
GAP = 4
TEXT = 0.6  # 2.6 px tall in a seen frame: controls.py reads 2 % (17 % at 0.7)

Span = tuple[int, int]  # first frame, last frame + 1
Corner = tuple[int, int]


class ClipFamily:
    """Shortest chain: TEMP(img0, window [t, t]) -> OCR(f1, box of the plate) -> answer (2 calls)."""

    name = "clip"
    shortest_chain = "TEMP(img0, window [t, t] while the lamp has the asked colour), OCR(f1, box of the plate)"
    shortest_calls = 2
    choices = len(ALPHABET) ** 3

    def scene(self, seed: int, scope: Scope, shift: Shift) -> Scene:
        """A 224x224 MJPEG clip of 16 frames with 2-4 segments; in full scope with drift and often a square."""
        rng = make_rng(self.name, seed)
        spans = draw_spans(rng, int(rng.integers(2, 5)))
        colors = choose(rng, list(COLORS), len(spans))
        which = int(rng.integers(len(spans)))
        codes = list(dict.fromkeys(draw_code(rng) for _ in range(8)))[: len(spans)]
        lamp = 2 * int(rng.integers(26, 35))
        plate = (int(rng.integers(96, 105)), int(rng.integers(40, 45)))
        square = 2 * int(rng.integers(20, 27)) if scope == "full" and rng.random() < 0.5 else 0
        sizes = [plate, (lamp, lamp)] + ([(square, square)] if square else [])
        paths = draw_paths(rng, sizes, DRIFT if scope == "full" else 0)
        square_colors = draw_square(rng, spans, colors, colors[which])
        frames = []
        for k in range(FRAMES):
            s = next(i for i, (_, end) in enumerate(spans) if k < end)
            kinds = [("plate", None, codes[s]), ("lamp", colors[s], None), ("square", square_colors[k], None)]
            rects = [rect_at(path[k], size) for path, size in zip(paths, sizes, strict=True)]
            frames.append(tuple(Item(*kind, rect) for kind, rect in zip(kinds, rects, strict=False)))
        ground = background(rng, SIDE)
        change = shift.effect(self.name, seed)
        return Scene(
            family=self.name,
            seed=seed,
            scope=scope,
            media=avi([jpeg(change(render(ground, items), items[0])) for items in frames]),
            size=(SIDE, SIDE),
            frames=tuple(frames),
            asked=colors[which],
            question=f"What is the code while the lamp is {colors[which]}?",
            answer=codes[which],
            evidence=evidence(frames, spans[which]),
            shift=shift.mark,
        )

    def moves(self, scene: Scene, rng: np.random.Generator, calls: int, workspace: Workspace) -> Recital:
        """First a frame of the segment, then reads, zooms, masks, further frames; ``change`` at any time."""
        times = [t for t in SEEN if lamp_color(scene, t) == scene.asked]
        frames: list[tuple[str, int]] = []  # handle, time
        zooms: list[tuple[str, int]] = []
        has_read = has_asked = False
        left = calls
        while left:
            need = 0 if has_read else (1 if frames else 2)  # calls that a first read still takes
            options: list[str] = []
            if not has_asked and left > need:
                options.append("change")
            if len(frames) < min(3, len(times)) and left >= 2:
                options += ["frame"] * (1 if frames else 3)
            if frames:
                options += ["read", "read"]
                options += ["zoom", "zoom"] if left >= 2 and len(zooms) < 2 else []
                options += ["color"] if left >= 2 + need else []
            options += ["again"] if zooms else []
            move = options[int(rng.integers(len(options)))]
            left -= 1
            if move == "change":
                has_asked = True
                yield ToolCall("TEMP", {"on": "img0", "query": "change"})
                continue
            if move == "frame":
                t = times[len(frames)]
                found = yield ToolCall("TEMP", {"on": "img0", "window": [t, t]})
                if found.ref is None:
                    return
                frames.append((found.ref, t))
                continue
            name, t = frames[-1]
            if move == "color":
                mask = yield ToolCall("SEG", {"on": name, "point": list(draw_point(scene, rng, t))})
                if mask.ref is not None:
                    left -= 1
                    yield ToolCall("PROP", {"of": mask.ref, "keys": ["color"]})
                continue
            if move == "zoom":
                wide = widen(scene.grid_box(plate_at(scene, t).box), 2)
                zoom = yield ToolCall("ZOOM", {"on": name, "box": list(wide)})
                if zoom.ref is None:
                    continue
                zooms.append((zoom.ref, t))
                left -= 1
            if move in ("zoom", "again"):
                name, t = zooms[-1]
            box = box_within(workspace, name, plate_at(scene, t).box)
            yield ToolCall("OCR", {"on": name, "box": list(box), "level": "line"})
            has_read = True

    def shortest(self, scene: Scene, workspace: Workspace) -> Recital:
        """The first frame seen of the segment, and its plate read."""
        t = next(t for t in SEEN if lamp_color(scene, t) == scene.asked)
        found = yield ToolCall("TEMP", {"on": "img0", "window": [t, t]})
        if found.ref is not None:
            box = scene.grid_box(plate_at(scene, t).box)
            yield ToolCall("OCR", {"on": found.ref, "box": list(box), "level": "line"})

    def answers(self, scene: Scene, results: Sequence[ToolResult]) -> list[str]:
        """What every OCR read."""
        return texts_read(results)

    def thought(self, scene: Scene) -> str:
        """The colour to look for, then the lamp from the start until it has that colour."""
        return f"Look for {scene.asked}. {scan(scene, scene.asked)}."

    def captions(self, scene: Scene, rng: np.random.Generator) -> list[Dialogue]:
        """One dialogue: when the lamp first has one of its colours, and where the plate is at first."""
        color = choose(rng, list(dict.fromkeys(lamp_color(scene, t) for t in SEEN)), 1)[0]
        when, where = (f"When is the lamp {color}?", scan(scene, color)), plate_at(scene, 0).box
        return [[when, ("Where is the plate?", show(scene.grid_box(where)))]]

    def guess(self, asked: str, views: list[Pixels]) -> list[Place]:
        """The light spot of the frame in which most pixels have the asked colour."""
        areas = [max((box[2] - box[0] for box, _ in blobs(view, COLORS[asked])), default=0) for view in views]
        best = int(np.argmax(areas))
        plates = blobs(views[best], GRAY)
        return [(best, plates[0][0])] if plates else []

    def glimpse(self, parts: list[Pixels]) -> str:
        """The text in the part, enlarged."""
        return read_enlarged(parts[0])


def plate_at(scene: Scene, t: int) -> Item:
    return scene.find("plate", None, frame_at(t, FRAMES))


def lamp_at(scene: Scene, t: int) -> Item:
    return next(item for item in scene.frames[frame_at(t, FRAMES)] if item.kind == "lamp")


def lamp_color(scene: Scene, t: int) -> str:
    return str(lamp_at(scene, t).color)


def scan(scene: Scene, color: str) -> str:
    """The lamp's colours by time, up to the first frame that has `color`: the search written down, its end the answer."""
    seen = [(t, lamp_color(scene, t)) for t in SEEN]
    last = next(i for i, (_, c) in enumerate(seen) if c == color)
    return " ".join(f"{t} {c}" for t, c in seen[: last + 1])


def draw_point(scene: Scene, rng: np.random.Generator, t: int) -> tuple[int, int]:
    """A point to click: the middle of the lamp, or the plate beside its text."""
    if rng.random() < 0.5:
        return blank_point(scene, plate_at(scene, t))
    x0, y0, x1, y1 = lamp_at(scene, t).box
    return grid_point((x0 + x1) / 2, (y0 + y1) / 2, scene.size)


def draw_spans(rng: np.random.Generator, n: int) -> list[Span]:
    """Borders of ``n`` segments of at least SHORTEST frames, all divisions equally likely."""
    free = FRAMES - n * SHORTEST
    cuts = [0, *sorted(int(c) for c in rng.integers(free + 1, size=n - 1)), free]
    borders = [cut + i * SHORTEST for i, cut in enumerate(cuts)]
    return list(itertools.pairwise(borders))


def draw_square(rng: np.random.Generator, spans: list[Span], lamp: list[str], asked: str) -> list[str]:
    """Colours of the square per frame: never the lamp's at that time, often the asked one at another."""
    colors: list[str] = []
    for start, end in draw_spans(rng, int(rng.integers(2, 5))):
        shown = {color for color, (a, b) in zip(lamp, spans, strict=True) if a < end and start < b}
        others = [name for name in COLORS if name not in shown]
        color = asked if asked in others and rng.random() < 0.5 else others[int(rng.integers(len(others)))]
        colors += [color] * (end - start)
    return colors


def draw_paths(rng: np.random.Generator, sizes: list[Corner], drift: int) -> list[list[Corner]]:
    """Top-left corners per frame of things that move evenly by up to ``drift`` pixels in x and y and never touch."""
    moves = rng.integers(-drift, drift + 1, (len(sizes), 2))
    swept = [(w + abs(int(dx)), h + abs(int(dy))) for (w, h), (dx, dy) in zip(sizes, moves, strict=True)]
    paths = []
    for (x, y), (dx, dy) in zip(place(rng, swept, SIDE, GAP), moves.tolist(), strict=True):
        x, y = x + max(0, -dx), y + max(0, -dy)
        paths.append([(x + round(dx * k / (FRAMES - 1)), y + round(dy * k / (FRAMES - 1))) for k in range(FRAMES)])
    return paths


def rect_at(corner: Corner, size: Corner) -> Rect:
    return corner[0], corner[1], corner[0] + size[0], corner[1] + size[1]


def render(ground: Pixels, items: tuple[Item, ...]) -> Pixels:
    pixels = ground.copy()
    for item in items:
        paint(pixels, item, TEXT)
    return pixels


def avi(pictures: list[bytes], size: tuple[int, int] = (SIDE, SIDE)) -> bytes:
    """JPEG pictures of one size as an AVI: muxed as they are, and AVI (unlike Matroska) holds no random identifiers."""
    out = io.BytesIO()
    with av.open(out, "w", format="avi", options={"fflags": "bitexact"}) as container:
        stream = container.add_stream("mjpeg", rate=RATE)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p"
        stream.time_base = Fraction(1, RATE)
        for k, picture in enumerate(pictures):
            packet = av.Packet(picture)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, RATE), True
            packet.pts = packet.dts = k
            container.mux(packet)
    return out.getvalue()


def evidence(frames: list[tuple[Item, ...]], span: Span) -> Evidence:
    """The plate in the middle of the segment, its track through it, plate and lamp as masks, the segment as window."""
    start, end = span
    plate, lamp = frames[(start + end) // 2][:2]
    box = exact_box(plate.box, (SIDE, SIDE))
    track = tuple((time_of(k, FRAMES), *exact_box(frames[k][0].box, (SIDE, SIDE))) for k in range(start, end))
    return Evidence(
        boxes=(box,),
        texts=(str(plate.text),),
        windows=((edge_time(start, FRAMES), edge_time(end, FRAMES)),),
        masks=(corners_of(box), disc(lamp.box)),
        tracks=(track,),
    )


def disc(box: Rect) -> tuple[tuple[int, int], ...]:
    """A round lamp as a polygon of 24 corners, 0..1000."""
    x, y, r = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) / 2
    angles = [2 * math.pi * i / 24 for i in range(24)]
    points = [(x + r * math.cos(a), y + r * math.sin(a)) for a in angles]
    return tuple((round(px * 1000 / SIDE), round(py * 1000 / SIDE)) for px, py in points)
