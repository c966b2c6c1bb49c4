import numpy as np
import pytest

from pixelis.tools.draw import overlay
from tests.fakes_media import avi, moving_square, plate, png
from tests.tools.bench import Bench


def test_masks_and_crops_are_drawn_where_they_are() -> None:
    pixels = plate("K7P")
    bench = Bench(png(pixels))
    bench("SEG", on="img0", point=[360, 400])
    bench("ZOOM", on="img0", box=[100, 100, 250, 250])
    drawn = np.array(overlay(bench.store, list(bench.workspace.handles.values())))
    changed = (drawn != pixels).any(axis=2)
    assert drawn.shape == pixels.shape and changed[95:135, 115:215].mean() > 0.5 and changed[24, 40]
    assert not changed[200:].any()


def test_a_track_is_a_sheet_of_frames() -> None:
    bench = Bench(avi(moving_square(8)[0]))
    bench("TRK", on="img0", box=[125, 375, 275, 575], t0=0)
    bench("TEMP", on="img0", window=[0, 1000], k=3)
    image = overlay(bench.store, list(bench.workspace.handles.values()))
    assert image.size == (4 * 320, 2 * 240)


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing"):
        overlay(Bench(png(plate("K7P"))).store, [])
