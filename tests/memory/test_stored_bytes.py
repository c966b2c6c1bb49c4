"""What an episode stores: tokens, calls and where it looked, never pixels. Real calls on a real shard."""

from pathlib import Path

import cv2
import pytest

from pixelis.actors import nano
from pixelis.actors.engine import Completion
from pixelis.actors.episode import Episode, Limits
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import turn
from pixelis.memory.codec import encode
from pixelis.memory.model import Model
from pixelis.memory.replay import ReplayShard
from pixelis.memory.task import Task
from pixelis.memory.trajectory import Group, Trajectory
from pixelis.tools.call import ToolCall
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox
from tests.fakes_media import plate, png

CALLS = [
    ToolCall("ZOOM", {"on": "img0", "box": [300, 300, 750, 650]}),
    ToolCall("SEG", {"on": "img0", "point": [360, 400]}),
    ToolCall("SEG", {"on": "img0", "box": [250, 250, 800, 700]}),
    ToolCall("PROP", {"of": "m1", "keys": ["area", "color"]}),
    ToolCall("ZOOM", {"on": "img1", "box": [0, 0, 500, 1000]}),
]


@pytest.fixture(scope="module")
def model() -> Model:
    return nano.build(0)


def act(model: Model, store: MediaStore, picture: bytes, calls: list[ToolCall], name: str) -> Trajectory:
    """The calls and an answer, through the real tools."""
    renderer, task = Renderer(model), Task("t", "What is the code on the red plate?", (store.put(picture),))
    episode = Episode(task, name, (0, 0, 0), store, renderer, Limits(calls=len(calls)))
    toolbox = Toolbox(store)
    for call in [*calls, None]:
        said = tuple(renderer.recite("", call, None if call else "K7P"))
        [result] = turn([episode], [Completion(said, (-0.5,) * len(said), (0, 0))], toolbox)
        assert call is None or (result is not None and result.ok), result
    return episode.trajectory()


def test_stored_bytes_do_not_follow_the_pixels(model: Model) -> None:
    """A picture with 36 times the pixels, its masks and crops larger alike: not a hundredth more is stored."""
    small = plate("K7P")
    large = cv2.resize(small, None, fx=6, fy=6, interpolation=cv2.INTER_NEAREST)
    groups = []
    for pixels in (small, large):
        trajectory = act(model, MediaStore(None), png(pixels), CALLS, "t/0")
        shown = int((trajectory.tokens == model.layout.pad).sum())
        groups.append((len(encode([Group("t", (trajectory,))])), shown))
    (size, shown), (larger, shown_larger) = groups
    assert larger - size <= 0.01 * size + 4 * (shown_larger - shown)  # a larger crop is shown as more tokens, of 4 bytes


def test_a_group_keeps_its_picture_once_and_kilobytes_a_turn(model: Model, tmp_path: Path) -> None:
    shard, picture = ReplayShard(tmp_path), png(plate("K7P"))
    store = MediaStore(None)
    told = tuple(act(model, store, picture, CALLS * 2, f"t/{r}") for r in range(4))
    shard.add("t", 0, [Group("t", told)], {told[0].media[0]: picture})
    media = [p for p in (tmp_path / "media").rglob("*") if p.is_file()]
    assert [p.read_bytes() for p in media] == [picture]
    turns = sum(len(t.turns) for t in told)
    assert shard.stats()["bytes"] < 2000 * turns
    shard.close()
