"""Where a run's questions come from: PixelWorld, or a file of the user's."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

from pixelis.actors.questions import QuestionFile, TaskError, Unanswered
from pixelis.actors.tasks import Questions, TaskSource
from pixelis.actors.traces import TraceFile
from pixelis.actors.world import Split
from pixelis.cluster.config import ANY, ConfigError, Phase, RunConfig, TaskSettings
from pixelis.memory.task import GoldTask, Task
from pixelis.tools.media import MediaStore


class Rounds:
    """The questions of a file by any index: after the last comes the first again, under a name of its own.

    Example: ``Rounds(file).task(len(file)).id == f"{file.task(0).id}@2"``
    """

    def __init__(self, file: QuestionFile) -> None:
        self.file, self.store = file, file.store

    def gold(self, index: int) -> GoldTask:
        """The question with its key. TaskError when its media cannot be used."""
        gold = self.file.gold(index % len(self.file))
        return replace(gold, task=self._named(gold.task, index))

    def task(self, index: int) -> Task:
        """The question alone. TaskError when its media cannot be used."""
        return self._named(self.file.task(index % len(self.file)), index)

    def _named(self, task: Task, index: int) -> Task:
        round_ = index // len(self.file)
        return replace(task, id=f"{task.id}@{round_ + 1}") if round_ else task


def asked(tasks: TaskSettings, store: MediaStore) -> Rounds:
    """What TTRL asks: a file's questions without what it says of their answers."""
    return Rounds(Unanswered(Path(tasks.file), store))


def open_source(tasks: TaskSettings, split: Split, store: MediaStore) -> Questions:
    """What a run trains on that has labels or a teacher."""
    if tasks.traces:
        return TraceFile(Path(tasks.traces), store)
    if tasks.file:
        return Rounds(QuestionFile(Path(tasks.file), store))
    return TaskSource(tasks.families, split, store, tasks.scenes)


def end(tasks: TaskSettings, phase: Phase) -> int | None:
    """How many questions there are; None for no end."""
    if phase == "ttrl":
        return tasks.rounds * len(Unanswered(Path(tasks.file), MediaStore()))
    if tasks.traces:
        return len(TraceFile(Path(tasks.traces), MediaStore()))
    return sum(tasks.scenes.values()) if tasks.scenes and not tasks.file else None


def looked_at(config: RunConfig) -> RunConfig:
    """The config with its file named by the whole path, once every line of it has been read.

    TTRL ends with its file at the latest.

    Raises: TaskError for a line that is none, for a medium that is not there, for a question without an answer (RFT);
    ConfigError for a mixture that wants families which the file has not.
    """
    tasks = config.tasks
    if config.phase == "ttrl" and not tasks.file:
        raise ConfigError("phase ttrl needs questions: pixelis adapt POLICY tasks.jsonl, or --set tasks.file=tasks.jsonl")
    if not tasks.traces and not tasks.file:
        return config
    path = Path(tasks.traces or tasks.file).resolve()
    kind = TraceFile if tasks.traces else Unanswered if config.phase == "ttrl" else QuestionFile
    file = kind(path, MediaStore())
    if tasks.traces:
        _mixable(config, file)
        return replace(config, tasks=replace(tasks, traces=str(path)))
    if config.phase == "ttrl":
        steps = min(config.stop.steps, math.ceil(config.tasks.rounds * len(file) / config.rollout.groups))
        config = replace(config, stop=replace(config.stop, steps=steps))
        _averaged(config)
    elif file.answered < len(file):
        unknown = len(file) - file.answered
        raise TaskError(f"{path}: {unknown} of {len(file)} questions have no answer: RFT is rewarded for right ones")
    if missing := file.missing():
        raise TaskError(missing)
    return replace(config, tasks=replace(tasks, file=str(path)))


def _averaged(config: RunConfig) -> None:
    """ConfigError for an average that still is the start when the run ends."""
    settings = config.learner.ttrl
    if settings.anchor != "ema":
        return
    try:
        settings.ema.check(config.stop.steps)
    except ValueError as error:
        raise ConfigError(f"learner.ttrl.ema.{error}") from error


def _mixable(config: RunConfig, file: QuestionFile) -> None:
    wanted = dict.fromkeys(family for stage in config.replay.mixture for family, count in stage.batch.items() if count)
    unknown = [family for family in wanted if family not in (*file.of, ANY)]
    if unknown:
        has = ", ".join(f"{count} {family}" for family, count in Counter(file.of).items())
        raise ConfigError(
            f"replay.mixture: wants {', '.join(unknown)}, and {file.path} has {has}; train with the config `traces`, "
            "or add --set 'replay.mixture=[{batch={any=16}}]'"
        )
