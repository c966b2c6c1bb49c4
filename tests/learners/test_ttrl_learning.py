"""Learning without a key, tested by learning: votes of its own rollouts make a policy better on pictures that it never saw."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pixelis.actors import nano
from pixelis.actors.engine import TransformersEngine
from pixelis.actors.episode import Episode, Limits
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import play
from pixelis.learners.arm import VoteSettings
from pixelis.learners.batch import collate
from pixelis.learners.corridor import CorridorSettings
from pixelis.learners.ema import EmaSettings
from pixelis.learners.gate import GateSettings, judge
from pixelis.learners.judged import Judged
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.learners.reference import logprobs
from pixelis.learners.ttrl import TtrlSettings
from pixelis.learners.vote import Ballot, vote
from pixelis.memory.model import FeatureCache, Model
from pixelis.memory.task import Task
from pixelis.memory.trajectory import Group, Trajectory, Turn
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox
from tests.fakes_media import BLUE, RED, blank, png

COLORS = {"red": RED, "blue": BLUE}
LABELS_WRONG = 0.25
GATE = GateSettings(fidelity=0.0)  # nothing is called here, so nothing has a fidelity


def pictures(store: MediaStore, seed: int, n: int) -> list[tuple[Task, str]]:
    """Noisy squares of one of two colours, and which it is."""
    rng, found = np.random.default_rng(seed), []
    for i in range(n):
        name = sorted(COLORS)[int(rng.integers(2))]
        pixels = blank(80, 80, COLORS[name]) + rng.normal(0, 60, (80, 80, 3))
        source = store.put(png(pixels.clip(0, 255).astype(np.uint8)))
        found.append((Task(f"{seed}.{i}", "color", (source,)), name))
    return found


def told(task: Task, answer: str, renderer: Renderer, store: MediaStore) -> Trajectory:
    """A demonstration of an answer."""
    observed, said = renderer.prompt(task, store), tuple(renderer.recite("", None, answer))
    turn = Turn(observed.tokens, said, (0.0,) * len(said), observed.views, roles=renderer.roles(said))
    return Trajectory(task.id, task.id, task.question, task.media, (turn,), answer)


def right(model: Model, store: MediaStore, some: list[tuple[Task, str]]) -> float:
    """Mean probability of the right answer, of the two."""
    renderer, sums = Renderer(model), []
    for answer in sorted(COLORS):
        batch = collate([told(task, answer, renderer, store) for task, _ in some], model.layout)
        with torch.no_grad():
            every = logprobs(model, batch, FeatureCache(model, store).get(batch.views))
        sums.append(torch.zeros(len(some)).index_add_(0, batch.row, every))
    shares = torch.stack(sums).softmax(0)
    return float(torch.stack([shares[sorted(COLORS).index(name), i] for i, (_, name) in enumerate(some)]).mean())


@pytest.mark.slow
def test_votes_of_its_own_rollouts_make_a_policy_better_on_unseen_pictures() -> None:
    """It has learned from labels of which a quarter were wrong, and is as unsure as they; its majority is not."""
    torch.set_num_threads(1)
    model, store, rng = nano.build(seed=0), MediaStore(None), np.random.default_rng(0)
    renderer = Renderer(model)
    sft = Learner(model, store, LearnerSettings(lr=2e-3, warmup=5))
    for step in range(60):
        shown = []
        for task, name in pictures(store, 100 + step, 16):
            other = next(color for color in COLORS if color != name)
            shown.append(told(task, other if rng.random() < LABELS_WRONG else name, renderer, store))
        sft.update([Group(t.task_id, (t,)) for t in shown])

    unseen = pictures(store, 1, 48)
    before = right(model, store, unseen)
    settings = LearnerSettings(
        loss="ttrl", lr=2e-4, warmup=1, corridor=CorridorSettings(low=0.1, high=0.2, probes=16),
        ttrl=TtrlSettings(ema=EmaSettings(0.5)),
    )  # fmt: skip
    learner = Learner(model, store, replace(settings, grpo=replace(settings.grpo, beta=0.005)), steps=12)
    engine, figures = TransformersEngine(model, store, renderer.stop), []
    for step in range(12):
        tasks = [task for task, _ in pictures(store, 1000 + step, 8)]  # from here on nobody has a key
        episodes = [
            Episode(task, f"{task.id}/{k}", (0, step * 8 + i, k), store, renderer, Limits(turn_tokens=6))
            for i, task in enumerate(tasks)
            for k in range(8)
        ]
        play(episodes, engine, Toolbox(store))
        asked = []
        for i in range(len(tasks)):
            group = [e.trajectory() for e in episodes[8 * i : 8 * i + 8]]
            verdict = vote([Ballot.of(t) for t in group], [], "text", VoteSettings())
            asked.append(Judged.of(Group(tasks[i].id, tuple(group)), verdict, judge(verdict, GATE)))
        figures.append(learner.update(asked))
    after = right(model, store, unseen)
    assert 0.6 < before < 0.9, "as unsure as its labels"
    assert after > before + 0.05, (before, after, figures[-1])
    assert all(one["accepted"] > 0 for one in figures) and figures[-1]["kl_window"] < 0.2
