"""Engine and learner say the same about the same tokens under the same version, caches and all as a run has them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pixelis.actors import nano
from pixelis.actors.engine import Request, TransformersEngine
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutSettings, RolloutWorker
from pixelis.actors.tasks import TaskSource
from pixelis.learners.batch import collate
from pixelis.learners.corridor import CorridorSettings
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.learners.reference import logprobs
from pixelis.memory.trajectory import Group, Trajectory
from pixelis.memory.weights import unflatten
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox


def sampled(engine: TransformersEngine, told: list[Trajectory]) -> list[Trajectory]:
    """The same observations turn by turn, with what the engine samples between them instead of what was recited."""
    turns: list[list] = [[] for _ in told]
    for number in range(max(len(t.turns) for t in told)):
        live = [i for i, t in enumerate(told) if number < len(t.turns)]
        asked = []
        for i in live:
            so_far = [*turns[i], replace(told[i].turns[number], sampled=(), logprobs=(), roles="")]
            tokens = tuple(t for turn in so_far for t in (*turn.observed, *turn.sampled))
            views = tuple(v for turn in so_far for v in turn.views)
            asked.append(Request(told[i].id, tokens, views, (0, i, number), 12, 1.0))
        for i, done in zip(live, engine.generate(asked), strict=True):
            said = {"sampled": done.tokens, "logprobs": done.logprobs, "version": done.version, "roles": ""}
            turns[i].append(replace(told[i].turns[number], **said))
    engine.close([t.id for t in told])
    return [replace(t, turns=tuple(some)) for t, some in zip(told, turns, strict=True)]


def apart(learner: Learner, trajectories: list[Trajectory]) -> float:
    """The largest difference of a log-prob, engine against learner."""
    batch = collate(trajectories, learner.model.layout)
    with torch.no_grad():
        now = logprobs(learner.model, batch, learner.features.get(batch.views))
    return float((now - batch.old).abs().max())


@pytest.mark.slow
def test_engine_and_learner_agree_on_every_version() -> None:
    """Multi-turn episodes of both families with their pictures and crops, before an update and after it was published."""
    torch.set_num_threads(1)
    store, model = MediaStore(None), nano.build(2)
    engine = TransformersEngine(nano.build(2), store, Renderer(model).stop)
    worker = RolloutWorker(
        TaskSource(("code", "clip"), "demo", store), Toolbox(store), Renderer(model), engine, RolloutSettings(), run=0
    )
    told = [g.trajectories[0] for g in worker.recite(range(4)) if not g.trajectories[0].family.endswith("caption")]
    assert min(len(t.turns) for t in told) > 1 and sum(len(t.views) for t in told) > len(told)
    learner = Learner(model, store, LearnerSettings(loss="grpo", lr=1e-2, warmup=1, corridor=CorridorSettings(high=0.0)))
    first = sampled(engine, told)
    assert apart(learner, first) < 1e-4
    rewarded = tuple(replace(t, task_id="t", rewards={"answer": float(i % 2)}) for i, t in enumerate(first))
    figures = learner.update([Group("t", rewarded)])
    assert figures["skipped"] == 0 and figures["ratio_clipped"] == 0
    assert apart(learner, first) > 1e-2  # the weights have moved on, so agreement says something
    engine.load(unflatten(learner.flat().array().copy(), learner.flat().plan), learner.version, vision_changed=False)
    second = sampled(engine, told)
    assert {turn.version for t in second for turn in t.turns} == {learner.version}
    assert apart(learner, second) < 1e-4
    assert any(not np.array_equal(a.tokens, b.tokens) for a, b in zip(first, second, strict=True))
