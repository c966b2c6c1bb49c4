import numpy as np
import pytest

from pixelis.tools.find import BEST, Finder
from tests.fakes_media import moving_square


def moved(dx: int, dy: int) -> np.ndarray:
    """The first frame of `moving_square`, its square elsewhere: BGR."""
    frames, ((x0, y0, x1, y1), *_) = moving_square(1)
    pixels = frames[0].copy()
    pixels[y0:y1, x0:x1] = pixels[:48, :48]
    pixels[y0 + dy : y1 + dy, x0 + dx : x1 + dx] = frames[0][y0:y1, x0:x1]
    return np.ascontiguousarray(pixels[..., ::-1])


@pytest.mark.parametrize("shift", [(0, 0), (150, 60), (-38, -80), (200, 90)])
def test_the_best_place_is_where_the_colours_are(shift: tuple[int, int]) -> None:
    finder = Finder(moved(0, 0), (40, 90, 48, 48))
    places = finder.places(moved(*shift))
    assert 1 <= len(places) <= BEST
    assert places[0][1] == pytest.approx((40 + shift[0], 90 + shift[1], 48, 48), abs=4)
    assert [v for v, _ in places] == sorted((v for v, _ in places), reverse=True)


def test_same_frames_same_places_and_odd_boxes_do_not_raise() -> None:
    frame = moved(0, 0)
    assert Finder(frame, (40, 90, 48, 48)).places(frame) == Finder(frame, (40, 90, 48, 48)).places(frame)
    for box in ((0, 0, 1, 1), (0, 0, 320, 240), (319, 239, 1, 1), (0, 0, 320, 4)):
        assert all(w >= 4 and h >= 4 for _, (_, _, w, h) in Finder(frame, box).places(frame))
