"""A stream of questions as test-time adaptation is given them: a folder that knows no answers, and, elsewhere, its key.

The folder holds `tasks.jsonl` and `media/`. Ids are drawn at random and media named by their bytes: nothing in it leads to
a scene's seed. Answers are scored by who has the key, after they were given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pixelis.actors.scene import Scene
from pixelis.actors.shift import Shift
from pixelis.actors.tasks import turn
from pixelis.actors.world import make_scene
from pixelis.memory.log import replace_file
from pixelis.memory.task import AnswerType
from pixelis.tools.measure import agrees

FIRST = 1_000_000
"""Streams are of the split `rft` from this scene of each family on: farther than any training has come."""
SUFFIXES = {b"\xff\xd8": "jpg", b"RI": "avi"}
"""Names of media by their first bytes."""


class StreamError(ValueError):
    """A key or a file of answers that cannot be used; the message names the line."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a stream under one shift. Example: Part(Shift("lighting", 0.7), 1200)"""

    shift: Shift
    n: int
    """Questions of all families together."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of one question of a stream. Example: Key("9f3c...", "K7P", "text", "code", "lighting:0.7")"""

    id: str
    answer: str
    answer_type: AnswerType
    family: str
    shift: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, in the order of the stream. Example: Answer("9f3c...", "K7P", abstained=False, confidence=0.8)"""

    id: str
    answer: str | None
    abstained: bool = False
    confidence: float = 0.0
    """0..1: what is given out with most of it is wrong least often."""


def write(
    folder: Path, key: Path, families: Sequence[str], parts: Sequence[Part], seed: int, seen: Callable[[int], Any] = int
) -> None:
    """Render a stream: the families in turns, one part after another, no scene twice.

    `seed` decides which scenes and ids; `seen` is told how many are done. FileExistsError when the folder is not empty.
    """
    (folder / "media").mkdir(parents=True, exist_ok=True)
    if (folder / "tasks.jsonl").exists():
        raise FileExistsError(f"{folder} holds a stream already")
    names = np.random.default_rng([seed, 1])
    lines, keys = list[str](), list[str]()
    for scene, shift in _scenes(families, parts, seed):
        name = names.bytes(8).hex()
        medium = Path("media") / f"{scene.source}.{SUFFIXES[scene.media[:2]]}"
        (folder / medium).write_bytes(scene.media)
        task = scene.task.task
        asked = {"id": name, "question": task.question, "media": [str(medium)], "answer_type": task.answer_type}
        lines.append(json.dumps({**asked, "family": task.family}))
        keys.append(json.dumps(asdict(Key(name, scene.answer, task.answer_type, task.family, str(shift)))))
        seen(len(lines))
    key.parent.mkdir(parents=True, exist_ok=True)
    replace_file(key, "".join(f"{line}\n" for line in keys).encode())
    replace_file(folder / "tasks.jsonl", "".join(f"{line}\n" for line in lines).encode())


def _scenes(families: Sequence[str], parts: Sequence[Part], seed: int) -> Iterator[tuple[Scene, Shift]]:
    """A stretch of scenes for each seed: a million of them lie between two."""
    first = FIRST * (1 + seed) * len(families)
    for part in parts:
        for index in range(first, first + part.n):
            family, number = turn(families, index)
            yield make_scene(family, "rft", number, part.shift), part.shift
        first += part.n


@dataclass(frozen=True, slots=True)
class Score:
    """What the answers to a stream, or to a stretch of it, came to.

    Example:
        >>> score([Key("a", "K7P", "text", "code")], [Answer("a", "K7P", confidence=0.9)]).success
        1.0
    """

    n: int
    success: float
    """Of all questions; one without an answer is wrong."""
    coverage: float
    """Share of the questions that were not abstained from."""
    err_at_sel: float
    """Share of wrong answers among those (Err@Sel); 0 where there are none."""


def score(keys: Sequence[Key], answers: Sequence[Answer]) -> Score:
    """Compare answers with their keys. StreamError for an answer without one, or two to a question."""
    right, kept = marks(keys, answers)
    wrong = [not one for one, selected in zip(right, kept, strict=True) if selected]
    n = len(right)
    return Score(n, sum(right) / max(1, n), sum(kept) / max(1, n), sum(wrong) / max(1, len(wrong)))


def marks(keys: Sequence[Key], answers: Sequence[Answer]) -> tuple[list[bool], list[bool]]:
    """Of each answer whether it is right, and whether it was selected (not abstained from)."""
    known = {key.id: key for key in keys}
    twice = len(answers) - len({one.id for one in answers})
    strange = next((one.id for one in answers if one.id not in known), None)
    if twice or strange is not None:
        raise StreamError(f"{twice} questions were answered twice" if twice else f"no question {strange!r} in the key")
    right = [one.answer is not None and agrees(one.answer, known[one.id].answer, known[one.id].answer_type) for one in answers]
    return right, [not one.abstained for one in answers]


def read_keys(path: Path) -> list[Key]:
    """The key that `write` left. StreamError names a line that is none."""
    return [_as(Key, path, number, line) for number, line in enumerate(path.read_text().splitlines(), 1)]


def read_answers(path: Path) -> list[Answer]:
    """A file of answers, one JSON object a line. StreamError names a line that is none."""
    return [_as(Answer, path, number, line) for number, line in enumerate(path.read_text().splitlines(), 1)]


def _as(kind: Any, path: Path, number: int, line: str) -> Any:
    try:
        return kind(**json.loads(line))
    except (TypeError, ValueError) as error:
        raise StreamError(f"{path}: line {number} is no {kind.__name__.lower()}: {error}") from error
