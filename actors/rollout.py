"""A rollout worker: tasks in, scored groups of trajectories out. The teacher and the policy act through the same episode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from pixelis.actors.engine import Completion, Engine
from pixelis.actors.episode import Episode, Limits
from pixelis.actors.render import Renderer
from pixelis.actors.scene import Dialogue, Scene, echo
from pixelis.actors.score import Outcome, RewardSettings, outcome, reward
from pixelis.actors.tasks import TaskSource
from pixelis.actors.teacher import Style, Teacher, verify
from pixelis.actors.world import FAMILIES
from pixelis.memory.task import GoldTask, Task
from pixelis.memory.trajectory import Group, Trajectory, Turn
from pixelis.tools.call import ToolResult
from pixelis.tools.toolbox import Toolbox

TRIES = 3
"""Times that an episode is played which infrastructure ends, the first included."""


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How a worker acts."""

    group: int = 8
    """Rollouts a question."""
    limits: Limits = field(default_factory=Limits)
    reward: RewardSettings = field(default_factory=RewardSettings)
    style: Style = "tools"
    """How the teacher demonstrates: with tools, or `no_tools` for the control that answers at once."""


class RolloutWorker:
    """Runs episodes of one task source.

    Example:
        >>> groups = worker.sample(range(16))     # the policy: 16 groups of 8 rollouts     # doctest: +SKIP
        >>> groups = worker.recite(range(16))     # the teacher: demonstrations and captions # doctest: +SKIP
    """

    def __init__(
        self, source: TaskSource, toolbox: Toolbox, renderer: Renderer, engine: Engine, settings: RolloutSettings, run: int
    ) -> None:
        self.source, self.toolbox, self.renderer, self.engine = source, toolbox, renderer, engine
        self.settings, self.run = settings, run
        self.repeated = 0
        """Episodes begun again because infrastructure ended them."""

    def sample(self, indices: Sequence[int]) -> list[Group]:
        """One scored group for each task index. An episode that ended by infrastructure stays in it without rewards."""
        golds = {i: self.source.gold(i) for i in indices}
        limits = self.settings.limits
        episodes = self._play(
            [partial(self._episode, gold.task, i, k, limits) for i, gold in golds.items() for k in range(self.settings.group)]
        )
        size = self.settings.group
        return [
            Group(gold.task.id, tuple(self._scored(e, gold) for e in episodes[k * size : (k + 1) * size]))
            for k, gold in enumerate(golds.values())
        ]

    def evaluate(self, indices: Sequence[int]) -> tuple[list[Outcome], list[Trajectory]]:
        """Greedy episodes: their outcomes and trajectories. Those that ended by infrastructure are left out of both."""
        greedy = replace(self.settings.limits, temperature=0.0)
        golds = [self.source.gold(i) for i in indices]
        episodes = self._play([partial(self._episode, g.task, i, 0, greedy) for i, g in zip(indices, golds, strict=True)])
        whole = [(e, g) for e, g in zip(episodes, golds, strict=True) if e.status != "infra"]
        scored = [self._scored(e, g) for e, g in whole]
        return [outcome(t, g, e.workspace) for t, (e, g) in zip(scored, whole, strict=True)], scored

    def recite(self, indices: Sequence[int]) -> list[Group]:
        """Demonstrations and captions of some scenes, each a group of one. Those that fail their check are left out."""
        trajectories: list[Trajectory] = []
        for index in indices:
            rng = np.random.default_rng([self.run, index])
            demonstrated = self._demonstrate(index, rng)
            trajectories += [demonstrated] if demonstrated else []
            scene = self.source.scene(index)
            offered = FAMILIES[scene.family].captions(scene, rng)
            trajectories += [self._caption(scene, k, [*dialogue, echo(rng)]) for k, dialogue in enumerate(offered)]
        return [Group(t.task_id, (t,)) for t in trajectories]

    def _play(self, begin: Sequence[Callable[[], Episode]]) -> list[Episode]:
        """Play episodes to their ends. One that infrastructure ended begins again, with the same seed: were it only left out,
        long chains, which meet more failures, would be rarer than the policy makes them."""
        episodes = [make() for make in begin]
        play(episodes, self.engine)
        for _ in range(TRIES - 1):
            failed = [i for i, episode in enumerate(episodes) if episode.status == "infra"]
            self.repeated += len(failed)
            for i in failed:
                episodes[i] = begin[i]()
            play([episodes[i] for i in failed], self.engine)
        return episodes

    def _episode(self, task: Task, index: int, rollout: int, limits: Limits) -> Episode:
        seed = (self.run, index, rollout)
        return Episode(task, f"{task.id}/{self.run}/{rollout}", seed, self.toolbox, self.renderer, limits)

    def _scored(self, episode: Episode, gold: GoldTask) -> Trajectory:
        trajectory = episode.trajectory()
        if trajectory.status in ("infra", "cancelled"):
            return trajectory
        return replace(trajectory, rewards=reward(trajectory, gold, self.settings.reward))

    def _demonstrate(self, index: int, rng: np.random.Generator) -> Trajectory | None:
        """The teacher's episode through the real tools, or None if its evidence does not hold."""
        scene = self.source.scene(index)
        limits = replace(self.settings.limits, turn_tokens=10_000)
        episode = self._episode(scene.task.task, index, 0, limits)
        teacher = Teacher(scene, rng, self.settings.style)
        results: list[ToolResult] = []
        while not episode.over:
            step = teacher.next(episode.workspace, results)
            tokens = tuple(self.renderer.recite(step.thought, step.call, step.answer))
            result = episode.step(Completion(tokens, (0.0,) * len(tokens), (0, 0)))
            results += [result] if result is not None else []
        proven = self.settings.style == "no_tools" or verify(scene, results)
        return episode.trajectory() if proven else None

    def _caption(self, scene: Scene, number: int, dialogue: Dialogue) -> Trajectory:
        """A dialogue about a scene that needs no calls: it teaches where things are. The picture is shown once."""
        family = f"{scene.family}.caption"
        name = f"{scene.id}.caption{number}"
        task = replace(scene.task.task, id=name, question=dialogue[0][0], family=family)
        observed = self.renderer.prompt(task, self.source.store)
        turns: list[Turn] = []
        for question, text in dialogue:
            observed = self.renderer.ask(question) if turns else observed
            said = tuple(self.renderer.recite("", None, text))
            turns.append(Turn(observed.tokens, said, (0.0,) * len(said), observed.views))
        return Trajectory(task.id, task.id, task.question, task.media, tuple(turns), dialogue[-1][1], family=family)


def play(episodes: Sequence[Episode], engine: Engine) -> None:
    """Run episodes to their ends, sampling the next turn of all that go on together."""
    live = list(episodes)
    while live:
        for episode, completion in zip(live, engine.generate([e.request() for e in live]), strict=True):
            episode.step(completion)
        engine.close(e.name for e in live if e.over)
        live = [e for e in live if not e.over]
