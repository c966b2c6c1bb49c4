"""Infrastructure that fails: rollouts are the same as without failures, or they are left out, never rewarded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from bench.flaky import FlakyToolbox
from pixelis.actors import nano
from pixelis.actors.engine import Completion, Request
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutSettings, RolloutWorker
from pixelis.actors.tasks import TaskSource
from pixelis.memory.trajectory import Trajectory
from pixelis.tools.call import ToolCall
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import TRIES


class Scripted:
    """An engine that reads one to six places of the picture and then answers, by the request's seed."""

    version = (0, 0)

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._turn(request) for request in requests]

    def _turn(self, request: Request) -> Completion:
        rng = np.random.default_rng(request.seed)
        length = int(np.random.default_rng(request.seed[:3]).integers(1, 7))
        x, y = (31 * int(i) for i in rng.integers(20, size=2))
        call = ToolCall("ZOOM", {"on": "img0", "box": [x, y, x + 310, y + 310]})
        last = request.seed[3] >= length
        tokens = tuple(self.renderer.recite("", None if last else call, "K7P" if last else None))
        return Completion(tokens, (-0.5,) * len(tokens), self.version)

    def close(self, sessions: Iterable[str]) -> None:
        pass


def rollouts(probability: float, seed: int = 0) -> list[Trajectory]:
    """Four groups of sixteen."""
    store = MediaStore(None)
    renderer = Renderer(nano.build(seed=0))
    toolbox = FlakyToolbox(store, probability, seed)
    settings = RolloutSettings(group=16)
    worker = RolloutWorker(TaskSource(("code",), "rft", store), toolbox, renderer, Scripted(renderer), settings, run=0)
    return [t for group in worker.sample(range(4)) for t in group.trajectories]


def deeds(trajectory: Trajectory) -> tuple[Any, ...]:
    """What an episode did and what it was worth, without the milliseconds."""
    digests = [turn.result.digest() for turn in trajectory.turns if turn.result]
    return trajectory.id, trajectory.tokens.tolist(), digests, trajectory.answer, trajectory.rewards


@pytest.mark.slow
@pytest.mark.parametrize("probability", [0.05, 0.3])
def test_completed_episodes_are_those_of_a_world_without_failures(probability: float) -> None:
    """To the token: so chain lengths, answers and rewards cannot shift."""
    expected = {t.id: deeds(t) for t in rollouts(0.0)}
    found = rollouts(probability)
    whole = [t for t in found if t.status != "infra"]
    assert {t.id: deeds(t) for t in whole} == {t.id: expected[t.id] for t in whole}
    longest = max(len(turns) for _, _, turns, _, _ in expected.values())
    failing = 1 - (1 - probability**TRIES) ** longest  # of an episode played once, at most
    assert len(found) - len(whole) <= 5 * (failing**3) * len(found) + 1


def test_an_episode_that_cannot_be_completed_has_no_reward() -> None:
    found = rollouts(1.0)
    assert {(t.status, t.answer, tuple(t.rewards)) for t in found} == {("infra", None, ())}
