"""The controls find the right place and still cannot read it."""

import pytest

from pixelis.actors.controls import FRAME_SIDE, IMAGE_SIDE, first_views, run_controls
from pixelis.actors.world import FAMILIES, SEEN, make_scene
from pixelis.tools.frame import frame_at
from pixelis.tools.measure import box_iou

EACH = pytest.mark.parametrize("family", list(FAMILIES))


@pytest.mark.slow
@EACH
def test_nobody_reads_the_thumbnail(family: str) -> None:
    controls = run_controls(family, 60)
    assert controls.passed, controls
    assert 0 < controls.blind < 0.02 and controls.most_frequent < 0.1


@pytest.mark.parametrize("family", ["code", "clip"])
def test_the_thumbnail_control_looks_in_the_right_place(family: str) -> None:
    """A heuristic that misses the plate would prove nothing."""
    hits = 0
    for index in range(40):
        scene = make_scene(family, "dev", index)
        views = first_views(scene)
        found = FAMILIES[family].guess(scene.asked, views)
        for which, box in found:
            frame = 0 if len(scene.frames) == 1 else frame_at(SEEN[which], len(scene.frames))
            plate = next(item for item in scene.frames[frame] if item.text == scene.answer or family == "clip")
            side = IMAGE_SIDE if len(scene.frames) == 1 else FRAME_SIDE
            x0, y0, x1, y1 = (round(v * 1000 / side) for v in box)
            gold = scene.evidence.boxes[0] if family == "code" else to_thousand(plate.box, scene.size)
            hits += plate.text == scene.answer and box_iou((x0, y0, x1, y1), gold) > 0.6
    assert hits >= 32


def to_thousand(box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    return x0 * 1000 // size[0], y0 * 1000 // size[1], x1 * 1000 // size[0], y1 * 1000 // size[1]
