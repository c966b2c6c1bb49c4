"""Learning, tested by learning: a short run must improve a score on scenes that it never saw."""

import numpy as np
import pytest
import torch

from pixelis.actors import nano
from pixelis.actors.engine import TransformersEngine
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutSettings, RolloutWorker
from pixelis.actors.tasks import TaskSource
from pixelis.learners.batch import collate
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.learners.reference import logprobs
from pixelis.memory.model import Model
from pixelis.memory.trajectory import Group, Trajectory
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox


def score(model: Model, learner: Learner, trajectories: list[Trajectory]) -> float:
    """Mean log-prob of the demonstrated tokens."""
    batch = collate(trajectories, model.layout)
    with torch.no_grad():
        return float(logprobs(model, batch, learner.features.get(batch.views)).mean())


@pytest.mark.slow
def test_imitation_of_some_scenes_helps_on_others() -> None:
    torch.set_num_threads(1)
    model, store = nano.build(seed=0), MediaStore(None)
    renderer = Renderer(model)
    source = TaskSource(("code", "clip"), "demo", store)
    engine = TransformersEngine(model, store, renderer.stop)
    teacher = RolloutWorker(source, Toolbox(store), renderer, engine, RolloutSettings(), run=0)
    seen = [g.trajectories[0] for g in teacher.recite(range(24))]
    unseen = [g.trajectories[0] for g in teacher.recite(range(100, 108))]
    learner = Learner(model, store, LearnerSettings(lr=3e-3, matrix_lr=0.02, warmup=10))
    before = score(model, learner, unseen)
    rng = np.random.default_rng(0)
    for _ in range(30):
        batch = [seen[i] for i in rng.integers(len(seen), size=8)]
        learner.update([Group(t.task_id, (t,)) for t in batch])
    assert score(model, learner, unseen) > 0.5 * before  # log-probs are negative: at least halved
