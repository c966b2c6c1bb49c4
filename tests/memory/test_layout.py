"""The layout against transformers: the same rope positions, the same patches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2VLImageProcessor

from pixelis.actors import nano
from pixelis.memory.layout import Layout
from pixelis.memory.model import Model
from pixelis.tools.frame import View

LAYOUT = Layout(patch=8, merge=2, image_area=9216, frame_area=2304, max_scale=0.4, start=1, pad=2, end=3)
SOURCE = "ab" * 32


@pytest.fixture(scope="module")
def model() -> Model:
    return nano.build(seed=0)


sides = st.integers(1, 900)
views = st.builds(
    lambda x, y, w, h, frame: View(SOURCE, (x, y, x + w, y + h), frame),
    sides, sides, sides, sides, st.one_of(st.none(), st.integers(0, 9)),
)  # fmt: skip


@given(view=views)
def test_a_view_is_shown_within_its_area_and_never_enlarged_beyond_a_token(view: View) -> None:
    height, width = LAYOUT.size(view)
    assert height % LAYOUT.unit == width % LAYOUT.unit == 0
    assert height * width <= (LAYOUT.image_area if view.frame is None else LAYOUT.frame_area)
    x0, y0, x1, y1 = view.rect
    assert height <= max(LAYOUT.unit, (y1 - y0) * LAYOUT.max_scale + LAYOUT.unit / 2)
    assert width <= max(LAYOUT.unit, (x1 - x0) * LAYOUT.max_scale + LAYOUT.unit / 2)


@settings(max_examples=40)
@given(shown=st.lists(st.tuples(st.integers(0, 5), views), max_size=5), tail=st.integers(1, 6))
def test_positions_equal_transformers(model: Model, shown: list[tuple[int, View]], tail: int) -> None:
    """Any number of images of any size between any amount of text."""
    layout = model.layout
    tokens: list[int] = []
    for text, view in shown:
        tokens += [7] * text + layout.placeholders(view)
    tokens += [7] * tail
    grids = [[1, rows * layout.merge, cols * layout.merge] for rows, cols in (layout.cells(v) for _, v in shown)]
    ids = torch.tensor([tokens])
    theirs, _ = model.net.model.get_rope_index(
        ids, (ids == layout.pad).int(), image_grid_thw=torch.tensor(grids) if grids else None
    )
    assert np.array_equal(layout.positions(tokens, [v for _, v in shown]), theirs[:, 0].numpy())


def test_the_second_image_stands_after_the_first_and_both_count_rows_and_columns() -> None:
    """Golden: 2x3 cells at position 1, text, 1x2 cells. Fails when the rope positions of a second image are wrong."""
    first, second = View(SOURCE, (0, 0, 120, 80)), View(SOURCE, (0, 0, 80, 40))
    assert (LAYOUT.cells(first), LAYOUT.cells(second)) == ((2, 3), (1, 2))
    tokens = [*LAYOUT.placeholders(first), *LAYOUT.placeholders(second)]
    assert LAYOUT.positions(tokens, [first, second]).tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 4, 5, 6, 6, 8],
        [0, 1, 1, 1, 2, 2, 2, 4, 5, 6, 6, 8],
        [0, 1, 2, 3, 1, 2, 3, 4, 5, 6, 7, 8],
    ]


def test_placeholders_without_their_view_are_refused() -> None:
    with pytest.raises(ValueError, match="placeholders"):
        LAYOUT.positions([1, 2, 3], [])


def test_patches_equal_transformers_image_processor(model: Model) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 96, 3)).astype(np.uint8)
    vision = model.net.config.vision_config
    processor = Qwen2VLImageProcessor(
        patch_size=vision.patch_size, merge_size=vision.spatial_merge_size, image_mean=[0.5] * 3, image_std=[0.5] * 3,
        temporal_patch_size=vision.temporal_patch_size, do_resize=False,
    )  # fmt: skip
    theirs = processor(images=[pixels], return_tensors="np")
    ours, grid = model.patchify(pixels)
    assert list(grid) == theirs["image_grid_thw"][0].tolist()
    assert np.abs(ours - np.asarray(theirs["pixel_values"])).max() < 1e-6
