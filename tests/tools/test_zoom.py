import numpy as np

from tests.fakes_media import avi, moving_square, plate, png
from tests.tools.bench import Bench


def test_zoom_shows_the_very_pixels() -> None:
    pixels = plate("K7P")
    bench = Bench(png(pixels))
    result = bench("ZOOM", on="img0", box=[250, 250, 750, 750])
    assert result.observation() == '{"ok":true,"ref":"img1"}' and result.shown == ("img1",)
    view = bench.workspace.get("img1").view
    assert view.rect == (80, 60, 240, 180)
    assert np.array_equal(bench.store.pixels(view), pixels[60:180, 80:240])


def test_zoom_on_a_frame_stays_on_the_frame() -> None:
    bench = Bench(avi(moving_square(8)[0]))
    frame = bench("TEMP", on="img0", window=[500, 500])
    result = bench("ZOOM", on=frame.ref, box=[0, 0, 500, 500])
    assert bench.workspace.get(str(result.ref)).view.frame == 4


def test_the_smallest_box_is_one_pixel() -> None:
    bench = Bench(png(plate("K7P")))
    for corner in (0, 500, 999):
        result = bench("ZOOM", on="img0", box=[corner, corner, corner + 1, corner + 1])
        view = bench.workspace.get(str(result.ref)).view
        assert view.width >= 1 and view.height >= 1
