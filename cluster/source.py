"""Where a run's questions come from: PixelWorld, or a file of the user's."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from pixelis.actors.questions import QuestionFile, TaskError
from pixelis.actors.tasks import Questions, TaskSource
from pixelis.actors.traces import TraceFile
from pixelis.actors.world import Split
from pixelis.cluster.config import ANY, ConfigError, RunConfig, TaskSettings
from pixelis.memory.task import GoldTask
from pixelis.tools.media import MediaStore


class Rounds:
    """The questions of a file by any index: after the last comes the first again, under a name of its own.

    Example: ``Rounds(file).gold(len(file)).task.id == f"{file.gold(0).task.id}@2"``
    """

    def __init__(self, file: QuestionFile) -> None:
        self.file, self.store = file, file.store

    def gold(self, index: int) -> GoldTask:
        """The question with its key. TaskError when its media cannot be used."""
        round_, place = divmod(index, len(self.file))
        gold = self.file.gold(place)
        return replace(gold, task=replace(gold.task, id=f"{gold.task.id}@{round_ + 1}")) if round_ else gold


def open_source(tasks: TaskSettings, split: Split, store: MediaStore) -> Questions:
    """What a run trains on."""
    if tasks.traces:
        return TraceFile(Path(tasks.traces), store)
    if tasks.file:
        return Rounds(QuestionFile(Path(tasks.file), store))
    return TaskSource(tasks.families, split, store, tasks.scenes)


def end(tasks: TaskSettings) -> int | None:
    """How many questions there are; None for no end."""
    if tasks.traces:
        return len(TraceFile(Path(tasks.traces), MediaStore()))
    return sum(tasks.scenes.values()) if tasks.scenes and not tasks.file else None


def looked_at(config: RunConfig) -> RunConfig:
    """The config with its file named by the whole path, once every line of it has been read.

    Raises: TaskError for a line that is none, for a medium that is not there, for a question without an answer; ConfigError
    for a mixture that wants families which the file has not.
    """
    tasks = config.tasks
    if not tasks.traces and not tasks.file:
        return config
    path = Path(tasks.traces or tasks.file).resolve()
    file = (TraceFile if tasks.traces else QuestionFile)(path, MediaStore())
    if tasks.traces:
        _mixable(config, file)
        return replace(config, tasks=replace(tasks, traces=str(path)))
    if file.answered < len(file):
        unknown = len(file) - file.answered
        raise TaskError(f"{path}: {unknown} of {len(file)} questions have no answer: RFT is rewarded for right ones")
    if missing := file.missing():
        raise TaskError(missing)
    return replace(config, tasks=replace(tasks, file=str(path)))


def _mixable(config: RunConfig, file: QuestionFile) -> None:
    wanted = dict.fromkeys(family for stage in config.replay.mixture for family, count in stage.batch.items() if count)
    unknown = [family for family in wanted if family not in (*file.of, ANY)]
    if unknown:
        has = ", ".join(f"{count} {family}" for family, count in Counter(file.of).items())
        raise ConfigError(
            f"replay.mixture: wants {', '.join(unknown)}, and {file.path} has {has}; train with the config `traces`, "
            "or add --set 'replay.mixture=[{batch={any=16}}]'"
        )
