"""Rollouts of a stream of questions, stored once for all arms of a vote: sampled, greedy, and without tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pixelis.actors.engine import Request
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutWorker
from pixelis.cluster.config import CONFIGS, RunConfig, load
from pixelis.cluster.results_rft import HERE, LONE
from pixelis.cluster.runner import Runner
from pixelis.memory.codec import decode, encode
from pixelis.memory.log import replace_file
from pixelis.memory.task import Task
from pixelis.memory.trajectory import Group, Trajectory, Turn

COUNT = 16
"""Sampled rollouts of a question."""
BLOCK = 20
"""Questions that are played, and stored, together."""
WAYS = ("sampled", "greedy", "tool_free")
"""How a question is answered: COUNT times at temperature 1; once by the likeliest tokens; and once so without any call."""
OPENING = "<answer>"

Played = list[Trajectory]


class Recorder:
    """Plays the questions of a file with a policy, and stores what came of them in a run's folder.

    Example:
        >>> Recorder(policy, Path("runs/x"), Path("runs/x/stream/tasks.jsonl"), 2000).record(print)     # doctest: +SKIP
        >>> read(Path("runs/x"), "sampled")["9f3c..."][0].answer                                        # doctest: +SKIP
        'K7P'
    """

    def __init__(self, policy: Path, root: Path, questions: Path, n: int) -> None:
        self.root, self.n = root, n
        config = replace(
            load(CONFIGS / "ttrl.toml", [f"name={root.name}", f"tasks.file={questions}", *HERE, *LONE]), start=str(policy)
        )
        self.config: RunConfig = config
        self.runner = Runner(config, root, None)

    def task(self, number: int) -> Task:
        """A question; nobody here knows its answer."""
        return self.runner.questions.task(number)

    def record(self, seen: Callable[[int], Any]) -> None:
        """Play what is not stored yet; `seen` is told how many questions are done. RuntimeError when infrastructure ends an
        episode for good."""
        for first in range(0, self.n, BLOCK):
            wanted = [way for way in WAYS if not _file(self.root, way, first).exists()]
            tasks = {i: self.task(i) for i in range(first, min(self.n, first + BLOCK))} if wanted else {}
            for way in wanted:
                groups = [Group(tasks[i].id, tuple(some)) for i, some in self._play(way, tasks).items()]
                broken = next((t.id for group in groups for t in group.trajectories if t.status == "infra"), None)
                if broken is not None:
                    raise RuntimeError(f"{self.root}: {broken} ended by infrastructure")
                path = _file(self.root, way, first)
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, encode(groups))
            seen(min(self.n, first + BLOCK))

    def _play(self, way: str, tasks: Mapping[int, Task]) -> dict[int, Played]:
        if way == "tool_free":
            return self._at_once(tasks)
        if way == "sampled":
            return self._worker(1.0, 0).explore(tasks, range(COUNT))
        return self._worker(0.0, 1).explore(tasks, range(1))

    def _worker(self, temperature: float, run: int) -> RolloutWorker:
        runner, rollout = self.runner, self.config.rollout
        settings = replace(rollout, limits=replace(rollout.limits, temperature=temperature))
        renderer = Renderer(runner.engine.model)
        return RolloutWorker(runner.questions, runner.toolbox, renderer, runner.engine, settings, run)  # type: ignore[arg-type]

    def _at_once(self, tasks: Mapping[int, Task]) -> dict[int, Played]:
        """Answers that are given at once: a turn begins with what opens an answer, so that there can be no call."""
        engine, renderer = self.runner.engine, Renderer(self.runner.engine.model)
        opening = tuple(renderer.encode(OPENING))
        prompts = {i: renderer.prompt(task, self.runner.store) for i, task in tasks.items()}
        told = engine.generate(
            [
                Request(
                    f"{task.id}/2/0",
                    (*prompts[i].tokens, *opening),
                    prompts[i].views,
                    (2, i, 0, 0),
                    self.config.rollout.limits.turn_tokens,
                    0.0,
                )
                for i, task in tasks.items()
            ]
        )
        engine.close(f"{task.id}/2/0" for task in tasks.values())
        found = {}
        for (i, task), said in zip(tasks.items(), told, strict=True):
            whole = (*opening, *said.tokens)
            roles, parsed = renderer.roles(whole)[len(opening) :], renderer.parse(whole)
            observed = (*prompts[i].tokens, *opening)
            turn = Turn(
                observed, said.tokens, said.logprobs, prompts[i].views, version=said.version, error=parsed.error, roles=roles
            )
            found[i] = [
                Trajectory(f"{task.id}/2/0", task.id, task.question, task.media, (turn,), parsed.answer, family=task.family)
            ]
        return found


def read(root: Path, way: str, n: int) -> dict[str, Played]:
    """What was stored of the first n questions, by their ids, in the order of the stream."""
    blocks = [_file(root, way, first) for first in range(0, n, BLOCK)]
    groups = [group for path in blocks for group in decode(path.read_bytes())]
    return {group.task_id: list(group.trajectories) for group in groups[:n]}


def sureness(trajectory: Trajectory) -> float:
    """Mean probability of the tokens of its answer, 0..1; 0 without one."""
    last = trajectory.turns[-1]
    told = [np.exp(log) for log, role in zip(last.logprobs, last.roles, strict=True) if role == "a"]
    return float(np.mean(told)) if told and trajectory.answer is not None else 0.0


def _file(root: Path, way: str, first: int) -> Path:
    return root / way / f"{first:06d}.arrow"
