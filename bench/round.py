"""Where the time of one round of RFT goes: generation, tools, the rest of the rollout, and the update; in one process.

Usage: python bench/round.py [POLICY]   (a policy folder, checkpoint or run; default: an untrained one, which hardly calls)

The number of tokens and calls is printed with the shares, because it decides them. Groups without contrast would skip the
update, so every second rollout is taken for right.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from figures import ROUNDS, keep, row, spread

from pixelis.actors import nano
from pixelis.actors.engine import TransformersEngine
from pixelis.actors.episode import Limits
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutSettings, RolloutWorker
from pixelis.actors.tasks import TaskSource
from pixelis.cluster.policy import open_policy
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.memory.trajectory import Group
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox

GROUPS, GROUP = 32, 4


class Clocked:
    """Adds up the CPU seconds of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: Any) -> Any:
        """The function's result."""
        start = time.process_time()
        result = self.function(*args)
        self.seconds += time.process_time() - start
        return result


def contrasted(group: Group) -> Group:
    """The group with every second rollout rewarded."""
    return Group(group.task_id, tuple(replace(t, rewards={"answer": i % 2}) for i, t in enumerate(group.trajectories)))


def main() -> None:
    """Runs all of it."""
    torch.set_num_threads(1)
    model = open_policy(sys.argv[1]) if len(sys.argv) > 1 else nano.build(0)
    store = MediaStore()
    source = TaskSource(("code", "code", "clip"), "rft", store)
    learner = Learner(model, store, LearnerSettings(loss="grpo", lr=1e-9, warmup=1))
    rounds: list[dict[str, float]] = []
    for number in range(ROUNDS + 1):
        renderer, toolbox = Renderer(model), Toolbox(store)
        engine = TransformersEngine(model, store, renderer.stop)
        worker = RolloutWorker(source, toolbox, renderer, engine, RolloutSettings(group=GROUP, limits=Limits(calls=6)), number)
        indices = range(number * GROUPS, (number + 1) * GROUPS)
        for index in indices:
            source.scene(index)  # rendering belongs to PixelWorld, not to a round
        generate, use, update = Clocked(engine.generate), Clocked(toolbox.run_all), Clocked(learner.update)
        engine.generate, toolbox.run_all = generate, use  # type: ignore[method-assign]
        sample = Clocked(worker.sample)
        groups = sample(indices)
        update([contrasted(g) for g in groups])
        told = [t for g in groups for t in g.trajectories]
        whole = sample.seconds + update.seconds
        rounds.append(
            {
                "cpu_s": whole,
                "generation": generate.seconds / whole,
                "tools": use.seconds / whole,
                "rest_of_rollout": (sample.seconds - generate.seconds - use.seconds) / whole,
                "update": update.seconds / whole,
                "sampled_tokens": float(sum(int(t.mask.sum()) for t in told)),
                "tokens": float(sum(len(t) for t in told)),
                "calls": float(sum(t.chain_length for t in told)),
                "memo_hits": float(toolbox.hits),
            }
        )
    figures = {key: spread([one[key] for one in rounds[1:]]) for key in rounds[0]}
    for key, value in figures.items():
        row(key, value)
    keep("round", {"policy": sys.argv[1] if len(sys.argv) > 1 else "untrained", **figures})


if __name__ == "__main__":
    main()
