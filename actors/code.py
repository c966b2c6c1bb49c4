"""The code family: read the text on the plate of a named colour.

The plates' text is 3 px tall in the thumbnail that the policy sees: it must be read by a tool. In full scope textless
shapes of similar area stand among the plates; in about half of the scenes one has the asked colour.
"""

from collections.abc import Sequence

import numpy as np

from pixelis.actors.glimpse import read_enlarged
from pixelis.actors.scene import (
    ALPHABET,
    COLORS,
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
from pixelis.tools.frame import Rect
from pixelis.tools.handle import Workspace

SIDE = 448
GAP = 9  # pixels between items
TEXT = 0.65  # 3 px tall in the thumbnail: controls.py reads 3 % (8 % at 0.7)


class CodeFamily:
    """Shortest chain: OCR(img0, box of the plate) -> answer (1 call)."""

    name = "code"
    shortest_chain = "OCR(img0, box of the asked plate)"
    shortest_calls = 1
    choices = len(ALPHABET) ** 3

    def scene(self, seed: int, scope: Scope, shift: Shift) -> Scene:
        """A 448x448 JPEG with 2-4 plates (demo) or 2-8 plates and 0-4 textless shapes (full)."""
        rng = make_rng(self.name, seed)
        plates = int(rng.integers(2, 5 if scope == "demo" else 9))
        shapes = 0 if scope == "demo" else int(rng.integers(5))
        colors = choose(rng, list(COLORS), plates)
        kinds = ["plate"] * plates + [("ellipse", "triangle")[i] for i in rng.integers(2, size=shapes)]
        sizes = [plate_size(rng) if kind == "plate" else shape_size(rng) for kind in kinds]
        colors += shape_colors(rng, colors[0], shapes)
        codes = list(dict.fromkeys(draw_code(rng) for _ in range(plates * 2)))[:plates]
        texts = [*codes, *[None] * shapes]
        boxes: list[Rect] = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(place(rng, sizes, SIDE, GAP), sizes, strict=True)]
        items = [Item(*fields) for fields in zip(kinds, colors, texts, boxes, strict=True)]
        pixels = background(rng, SIDE)
        for item in items:
            paint(pixels, item, TEXT)
        target = items[0]  # the order of drawing tells nothing: places are random
        box = exact_box(target.box, (SIDE, SIDE))
        return Scene(
            family=self.name,
            seed=seed,
            scope=scope,
            media=jpeg(shift.effect(self.name, seed)(pixels, target)),
            size=(SIDE, SIDE),
            frames=(tuple(items),),
            asked=colors[0],
            question=f"What is the code on the {colors[0]} plate?",
            answer=str(target.text),
            evidence=Evidence(boxes=(box,), texts=(str(target.text),), masks=(corners_of(box),)),
            shift=shift.mark,
        )

    def moves(self, scene: Scene, rng: np.random.Generator, calls: int, workspace: Workspace) -> Recital:
        """Reads, zooms that are read, and masks whose colour is asked, in random order; a zoom may be read again."""
        target = scene.find("plate", scene.asked)
        box = scene.grid_box(target.box)
        zooms: list[str] = []
        has_read = False
        left = calls
        while left:
            options = ["read"]
            if left >= 2 and len(zooms) < 2:  # every zoom costs the policy 36 tokens
                options += ["zoom", "zoom"]
            if left >= 3 or (left == 2 and has_read):
                options.append("color")
            if zooms:
                options.append("again")
            move = options[int(rng.integers(len(options)))]
            if move == "color":
                mask = yield ToolCall("SEG", {"on": "img0", "point": list(blank_point(scene, target))})
                left -= 1
                if mask.ref is not None:
                    yield ToolCall("PROP", {"of": mask.ref, "keys": ["color"]})
                    left -= 1
                continue
            if move == "read":
                yield ToolCall("OCR", {"on": "img0", "box": list(box), "level": "line"})
                has_read, left = True, left - 1
                continue
            if move == "zoom":
                zoom = yield ToolCall("ZOOM", {"on": "img0", "box": list(widen(box, 2))})
                left -= 1
                if zoom.ref is None:
                    continue
                zooms.append(zoom.ref)
            name = zooms[-1]
            yield ToolCall("OCR", {"on": name, "box": list(box_within(workspace, name, target.box)), "level": "line"})
            has_read, left = True, left - 1

    def shortest(self, scene: Scene, workspace: Workspace) -> Recital:
        """The plate read in the picture."""
        box = scene.grid_box(scene.find("plate", scene.asked).box)
        yield ToolCall("OCR", {"on": "img0", "box": list(box), "level": "line"})

    def answers(self, scene: Scene, results: Sequence[ToolResult]) -> list[str]:
        """What every OCR read."""
        return texts_read(results)

    def thought(self, scene: Scene) -> str:
        """The colour to look for and where it is: in the words of the captions, so that what they teach is used here."""
        return f"Look for {scene.asked}. {show(scene.grid_box(scene.find('plate', scene.asked).box))}."

    def captions(self, scene: Scene, rng: np.random.Generator) -> list[Dialogue]:
        """One dialogue that asks where each plate is, in random order."""
        return plate_captions(scene, rng)

    def guess(self, asked: str, views: list[Pixels]) -> list[Place]:
        """The spot of the asked colour that is shaped most like a plate."""
        return plate_like(asked, views[0])

    def glimpse(self, parts: list[Pixels]) -> str:
        """The text in the part, enlarged."""
        return read_enlarged(parts[0])


def plate_captions(scene: Scene, rng: np.random.Generator) -> list[Dialogue]:
    """One dialogue that asks where each plate is, in random order."""
    plates = [item for item in scene.frames[0] if item.kind == "plate"]
    asked = [plates[i] for i in rng.permutation(len(plates))]
    return [[(f"Where is the {p.color} plate?", show(scene.grid_box(p.box))) for p in asked]]


def plate_like(color: str, view: Pixels) -> list[Place]:
    """The spot of a colour in a thumbnail that is shaped most like a plate: wide, and filling its box; or none."""
    spots = [(box, fill) for box, fill in blobs(view, COLORS[color]) if box[2] - box[0] > 14]
    plates = [(box, fill) for box, fill in spots if 1.6 * (box[3] - box[1]) < box[2] - box[0] < 30]
    return [(0, max(plates, key=lambda spot: spot[1])[0])] if plates else []


def plate_size(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(92, 117)), int(rng.integers(38, 47))


def shape_size(rng: np.random.Generator) -> tuple[int, int]:
    """About a plate's area once the corners of an ellipse or triangle are cut."""
    return int(rng.integers(68, 90)), int(rng.integers(60, 76))


def shape_colors(rng: np.random.Generator, asked: str, n: int) -> list[str]:
    """Colours of the shapes: the first has the asked one in 60 % of the scenes with shapes (half of all scenes)."""
    others = [name for name in COLORS if name != asked]
    colors = [others[i] for i in rng.integers(len(others), size=n)]
    if n and rng.random() < 0.6:
        colors[0] = asked
    return colors
