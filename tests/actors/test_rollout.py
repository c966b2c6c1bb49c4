"""What a worker hands on: demonstrations of each style, with their captions."""

import pytest

from pixelis.actors import nano
from pixelis.actors.engine import TransformersEngine
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutSettings, RolloutWorker
from pixelis.actors.tasks import TaskSource
from pixelis.actors.teacher import Style
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox


@pytest.mark.parametrize(("style", "least"), [("tools", 2), ("no_tools", 0)])
def test_every_scene_is_demonstrated_and_captioned(style: Style, least: int) -> None:
    """Through real tools, or at once: the control without tools once left all its demonstrations out, unproven."""
    model, store = nano.build(seed=0), MediaStore(None)
    source, renderer = TaskSource(("code", "clip"), "demo", store), Renderer(model)
    engine = TransformersEngine(model, store, renderer.stop)
    worker = RolloutWorker(source, Toolbox(store), renderer, engine, RolloutSettings(style=style), run=0)
    said = [group.trajectories[0] for group in worker.recite(range(4))]
    shown = [t for t in said if "caption" not in t.family]
    assert [t.family for t in shown] == ["code", "clip", "code", "clip"]
    assert [t.answer for t in shown] == [source.gold(i).answer for i in range(4)]
    assert all(t.chain_length >= least and (t.chain_length > 0) == (style == "tools") for t in shown)
    assert {t.family for t in said} >= {"code.caption", "clip.caption"}
