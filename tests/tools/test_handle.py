import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pixelis.tools.frame import View
from pixelis.tools.handle import DanglingHandle, Mask, Window
from tests.fakes_media import blank, moving_square, mp4, png
from tests.tools.bench import Bench


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_masks_keep_every_pixel(array: np.ndarray) -> None:
    mask = Mask.of(array)
    assert np.array_equal(mask.array(), array) and mask.area == array.sum()
    flipped = array.copy()
    flipped[0, 0] ^= True
    assert Mask.of(flipped).digest() != mask.digest() == Mask.of(array).digest()


def test_masks_of_one_sequence_but_another_shape_differ() -> None:
    assert Mask.of(np.ones((2, 3), bool)).digest() != Mask.of(np.ones((3, 2), bool)).digest()


def test_names_count_up_per_kind() -> None:
    workspace = Bench(png(blank())).workspace
    view = View(workspace.source, (0, 0, 4, 4))
    kinds = ["image", "mask", "image", "frame", "window", "track", "mask"]
    names = [workspace.new(kind, view).name for kind in kinds]  # type: ignore[arg-type]
    assert names == ["img1", "m1", "img2", "f1", "w1", "t1", "m2"]
    assert "img2" in workspace and "img3" not in workspace
    with pytest.raises(DanglingHandle):
        workspace.get("img3")


def test_the_source_is_img0() -> None:
    assert Bench(png(blank())).workspace.get("img0").kind == "image"
    assert Bench(mp4(moving_square(4)[0])).workspace.get("img0").kind == "clip"


def test_identity_forgets_the_name_only() -> None:
    workspace = Bench(png(blank())).workspace
    view = View(workspace.source, (0, 0, 4, 4))
    a, b = workspace.new("window", view, Window(0, 3, 0, 500)), workspace.new("window", view, Window(0, 3, 0, 500))
    c = workspace.new("window", view, Window(0, 4, 0, 500))
    assert a.name != b.name and a.identity() == b.identity() != c.identity()
