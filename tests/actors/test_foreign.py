"""Others' crops and frame selections as ours: what is shown is what they mean, by playing it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.actors.foreign import Mapper, Unmapped
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox
from tests.fakes_media import avi, blank, png

STORE = MediaStore()
CLIP = STORE.put(avi([blank(64, 48, (15 * i, 0, 0)) for i in range(16)]))
PICTURE = STORE.put(png(np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)))


def played(sha: str, *theirs: tuple[str, dict[str, Any]]) -> tuple[Workspace, Mapper]:
    """The workspace after some of their calls, run as ours; every handle has the name that the mapper expects."""
    info = STORE.info(sha)
    mapper = Mapper((info.width, info.height), info.frames if info.kind == "clip" else 0)
    workspace, toolbox = Workspace(STORE, sha), Toolbox(STORE)
    for name, arguments in theirs:
        for call in mapper.calls(name, arguments):
            assert toolbox.run(workspace, call).ok
    assert set(mapper.shown) <= set(workspace.handles)
    return workspace, mapper


def crop(box: list[float], target: int = 1) -> tuple[str, dict[str, Any]]:
    return "crop_image", {"bbox_2d": box, "target_image": target}


def select(*frames: int) -> tuple[str, dict[str, Any]]:
    return "select_frames", {"target_frames": list(frames)}


@given(st.lists(st.integers(1, 16), min_size=1, max_size=8))
def test_frames_are_the_ones_selected_in_their_order(frames: list[int]) -> None:
    workspace, mapper = played(CLIP, select(*frames))
    assert [workspace.get(name).view.frame for name in mapper.shown[1:]] == [n - 1 for n in frames]


@pytest.mark.parametrize(("frames", "calls"), [((5, 6, 7, 8), 1), ((1, 3, 5, 7), 1), ((9,), 1), ((1, 2, 16), 3), ((4, 2), 2)])
def test_frames_that_one_call_can_show_take_one(frames: tuple[int, ...], calls: int) -> None:
    assert len(Mapper((64, 48), 16).calls(*select(*frames))) == calls


def test_a_crop_is_what_its_box_holds_in_either_unit() -> None:
    for box in ([0.25, 0.5, 0.75, 1.0], [80, 120, 240, 240]):
        workspace, mapper = played(PICTURE, crop(box))
        assert workspace.get(mapper.shown[-1]).view.rect == (80, 120, 240, 240)


def test_a_crop_of_a_crop_is_a_box_of_it() -> None:
    workspace, _ = played(PICTURE, crop([0.5, 0.5, 1, 1]), crop([0, 0, 0.5, 0.5], 2), crop([0, 0, 0.5, 0.5], 1))
    assert workspace.get("img2").view.rect == (160, 120, 240, 180)
    assert workspace.get("img3").view.rect == (0, 0, 160, 120)


def test_frames_of_a_clip_are_cropped_before_and_after_they_were_selected() -> None:
    workspace, mapper = played(CLIP, crop([0, 0, 0.5, 0.5], 12))
    assert workspace.get("img1").view.frame == 11 and mapper.shown == ["img0", "img1"]
    workspace, mapper = played(CLIP, select(3, 9), crop([0, 0, 0.5, 0.5], 3))
    assert workspace.get("img1").view.frame == 8 and mapper.shown == ["img0", "f1", "f2", "img1"]


def test_our_own_calls_pass_and_are_counted() -> None:
    own = ("ZOOM", {"on": "img0", "box": [0, 0, 500, 500]})
    workspace, _ = played(PICTURE, own, crop([0, 0, 0.5, 0.5], 2))
    assert workspace.get("img2").view.rect == (0, 0, 80, 60)
    assert Mapper((9, 9)).calls("ZOOM", {"on": "img0"})[0].arguments == {"on": "img0"}  # told when it is played


@pytest.mark.parametrize(
    ("sha", "theirs", "told"),
    [
        (PICTURE, [("python", {})], "no tool of ours does what 'python' does"),
        (PICTURE, [select(1)], "frames of a still picture"),
        (CLIP, [select(17)], "frame 17 of 16"),
        (CLIP, [select(0)], "frame 0 of 16"),
        (CLIP, [select()], "needs a list of frame numbers"),
        (CLIP, [select(1), crop([0, 0, 1, 1], 1)], "the clip as a whole"),
        (PICTURE, [crop([0, 0, 1, 1], 2)], "target_image 2 of 1 pictures"),
        (PICTURE, [crop([0.5, 0.5, 0.5, 0.9])], "holds nothing"),
        (PICTURE, [crop([0, 0, 0.5])], "needs four numbers"),
        (PICTURE, [crop([0, 0, 1, 1]), crop([0, 0, 20, 20], 2)], "in pixels of a crop"),
    ],
)
def test_what_has_no_counterpart_is_told(sha: str, theirs: list[Any], told: str) -> None:
    with pytest.raises(Unmapped, match=told):
        played(sha, *theirs)


def test_further_pictures_cannot_be_looked_into() -> None:
    with pytest.raises(Unmapped, match="only the first medium"):
        Mapper((9, 9), others=1).calls(*crop([0, 0, 1, 1], 2))
