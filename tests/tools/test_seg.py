import cv2
import numpy as np
import pytest

from pixelis.tools.handle import Mask
from pixelis.tools.measure import mask_iou
from tests.fakes_media import BLUE, RED, blank, jpeg, plate, png
from tests.tools.bench import Bench, refusal


def disc(width: int = 320, height: int = 240, radius: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture of a disc with a shaded side on a clouded ground, and the true mask."""
    rng = np.random.default_rng(1)
    ground = cv2.resize(rng.integers(60, 110, (6, 8, 3), dtype=np.uint8), (width, height))
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (width // 2, height // 2), radius, 1, -1)
    shade = np.linspace(0.92, 1.0, width)[None, :, None]
    ground[mask > 0] = (np.array(RED) * shade * np.ones((height, width, 1)))[mask > 0]
    noise = rng.normal(0, 3, ground.shape)
    return np.clip(ground + noise, 0, 255).astype(np.uint8), mask > 0


def found(bench: Bench, name: str | None) -> np.ndarray:
    payload = bench.workspace.get(str(name)).payload
    assert isinstance(payload, Mask)
    return payload.array()


@pytest.mark.parametrize("prompt", [{"point": [500, 500]}, {"point": [420, 450]}, {"box": [330, 270, 670, 730]}])
def test_a_disc_is_found_from_a_point_or_a_box(prompt: dict) -> None:
    pixels, truth = disc()
    bench = Bench(jpeg(pixels))
    result = bench("SEG", on="img0", **prompt)
    assert mask_iou(found(bench, result.ref), truth) > 0.9
    assert result.data["area"] == pytest.approx(1000 * truth.mean(), abs=8)
    assert result.data["box"] == pytest.approx([344, 292, 657, 712], abs=12)
    assert 0 <= result.data["score"] <= 1000 and set(result.data) == {"box", "area", "score"}


def test_text_on_a_plate_belongs_to_the_plate() -> None:
    bench = Bench(jpeg(plate("K7P")))
    result = bench("SEG", on="img0", point=[360, 400])
    truth = np.zeros((240, 320), bool)
    truth[90:140, 110:220] = True
    assert mask_iou(found(bench, result.ref), truth) > 0.95


@pytest.mark.slow
def test_a_large_picture_is_cut_at_full_size() -> None:
    pixels, truth = disc(2400, 1600, 400)
    for prompt in ({"point": [500, 500]}, {"box": [320, 235, 680, 765]}):
        bench = Bench(png(pixels))
        assert mask_iou(found(bench, bench("SEG", on="img0", **prompt).ref), truth) > 0.93


def test_a_negative_point_keeps_its_ground_out() -> None:
    pixels = blank()
    cv2.rectangle(pixels, (60, 60), (159, 179), (200, 60, 60), -1)
    cv2.rectangle(pixels, (160, 60), (259, 179), (216, 60, 60), -1)
    bench = Bench(png(pixels))
    free = bench("SEG", on="img0", point=[300, 500])
    held = bench("SEG", on="img0", point=[300, 500], neg=[[700, 500]])
    assert not found(bench, held.ref)[120, 224]
    assert held.data["area"] <= free.data["area"]
    assert refusal(bench("SEG", on="img0", point=[300, 500], neg=[[300, 500]])) == ("tool", "no_segment")


def test_masks_of_crops_lie_in_the_crop() -> None:
    bench = Bench(jpeg(plate("K7P")))
    zoom = bench("ZOOM", on="img0", box=[250, 250, 750, 750])
    result = bench("SEG", on=zoom.ref, point=[220, 300])
    handle = bench.workspace.get(str(result.ref))
    assert handle.view == bench.workspace.get("img1").view
    assert found(bench, result.ref).shape == (120, 160)
    corner = handle.view.to_source(result.data["box"][0], result.data["box"][1])
    assert corner == pytest.approx((110, 90), abs=2)


def test_what_this_backend_cannot_do_is_the_tools_failure() -> None:
    bench = Bench(png(blank(8, 8)))
    assert refusal(bench("SEG", on="img0", text="the dog")) == ("tool", "unknown_text")
    for box in ([0, 0, 1, 1], [0, 0, 1000, 1000], [0, 0, 500, 1000]):
        result = bench("SEG", on="img0", box=box)
        assert result.ok or refusal(result)[0] == "tool"


def test_a_box_round_everything_does_not_raise() -> None:
    for pixels in (blank(64, 48), disc()[0], blank(300, 2), blank(1, 1), plate("A", BLUE)):
        result = Bench(png(pixels))("SEG", on="img0", box=[0, 0, 1000, 1000])
        assert result.ok or refusal(result)[0] == "tool"
        result = Bench(png(pixels))("SEG", on="img0", point=[1000, 1000])
        assert result.ok or refusal(result)[0] == "tool"


@pytest.mark.parametrize("size", [(4000, 1), (1, 3000), (900, 3), (1, 1)])
def test_thin_strips_are_no_crash(size: tuple[int, int]) -> None:
    bench = Bench(png(blank(*size)))
    for prompt in ({"point": [500, 500]}, {"box": [448, 297, 867, 690]}, {"box": [0, 0, 1000, 1000]}):
        result = bench("SEG", on="img0", **prompt)
        assert result.ok or refusal(result) == ("tool", "no_segment")
