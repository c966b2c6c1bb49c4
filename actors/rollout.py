"""A rollout worker: tasks in, scored groups of trajectories out. The teacher and the policy act through the same episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from pixelis.actors.engine import Completion, Engine
from pixelis.actors.episode import Episode, Limits
from pixelis.actors.questions import TaskError
from pixelis.actors.render import Renderer
from pixelis.actors.scene import Dialogue, Scene, echo
from pixelis.actors.score import Outcome, RewardSettings, costs, outcome, reward
from pixelis.actors.tasks import Questions, TaskSource
from pixelis.actors.teacher import Speaker, Step, Style, Teacher
from pixelis.actors.traces import Reciter, TraceFile
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


@dataclass(slots=True)
class Lesson:
    """A demonstration on its way: a teacher, or a written trace, speaks in place of the policy."""

    name: str
    """For people: a scene's, or where a trace stands."""
    speaker: Speaker
    episode: Episode
    steps: list[Step] = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)

    def next(self, renderer: Renderer) -> Completion:
        """The speaker's next turn."""
        step = self.speaker.next(self.episode.workspace, self.results)
        self.steps.append(step)
        tokens = tuple(renderer.recite(step.thought, step.call, step.answer))
        return Completion(tokens, (0.0,) * len(tokens), (0, 0))

    def fault(self, renderer: Renderer) -> str | None:
        """Why nothing may be learned from it; None when all is as it was meant to be."""
        for number, (step, turn) in enumerate(zip(self.steps, self.episode.turns, strict=True), 1):
            if not renderer.writes(turn.sampled, step.call, step.answer):
                return f"step {number}: the policy's tokens cannot spell it"
        if self.episode.status == "over_budget":
            return f"step {len(self.steps)}: one call more than rollout.limits.calls allows"
        return self.speaker.fault(self.episode.workspace, self.results)

    def trajectory(self) -> Trajectory:
        """What was played; turns that show an error are marked as such, token for token."""
        whole = self.episode.trajectory()
        marked = [replace(t, roles="x" * len(t.roles)) if i in self.speaker.erroneous else t for i, t in enumerate(whole.turns)]
        return replace(whole, turns=tuple(marked))


class RolloutWorker:
    """Runs episodes of one task source.

    Example:
        >>> groups = worker.sample(range(16))     # the policy: 16 groups of 8 rollouts     # doctest: +SKIP
        >>> groups = worker.recite(range(16))     # the teacher: demonstrations and captions # doctest: +SKIP
    """

    def __init__(
        self, source: Questions, toolbox: Toolbox, renderer: Renderer, engine: Engine, settings: RolloutSettings, run: int
    ) -> None:
        self.source, self.toolbox, self.renderer, self.engine = source, toolbox, renderer, engine
        self.settings, self.run = settings, run
        self.repeated = 0
        """Episodes begun again because infrastructure ended them."""
        self.refused: list[str] = []
        """Traces that were left out, and why."""

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

    def explore(self, tasks: Mapping[int, Task], rollouts: range) -> dict[int, list[Trajectory]]:
        """Rollouts of questions that nobody has the key of, by the questions' numbers: rewarded with what they cost, no more.

        `rollouts` are the numbers of those of each question: more of them can follow, and no two sample alike.
        """
        numbered = [(index, k) for index in tasks for k in rollouts]
        limits = self.settings.limits
        episodes = self._play([partial(self._episode, tasks[index], index, k, limits) for index, k in numbered])
        found: dict[int, list[Trajectory]] = {index: [] for index in tasks}
        for (index, _), episode in zip(numbered, episodes, strict=True):
            whole = episode.trajectory()
            voted = whole.status not in ("infra", "cancelled")
            found[index].append(replace(whole, rewards=costs(whole, self.settings.reward)) if voted else whole)
        return found

    def evaluate(self, indices: Sequence[int]) -> tuple[list[Outcome], list[Trajectory]]:
        """Greedy episodes: their outcomes and trajectories. Those that ended by infrastructure are left out of both."""
        greedy = replace(self.settings.limits, temperature=0.0)
        golds = [self.source.gold(i) for i in indices]
        episodes = self._play([partial(self._episode, g.task, i, 0, greedy) for i, g in zip(indices, golds, strict=True)])
        whole = [(e, g) for e, g in zip(episodes, golds, strict=True) if e.status != "infra"]
        scored = [self._scored(e, g) for e, g in whole]
        return [outcome(t, g, e.workspace) for t, (e, g) in zip(scored, whole, strict=True)], scored

    def recite(self, indices: Sequence[int]) -> list[Group]:
        """Demonstrations, of scenes with captions, each a group of one. Those that fail their check are left out."""
        trajectories: list[Trajectory] = []
        for lesson in self._demonstrate([one for index in indices for one in self._lessons(index)]):
            fault, speaker = lesson.fault(self.renderer), lesson.speaker
            trajectories += [] if fault else [lesson.trajectory()]
            if isinstance(speaker, Teacher):
                offered = FAMILIES[speaker.scene.family].captions(speaker.scene, speaker.rng)
                trajectories += [self._caption(speaker.scene, k, [*d, echo(speaker.rng)]) for k, d in enumerate(offered)]
            elif fault:
                self.refused.append(f"{lesson.name}: {fault}")
        return [Group(t.task_id, (t,)) for t in trajectories]

    def _play(self, begin: Sequence[Callable[[], Episode]]) -> list[Episode]:
        """Play episodes to their ends. One that infrastructure ended begins again, with the same seed: were it only left out,
        long chains, which meet more failures, would be rarer than the policy makes them."""
        episodes = [make() for make in begin]
        play(episodes, self.engine, self.toolbox)
        for _ in range(TRIES - 1):
            failed = [i for i, episode in enumerate(episodes) if episode.status == "infra"]
            self.repeated += len(failed)
            for i in failed:
                episodes[i] = begin[i]()
            play([episodes[i] for i in failed], self.engine, self.toolbox)
        return episodes

    def _episode(self, task: Task, index: int, rollout: int, limits: Limits) -> Episode:
        seed = (self.run, index, rollout)
        return Episode(task, f"{task.id}/{self.run}/{rollout}", seed, self.source.store, self.renderer, limits)

    def _scored(self, episode: Episode, gold: GoldTask) -> Trajectory:
        trajectory = episode.trajectory()
        if trajectory.status in ("infra", "cancelled"):
            return trajectory
        return replace(trajectory, rewards=reward(trajectory, gold, self.settings.reward))

    def _lessons(self, index: int) -> list[Lesson]:
        """The demonstration of an index; none where a trace's media cannot be used."""
        if isinstance(self.source, TraceFile):
            line = self.source.order[index]
            try:
                trace = self.source.trace(line)
            except TaskError as error:
                self.refused.append(str(error))
                return []
            return [self._lesson(self.source.where(line), trace.gold.task, index, Reciter(trace))]
        assert isinstance(self.source, TaskSource)  # plain questions come without a teacher
        scene, rng = self.source.scene(index), np.random.default_rng([self.run, index])
        return [self._lesson(scene.id, scene.task.task, index, Teacher(scene, rng, self.settings.style))]

    def _lesson(self, name: str, task: Task, index: int, speaker: Speaker) -> Lesson:
        limits = replace(self.settings.limits, turn_tokens=10_000)
        return Lesson(name, speaker, self._episode(task, index, 0, limits))

    def _demonstrate(self, lessons: list[Lesson]) -> list[Lesson]:
        """Play the teacher's episodes through the real tools, turn by turn together."""
        live = lessons
        while live:
            results = turn([one.episode for one in live], [one.next(self.renderer) for one in live], self.toolbox)
            for one, result in zip(live, results, strict=True):
                one.results += [result] if result is not None else []
            live = [one for one in live if not one.episode.over]
        return lessons

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
            roles = self.renderer.roles(said)
            turns.append(Turn(observed.tokens, said, (0.0,) * len(said), observed.views, roles=roles))
        return Trajectory(task.id, task.id, task.question, task.media, tuple(turns), dialogue[-1][1], family=family)


def play(episodes: Sequence[Episode], engine: Engine, toolbox: Toolbox) -> None:
    """Run episodes to their ends: the next turn of all that go on is sampled together, and so are their calls run."""
    live = list(episodes)
    while live:
        turn(live, engine.generate([e.request() for e in live]), toolbox)
        engine.close(e.name for e in live if e.over)
        live = [e for e in live if not e.over]


def turn(episodes: Sequence[Episode], said: Sequence[Completion], toolbox: Toolbox) -> list[ToolResult | None]:
    """One turn of each episode: what was said is taken, all calls are run at once; returns their results."""
    calls = [episode.take(completion) for episode, completion in zip(episodes, said, strict=True)]
    done = iter(toolbox.run_all([(e.workspace, call) for e, call in zip(episodes, calls, strict=True) if call]))
    results = [next(done) if call else None for call in calls]
    for episode, result in zip(episodes, results, strict=True):
        episode.give(result)
    return results
