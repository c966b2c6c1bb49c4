import cv2
import numpy as np
import pytest

from pixelis.tools.call import KEYS
from pixelis.tools.handle import Mask, Spot, Track
from pixelis.tools.prop import NAMES, color_name
from tests.fakes_media import BLUE, GREEN, RED, avi, blank, moving_square, plate, png
from tests.tools.bench import Bench, refusal


def masked(array: np.ndarray, pixels: np.ndarray | None = None) -> Bench:
    """A bench whose m1 is `array`."""
    pixels = blank(array.shape[1], array.shape[0]) if pixels is None else pixels
    bench = Bench(png(pixels))
    bench.workspace.new("mask", bench.workspace.get("img0").view, Mask.of(array))
    return bench


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    array = np.zeros((400, 400), bool)
    array[y0:y1, x0:x1] = True
    return array


def test_shapes_have_their_textbook_values() -> None:
    keys = ["area", "box", "centroid", "aspect", "orientation", "perimeter", "circularity", "count"]
    data = masked(rectangle(100, 160, 200, 200))("PROP", of="m1", keys=keys).data
    assert list(data) == keys
    assert data["area"] == 25 and data["box"] == [250, 400, 500, 500] and data["centroid"] == [375, 450]
    assert data["aspect"] == 2.5 and data["orientation"] == 0 and data["count"] == 1
    assert data["perimeter"] == pytest.approx(280, abs=8)


def test_a_disc_is_rounder_than_a_bar() -> None:
    disc = np.zeros((400, 400), np.uint8)
    cv2.circle(disc, (200, 200), 90, 1, -1)
    round_ = masked(disc > 0)("PROP", of="m1", keys=["circularity"]).data["circularity"]
    bar = masked(rectangle(10, 10, 390, 30))("PROP", of="m1", keys=["circularity"]).data["circularity"]
    assert round_ > 850 > 300 > bar


def test_orientation_is_anticlockwise() -> None:
    slash = np.zeros((400, 400), np.uint8)
    cv2.line(slash, (50, 350), (350, 50), 1, 9)
    assert masked(slash > 0)("PROP", of="m1", keys=["orientation"]).data["orientation"] == pytest.approx(45, abs=1)


def test_parts_are_counted_without_specks() -> None:
    three = rectangle(0, 0, 100, 100) | rectangle(200, 0, 260, 60) | rectangle(0, 200, 60, 260)
    three[399, 399] = True
    assert masked(three)("PROP", of="m1", keys=["count"]).data == {"count": 3}


def dotted(dots: list[tuple[int, int]], ink: int, stains: list[tuple[int, int]] = []) -> np.ndarray:  # noqa: B006
    """A 400x400 gray picture with 4 px dots and soft stains on it."""
    soft = np.zeros((400, 400), np.float32)
    for x, y in stains:
        soft[y - 1 : y + 2, x - 1 : x + 2] = 2.5 * (ink - 120)
    pixels = np.clip(blank(400, 400) + cv2.GaussianBlur(soft, (0, 0), 2.5)[..., None], 0, 255).astype(np.uint8)
    for x, y in dots:
        pixels[y - 2 : y + 2, x - 2 : x + 2] = ink
    return pixels


@pytest.mark.parametrize("ink", [0, 30, 200, 255])
@pytest.mark.parametrize("n", [0, 1, 5, 12])
def test_spots_are_the_sharp_marks_inside(n: int, ink: int) -> None:
    """Dots 7 pixels apart, dark or light; none outside the region counts, and no stain beside them."""
    dots = [(120 + 7 * (i % 4), 120 + 7 * (i // 4)) for i in range(n)]
    stains = [(170, 122), (180, 130)] if n else []
    pixels = dotted([*dots, (300, 300), (20, 20)], ink, stains)
    assert masked(rectangle(100, 100, 200, 142), pixels)("PROP", of="m1", keys=["spots"]).data == {"spots": n}


def test_what_touches_is_one_spot_and_what_is_wide_is_none() -> None:
    pixels = dotted([(120, 120), (123, 120), (150, 120)], 0)
    pixels[100:142, 170:185] = 0  # a bar
    assert masked(rectangle(100, 100, 200, 142), pixels)("PROP", of="m1", keys=["spots"]).data == {"spots": 2}


def test_distance_is_in_source_pixels_between_centroids() -> None:
    bench = masked(rectangle(0, 0, 20, 20))
    view = bench.workspace.get("img0").view.crop((500, 0, 1000, 1000))
    array = np.zeros((400, 200), bool)
    array[0:20, 100:120] = True
    bench.workspace.new("mask", view, Mask.of(array))
    assert bench("PROP", of="m1", to="m2", keys=["distance"]).data == {"distance": 300}


@pytest.mark.parametrize("name", list(NAMES))
def test_every_reference_colour_has_its_name(name: str) -> None:
    for shade in NAMES[name]:
        assert color_name(np.full((10, 3), shade, np.uint8)) == name


def test_the_colour_of_a_plate_is_not_its_texts() -> None:
    for color, name in ((RED, "red"), (GREEN, "green"), (BLUE, "blue")):
        bench = Bench(png(plate("K7P", color)))
        bench("SEG", on="img0", point=[360, 400])
        assert bench("PROP", of="m1", keys=["color"]).data == {"color": name}
        assert bench("PROP", of="img0", keys=["color"]).data == {"color": "gray"}


def test_brightness_goes_from_black_to_white() -> None:
    values = [Bench(png(blank(color=(v, v, v))))("PROP", of="img0", keys=["brightness"]).data for v in (0, 119, 255)]
    assert [v["brightness"] for v in values] == [0, pytest.approx(500, abs=5), 1000]


def test_a_track_has_speed_and_direction() -> None:
    frames, boxes = moving_square(12, 6)
    bench = Bench(avi(frames, rate=8))
    x0, y0, x1, y1 = boxes[0]
    box = [round(x0 / 0.32), round(y0 / 0.24), round(x1 / 0.32), round(y1 / 0.24)]
    bench("TRK", on="img0", box=box, t0=0)
    data = bench("PROP", of="t1", keys=["speed", "direction", "centroid", "area"]).data
    assert data["speed"] == pytest.approx(6 * 8, rel=0.25)
    assert min(data["direction"], 360 - data["direction"]) < 15
    assert data["centroid"] == pytest.approx([405, 475], abs=50)


def test_keys_that_do_not_fit_the_handle_are_the_policys_mistake() -> None:
    bench = Bench(avi(moving_square(4)[0]))
    assert refusal(bench("PROP", of="img0", keys=["area"])) == ("policy", "wrong_modality")
    frame = bench("TEMP", on="img0", window=[0, 0])
    assert refusal(bench("PROP", of=frame.ref, keys=["direction"])) == ("policy", "wrong_modality")
    other = bench.store.put(png(blank()))
    view = type(bench.workspace.get("f1").view)(other, (0, 0, 320, 240))
    bench.workspace.new("image", view)
    assert refusal(bench("PROP", of="f1", to="img1", keys=["distance"])) == ("policy", "bad_args")


def drawn(draw) -> Bench:
    """A bench whose m1 is what `draw` paints with 1 into a 400x400 picture."""
    array = np.zeros((400, 400), np.uint8)
    draw(array)
    return masked(array > 0)


@pytest.mark.parametrize("angle", range(0, 180, 15))
def test_orientation_of_a_bar_at_any_angle(angle: int) -> None:
    dx, dy = 150 * np.cos(np.radians(angle)), -150 * np.sin(np.radians(angle))  # image y points down
    ends = [(round(200 - dx), round(200 - dy)), (round(200 + dx), round(200 + dy))]
    found = drawn(lambda a: cv2.line(a, *ends, 1, 15))("PROP", of="m1", keys=["orientation"]).data["orientation"]
    assert min((found - angle) % 180, (angle - found) % 180) <= 1


@pytest.mark.parametrize(
    ("draw", "perimeter", "circularity"),
    [
        (lambda a: cv2.circle(a, (200, 200), 150, 1, -1), 2 * np.pi * 150, 1000),
        (lambda a: cv2.rectangle(a, (100, 100), (299, 299), 1, -1), 4 * 200, 250 * np.pi),
        (lambda a: cv2.rectangle(a, (20, 180), (379, 219), 1, -1), 2 * (360 + 40), 4000 * np.pi * 360 * 40 / 800**2),
    ],
)
def test_perimeter_and_circularity_have_their_textbook_values(draw, perimeter: float, circularity: float) -> None:
    data = drawn(draw)("PROP", of="m1", keys=["perimeter", "circularity"]).data
    assert data["perimeter"] == pytest.approx(perimeter, rel=0.06)  # source pixels; a staircase is longer than its curve
    assert data["circularity"] == pytest.approx(circularity, rel=0.12)


@pytest.mark.parametrize(
    ("rgb", "lightness"), [((255, 0, 0), 532), ((0, 255, 0), 877), ((0, 0, 255), 323), ((119, 119, 119), 500)]
)
def test_brightness_is_ten_times_the_lightness_of_cielab(rgb: tuple[int, int, int], lightness: int) -> None:
    """L* of the sRGB primaries, D65, as printed everywhere: 53.24, 87.73, 32.30; of grey 119: 50.03."""
    found = Bench(png(blank(color=rgb)))("PROP", of="img0", keys=["brightness"]).data["brightness"]
    assert found == pytest.approx(lightness, abs=3)


@pytest.mark.parametrize(
    ("step", "direction"), [((6, 0), 0), ((4, -4), 45), ((0, -6), 90), ((-6, 0), 180), ((0, 6), 270), ((3, 3), 315)]
)
def test_speed_and_direction_of_a_known_track(step: tuple[int, int], direction: int) -> None:
    """Source pixels per second from first to last sight; 0 = right, 90 = up; a spot out of sight does not count."""
    frames = [blank(320, 240)] * 11
    bench = Bench(avi(frames, rate=8))
    dx, dy = step
    boxes = [(140 + dx * k, 100 + dy * k, 160 + dx * k, 130 + dy * k) for k in range(11)]
    spots = tuple(Spot(k, box, 1.0, k < 10) for k, box in enumerate(boxes))
    bench.workspace.new("track", bench.workspace.get("img0").view, Track(spots))
    data = bench("PROP", of="t1", keys=["speed", "direction", "box", "area"]).data
    assert data["speed"] == round(8 * np.hypot(dx, dy)) and data["direction"] == direction
    x0, y0, x1, y1 = boxes[9]  # where it was last in sight
    assert data["box"] == pytest.approx([x0 / 0.32, y0 / 0.24, x1 / 0.32, y1 / 0.24], abs=1)
    assert data["area"] == round(1000 * 20 * 30 / (320 * 240))


def test_every_key_is_measured_on_something() -> None:
    bench = Bench(avi(moving_square(4)[0]))
    view = bench.workspace.get("img0").view
    bench.workspace.new("track", view, Track(tuple(Spot(k, (40 + 6 * k, 90, 88 + 6 * k, 138), 1.0, True) for k in range(4))))
    data = bench("PROP", of="t1", to="t1", keys=list(KEYS)).data
    assert list(data) == list(KEYS) and data["distance"] == 0
