"""The tally family: the number is in the pixels, nothing else tells it, and the tools find it."""

import numpy as np
import pytest

from pixelis.actors.ceiling import ceiling, shortest
from pixelis.actors.nano import build
from pixelis.actors.render import Renderer
from pixelis.actors.scene import COLORS, Scene
from pixelis.actors.tally import MOST, TallyFamily
from pixelis.actors.teacher import verify
from pixelis.actors.world import make_scene
from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.frame import View
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox

FAMILY = TallyFamily()


def scenes(n: int) -> list[Scene]:
    return [make_scene("tally", "rft", index) for index in range(n)]


def test_the_answer_is_what_the_asked_plates_carry() -> None:
    for scene in scenes(40):
        plates = [scene.find("plate", color) for color in scene.asked.split()]
        assert scene.answer == ", ".join(str(plate.dots) for plate in plates)
        assert len(scene.evidence.boxes) == 2 and plates[0].color != plates[1].color


def test_numbers_are_evenly_spread_and_differ_between_plates() -> None:
    dots = [item.dots for scene in scenes(150) for item in scene.frames[0] if item.kind == "plate"]
    counts = np.bincount(dots, minlength=MOST + 1)
    assert counts[0] == 0 and len(counts) == MOST + 1
    assert counts[1:].min() > 0.5 * len(dots) / MOST


def test_size_and_brightness_of_a_plate_do_not_tell_its_number() -> None:
    """Less than a fifth of the variance of the number is in either."""
    areas, inks, dots = [], [], []
    store = MediaStore(None)
    for scene in scenes(80):
        pixels = store.pixels(View(store.put(scene.media), (0, 0, *scene.size)))
        for item in scene.frames[0]:
            if item.kind == "plate":
                x0, y0, x1, y1 = item.box
                areas.append((x1 - x0) * (y1 - y0))
                inks.append(np.abs(pixels[y0:y1, x0:x1] - np.array(COLORS[str(item.color)], float)).mean())
                dots.append(item.dots)
    for told in (areas, inks):
        assert np.corrcoef(told, dots)[0, 1] ** 2 < 0.2


def test_the_thumbnail_control_looks_at_both_plates() -> None:
    from pixelis.actors.controls import first_views
    from pixelis.tools.measure import box_iou

    hits = 0
    for scene in scenes(40):
        found = FAMILY.guess(scene.asked, first_views(scene))
        boxes = [tuple(v * 1000 / 96 for v in box) for _, box in found]
        hits += len(boxes) == 2 and all(box_iou(b, g) > 0.6 for b, g in zip(boxes, scene.evidence.boxes, strict=True))
    assert hits >= 36


@pytest.mark.slow
def test_the_tools_reach_the_answer() -> None:
    assert ceiling("tally", "dev", 60) >= 0.95


def test_one_plate_alone_or_failed_calls_answer_nothing() -> None:
    scene = make_scene("tally", "demo", 1)
    results = shortest(scene, Toolbox(MediaStore(None)))
    assert [r.op for r in results] == ["SEG", "PROP", "SEG", "PROP"] and verify(scene, results)
    assert FAMILY.answers(scene, results[:2]) == FAMILY.answers(scene, results[1:]) == []
    assert not verify(scene, results[:3])
    wrong = ToolResult(True, "PROP", data={"spots": 10})
    assert not verify(scene, [*results, wrong])


def test_a_count_is_of_the_plate_that_was_segmented() -> None:
    """The same calls in the other order say the same; a count of another plate says nothing."""
    scene = next(s for s in scenes(40) if sum(i.kind == "plate" for i in s.frames[0]) > 2)
    results = shortest(scene, Toolbox(MediaStore(None)))
    assert FAMILY.answers(scene, [*results[2:], *results[:2]]) == [scene.answer]
    third = next(i for i in scene.frames[0] if i.kind == "plate" and str(i.color) not in scene.asked.split())
    store = MediaStore(None)
    box, workspace = Toolbox(store), Workspace(store, store.put(scene.media))
    x0, y0, _, y1 = third.box
    point = [round((x0 + 17) * 1000 / 448), round((y0 + y1) * 500 / 448)]
    other = [box.run(workspace, ToolCall("SEG", {"on": "img0", "point": point}))]
    other.append(box.run(workspace, ToolCall("PROP", {"of": str(other[0].ref), "keys": ["spots"]})))
    assert other[1].data == {"spots": third.dots}
    assert FAMILY.answers(scene, [*results, *other]) == [scene.answer]


def test_nano_writes_and_reads_the_numbers_as_they_are() -> None:
    """Coordinates are snapped to the tokenizer's numbers; counts never."""
    renderer = Renderer(build(0))
    scene = make_scene("tally", "demo", 0)
    store = MediaStore(None)
    workspace = Workspace(store, store.put(scene.media))
    for spots in range(13):
        seen = renderer.observation(ToolResult(True, "PROP", data={"spots": spots}), workspace)
        assert f'{{"ok":true,"data":{{"spots":{spots}}}}}' in renderer.decode(seen.tokens)
    call = ToolCall("PROP", {"of": "m1", "keys": ["spots"]})
    assert renderer.parse(renderer.recite("", call, None)).call == call
    assert renderer.parse(renderer.recite("", None, scene.answer)).answer == scene.answer
    said = renderer.recite(FAMILY.thought(scene), ToolCall("SEG", {"on": "img0", "point": [62, 62]}), None)
    assert len(said) < 56  # a turn of `Limits`
