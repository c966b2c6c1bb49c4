"""Shifts: nothing at severity 0, the same pixels every time, more change with more severity, the key as it was."""

import numpy as np
import pytest

from pixelis.actors.ceiling import ceiling
from pixelis.actors.scene import Item
from pixelis.actors.shift import DEVIATION, LENGTH, NAMES, REST, SPREAD, Name, Shift, ShiftError, smear
from pixelis.actors.tasks import TaskSource
from pixelis.actors.world import FAMILIES, make_scene
from pixelis.tools.frame import View
from pixelis.tools.media import MediaStore

ASKED = Item("plate", "red", "K7P", (20, 24, 70, 44))
EACH = pytest.mark.parametrize("name", NAMES)
FAMILY = pytest.mark.parametrize("family", list(FAMILIES))


def noisy_gray(name: Name, severity: float, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    pixels = np.clip(128 + 30 * rng.standard_normal((64, 96, 3)), 0, 255).astype(np.uint8)
    return np.abs(Shift(name, severity).effect("code", seed)(pixels, ASKED).astype(int) - pixels)


@EACH
@FAMILY
def test_severity_0_is_the_identity(family: str, name: Name) -> None:
    assert make_scene(family, "heldout", 3, Shift(name, 0)) == make_scene(family, "heldout", 3)


@EACH
@FAMILY
def test_only_the_pixels_change(family: str, name: Name) -> None:
    plain, shifted = make_scene(family, "heldout", 3), make_scene(family, "heldout", 3, Shift(name, 0.5))
    assert shifted == make_scene(family, "heldout", 3, Shift(name, 0.5))
    assert shifted.source != plain.source and shifted.id == f"{plain.id}+{name}:0.5"
    assert shifted.answer == plain.answer and shifted.evidence == plain.evidence and shifted.frames == plain.frames
    assert shifted.question == plain.question
    store = MediaStore(None)
    for k in range(len(plain.frames)):
        rect, frame = (0, 0, *plain.size), None if len(plain.frames) == 1 else k
        one, two = (store.pixels(View(store.put(s.media), rect, frame)) for s in (plain, shifted))
        assert one.shape == two.shape and (one != two).any()


@EACH
def test_scenes_are_changed_each_in_its_own_way(name: Name) -> None:
    assert (noisy_gray(name, 1, 3) != noisy_gray(name, 1, 4)).any()


@EACH
def test_more_severity_changes_more(name: Name) -> None:
    change = [noisy_gray(name, severity).mean() for severity in (0, 0.25, 0.5, 1)]
    assert change == sorted(change) and change[0] == 0 < change[1] < change[3]


def test_noise_has_its_deviation() -> None:
    pixels = np.full((200, 200, 3), 128, np.uint8)
    fallen = Shift("noise", 0.5).effect("code", 0)(pixels, ASKED).astype(float)
    assert fallen.std() == pytest.approx(DEVIATION / 2, rel=0.03) and fallen.mean() == pytest.approx(128, abs=0.5)


def test_noise_falls_anew_on_every_frame_and_blur_does_not() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in NAMES:
        effect = Shift(name, 1).effect("clip", 0)
        assert (effect(pixels, ASKED) != effect(pixels, ASKED)).any() == (name == "noise")


@pytest.mark.parametrize("length", [9.0, 30.0, 448 * LENGTH])
@pytest.mark.parametrize("angle", [0.0, 0.4, 0.7])
def test_a_smear_has_its_length(length: float, angle: float) -> None:
    """The spread of an even line of length L along itself is L / sqrt 12, and little across it; rounding loses little light."""
    pixels = np.zeros((401, 401), np.uint8)
    pixels[300, 100] = 255
    trail = smear(pixels, length, angle).astype(float) / 255
    rows, columns = np.indices(trail.shape)
    x, y = columns - 100, 300 - rows
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    assert trail.sum() == pytest.approx(1, abs=0.02)
    trail /= trail.sum()
    middle = (trail * along).sum()
    assert middle == pytest.approx(length / 2, rel=0.04)
    assert np.sqrt((trail * (along - middle) ** 2).sum()) == pytest.approx(length / np.sqrt(12), rel=0.05)
    assert np.sqrt((trail * across**2).sum()) < 1.5


def test_a_swept_camera_leaves_what_it_saw_at_rest_in_its_place() -> None:
    """A spot keeps the share of the light that the camera rested for; the rest is a trail up and to the right of it."""
    pixels = np.zeros((201, 201, 3), np.uint8)
    pixels[98:103, 98:103] = 255
    for severity in (0.25, 0.5, 1):
        swept = Shift("motion", severity).effect("code", 0)(pixels, ASKED)[..., 0]
        least, most = (255 * 2 ** -(severity * REST * u) for u in (1 + SPREAD, 1 - SPREAD))
        assert swept[98:103, 98:103].max() == swept.max()
        assert least - 1 <= swept[100, 100] <= most + 255 / (LENGTH * 201 / 10)
        rows, columns = np.nonzero(swept)
        assert rows.max() <= 103 and columns.min() >= 97  # rounding of the trail's end
        assert (1 - SPREAD) * LENGTH * 201 / 2 < columns.max() - 103 < (1 + SPREAD) * LENGTH * 201


@pytest.mark.parametrize("text", ["fog:0.5", "noise", "noise:", "noise:much", "noise:1.5", "noise:-1", "noise:nan", ":1", ""])
def test_what_is_no_shift_is_named_with_those_that_are(text: str) -> None:
    with pytest.raises(ShiftError, match="lighting, motion, noise") as error:
        Shift.parse(text)
    assert repr(text) in str(error.value) and "\n" not in str(error.value)


def test_text_and_value_agree() -> None:
    assert Shift.parse("motion:0.25") == Shift("motion", 0.25) and str(Shift("motion", 0.25)) == "motion:0.25"


def test_a_source_renders_under_its_shift() -> None:
    store, shift = MediaStore(None), Shift("noise", 1)
    source = TaskSource(("code", "tally"), "dev", store, shift=shift)
    for index, family in enumerate(("code", "tally")):
        gold = source.gold(index)
        assert gold == make_scene(family, "dev", 0, shift).task and gold.task.media[0] in store


@pytest.mark.slow
@EACH
@FAMILY
def test_the_tools_do_not_gain_by_a_shift(family: str, name: Name) -> None:
    """Beyond two scenes in 24; noise and blur take most of what there is."""
    shares = [ceiling(family, "dev", 24, Shift(name, severity)) for severity in (0, 0.5, 1)]
    assert shares[0] >= 0.9 and shares[1] <= shares[0] + 2 / 24 and shares[2] <= shares[1] + 2 / 24
