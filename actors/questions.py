"""Questions from a file: tasks.jsonl, one JSON object a line, with media beside it (docs/tasks.md)."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pixelis.memory.task import AnswerType, Evidence, GoldTask, Task
from pixelis.tools.media import MediaError, MediaStore

LONGEST = 100_000
"""Characters of a question."""


class TaskError(ValueError):
    """A file of questions that cannot be used; the message names the line and what is wrong with it."""


class Line(BaseModel):
    """One line: a question, and what is known of its answer.

    Example: Line(question="How many cups?", media=["cups.jpg"], answer_type="number", answer="3")
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    question: str = Field(min_length=1, max_length=LONGEST)
    media: list[str] = Field(min_length=1)
    """Paths, beside the file or absolute; the first is img0."""
    answer_type: AnswerType = "text"
    answer: str | None = None
    """None where nobody knows it: such a question can be adapted to, but not scored."""
    evidence: dict[str, Any] = Field(default_factory=dict)
    """Where it can be seen: see `memory.task.Evidence`."""
    id: str = ""
    family: str = "task"

    @field_validator("question")
    @classmethod
    def _asks(cls, question: str) -> str:
        if not question.strip():
            raise ValueError("it is blank")
        return question


LineT = TypeVar("LineT", bound=Line)


class QuestionFile:
    """The questions of a file by index; media go to the store when a question is asked.

    Raises: TaskError for the first line that is not one, or when two have the same id.

    Example:
        >>> QuestionFile(Path("tasks.jsonl"), MediaStore()).gold(0).answer     # doctest: +SKIP
        '3'
    """

    kind: ClassVar[type[Line]] = Line
    """What a line is."""

    def __init__(self, path: Path, store: MediaStore) -> None:
        self.path, self.store = path, store
        self._lines = read(path, self.kind)
        self.of = tuple(line.family for line in self._lines)
        """The family of each."""
        self.gold = lru_cache(maxsize=256)(self._gold)

    def __len__(self) -> int:
        return len(self._lines)

    def _gold(self, index: int) -> GoldTask:
        """The question with its key. TaskError when there is none, or its media or its evidence cannot be used."""
        line = self._lines[index]
        if line.answer is None:
            raise TaskError(f"{self.where(index)}: no answer, so it cannot be scored")
        task, evidence = self._checked(index, self.store)
        return GoldTask(task, line.answer, evidence, split=self.path.stem)

    def task(self, index: int) -> Task:
        """The question alone. TaskError when its media cannot be used."""
        return self._checked(index, self.store)[0]

    def where(self, index: int) -> str:
        """The file and the line of a question."""
        return f"{self.path}: line {index + 1}"

    @property
    def answered(self) -> int:
        """How many have an answer."""
        return sum(line.answer is not None for line in self._lines)

    def missing(self) -> str | None:
        """The first medium that is not there; nothing is read of those that are."""
        for index, line in enumerate(self._lines):
            for name in line.media:
                if not (self.path.parent / name).is_file():
                    return f"{self.where(index)}: {name}: no such file"
        return None

    def check(self, index: int) -> str | None:
        """What is wrong with a question's media, its evidence or the kind of its answer; nothing is kept of them."""
        try:
            self._checked(index, MediaStore(limits=self.store.limits))
        except TaskError as error:
            return str(error)
        line = self._lines[index]
        wrong = mistyped(line.answer, line.answer_type) if line.answer is not None else None
        return wrong and f"{self.where(index)}: {wrong}"

    def _checked(self, index: int, store: MediaStore) -> tuple[Task, Evidence]:
        line, where = self._lines[index], self.where(index)
        try:
            places = [name if ":/" in name else self.path.parent / name for name in line.media]  # an address is told as one
            media = tuple(store.add_file(place) for place in places)
            infos = [store.info(sha) for sha in media]
            evidence = Evidence.from_dict(line.evidence)
        except (OSError, MediaError, TypeError, ValueError) as error:
            raise TaskError(f"{where}: {error}") from error
        if infos[0].kind == "image" and (evidence.windows or evidence.tracks):
            raise TaskError(f"{where}: windows and tracks of a still picture")
        name = line.id or f"{self.path.stem}/{index + 1}"
        return Task(name, line.question, media, line.answer_type, line.family), evidence


class Unanswered(QuestionFile):
    """The questions of a file for who must not know their answers: these, and evidence, are dropped as the lines are read.

    Example:
        >>> Unanswered(Path("tasks.jsonl"), MediaStore()).task(0).question     # doctest: +SKIP
        'How many cups?'
    """

    def __init__(self, path: Path, store: MediaStore) -> None:
        super().__init__(path, store)
        self._lines = [line.model_copy(update={"answer": None, "evidence": {}}) for line in self._lines]


def mistyped(answer: str, kind: AnswerType) -> str | None:
    """Why an answer is none of its type.

    Example:
        >>> mistyped("three", "number"), mistyped("1,200", "number"), mistyped("(b)", "choice")
        ("answer 'three' is no number", None, None)
    """
    if kind == "choice":
        letter = answer.strip(" ().:")
        return None if len(letter) == 1 and letter.isalpha() else f"answer {answer!r} is not the letter of a choice"
    if kind == "number":
        try:
            return None if math.isfinite(float(answer.replace(",", ""))) else f"answer {answer!r} is no finite number"
        except ValueError:
            return f"answer {answer!r} is no number"
    return None if answer.strip() else "the answer is blank"


def read(path: Path, kind: type[LineT]) -> list[LineT]:
    """The lines of a file. TaskError for the first that is none of this kind, or when two have the same id."""
    lines: list[LineT] = []
    ids: dict[str, int] = {}
    for number, text in enumerate(_text(path).removesuffix("\n").split("\n"), 1):  # JSON may hold what else splits lines
        if not text.strip():
            raise TaskError(f"{path}: line {number} is empty")
        try:
            line = kind.model_validate(json.loads(text))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the line"
            raise TaskError(f"{path}: line {number}: {place}: {first['msg']}") from error
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{path}: line {number} is not JSON: {error}") from error
        if line.id and line.id in ids:
            raise TaskError(f"{path}: lines {ids[line.id]} and {number} have the same id {line.id!r}")
        ids[line.id] = number
        lines.append(line)
    return lines


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 text: {error}") from error
    if not text.strip():
        raise TaskError(f"{path}: no line in it")
    return text
