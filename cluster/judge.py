"""Judging: rollouts of questions without a key vote, with remembered episodes, until their vote is clear (paper 6.1 to 6.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pixelis.actors.rollout import RolloutWorker
from pixelis.actors.stream import Answer
from pixelis.learners.effort import more
from pixelis.learners.gate import judge
from pixelis.learners.judged import Judged
from pixelis.learners.remember import neighbours, remembered
from pixelis.learners.ttrl import TtrlSettings
from pixelis.learners.verdict import Verdict
from pixelis.learners.vote import Ballot, Neighbour, vote
from pixelis.memory.recall import EpisodeMemory
from pixelis.memory.remembered import Keys, Row
from pixelis.memory.select import Query
from pixelis.memory.task import Task
from pixelis.memory.trajectory import Group, Trajectory, Version


@dataclass(frozen=True, slots=True)
class Served:
    """One question: what is answered, what may be learned from it, and how it would be remembered.

    Example: Served(Answer("9f3c", "K7P", confidence=0.8), judged, row)
    """

    answer: Answer
    judged: Judged | None = None
    """None when infrastructure ended every rollout: then there is no answer either."""
    row: Row | None = None
    """Of an accepted question, for the episode memory."""


class Judge:
    """Asks questions, and knows nothing of their answers: it is given tasks, never golds.

    Example:
        >>> served = Judge(worker, memory, settings).serve({0: task}, (0, 12))      # doctest: +SKIP
        >>> served[0].answer.answer, served[0].judged.decision.accepted             # doctest: +SKIP
        ('K7P', True)
    """

    def __init__(self, worker: RolloutWorker, memory: EpisodeMemory | None, settings: TtrlSettings) -> None:
        self.worker, self.memory, self.settings = worker, memory, settings
        self.partial = 0
        """Questions whose neighbours were looked for while a shard of the memory was away."""

    def serve(self, tasks: Mapping[int, Task], version: Version) -> dict[int, Served]:
        """Answer some questions by their numbers, under the weights of `version`."""
        keys, found = self._recall(tasks, version)
        effort = self.settings.effort
        rollouts: dict[int, list[Trajectory]] = {index: [] for index in tasks}
        verdicts: dict[int, Verdict] = {}
        waiting = dict.fromkeys(tasks, effort.first)
        while waiting:
            for index, fresh in self._explore(tasks, waiting, rollouts).items():
                rollouts[index] += fresh
                ballots = _ballots(rollouts[index])
                if ballots:
                    verdicts[index] = vote(ballots, found[index], tasks[index].answer_type, self.settings.vote)
            wanted = {index: more(verdicts[index], effort) for index in waiting if index in verdicts}
            waiting = {index: count for index, count in wanted.items() if count}
        parts = {index: (rollouts[index], verdicts.get(index), keys.get(index)) for index in tasks}
        return {index: self._served(task, *parts[index]) for index, task in tasks.items()}

    def _explore(
        self, tasks: Mapping[int, Task], waiting: Mapping[int, int], rollouts: Mapping[int, Sequence[Trajectory]]
    ) -> dict[int, list[Trajectory]]:
        """As many rollouts more of each question as it waits for: together with those that have had, and want, as many."""
        fresh: dict[int, list[Trajectory]] = {}
        alike = dict.fromkeys((len(rollouts[index]), count) for index, count in waiting.items())
        for had, count in alike:
            some = {i: tasks[i] for i, wanted in waiting.items() if (len(rollouts[i]), wanted) == (had, count)}
            fresh |= self.worker.explore(some, range(had, had + count))
        return fresh

    def _recall(self, tasks: Mapping[int, Task], version: Version) -> tuple[dict[int, Keys], dict[int, tuple[Neighbour, ...]]]:
        """The keys of each question, and its neighbours. What weights later than these have led to is left out: a run that
        goes on from a checkpoint finds it in the memory, and the one that was not interrupted did not."""
        if self.memory is None or not tasks:
            return {}, dict.fromkeys(tasks, ())
        keys = self.memory.keys([task.question for task in tasks.values()], [task.media for task in tasks.values()])
        some = zip(keys, tasks.values(), strict=True)
        queries = [Query(k, t.question, t.answer_type, t.media, before=version[1]) for k, t in some]
        found = self.memory.search(queries)
        self.partial += sum(one.partial for one in found)
        return dict(zip(tasks, keys, strict=True)), dict(zip(tasks, map(neighbours, found), strict=True))

    def _served(self, task: Task, rollouts: list[Trajectory], verdict: Verdict | None, keys: Keys | None) -> Served:
        if verdict is None:
            return Served(Answer(task.id, None, abstained=True))
        decision = judge(verdict, self.settings.gate)
        judged = Judged.of(Group(task.id, tuple(rollouts)), verdict, decision)
        answer = Answer(task.id, verdict.answer, not decision.accepted, verdict.support)
        if keys is None or not decision.accepted or verdict.best is None:
            return Served(answer, judged)
        oldest = min(t.oldest_version for t in rollouts if t.turns)
        return Served(answer, judged, (remembered(task, _ballots(rollouts), verdict, decision, oldest), keys))


def _ballots(rollouts: Sequence[Trajectory]) -> list[Ballot]:
    return [Ballot.of(t) for t in rollouts if t.status not in ("infra", "cancelled")]
