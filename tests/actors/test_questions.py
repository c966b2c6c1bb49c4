"""Questions from a file: what is one, and what is told of what is none."""

import json
from pathlib import Path

import pytest

from pixelis.actors.questions import QuestionFile, TaskError
from pixelis.tools.measure import agrees
from pixelis.tools.media import MediaStore
from tests.fakes_media import avi, moving_square, plate, png

LINE = {"question": "What is written?", "media": ["plate.png"], "answer": "K7P"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plate.png").write_bytes(png(plate("K7P")))
    (tmp_path / "clip.avi").write_bytes(avi(moving_square(6)[0]))
    return tmp_path


def written(folder: Path, *lines: object) -> QuestionFile:
    path = folder / "tasks.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return QuestionFile(path, MediaStore())


def test_a_question_comes_with_its_media_and_its_key(folder: Path) -> None:
    clip = {"question": "When?", "media": [str(folder / "clip.avi")], "answer": "2", "answer_type": "number", "family": "when"}
    file = written(folder, {**LINE, "evidence": {"boxes": [[0, 0, 500, 500]], "texts": ["K7P"]}}, {**clip, "id": "mine"})
    first, second = file.gold(0), file.gold(1)
    assert (first.task.id, first.answer, first.split) == ("tasks/1", "K7P", "tasks")
    assert first.evidence.boxes == ((0, 0, 500, 500),)
    assert (second.task.id, second.task.family, second.task.answer_type) == ("mine", "when", "number")
    assert file.store.info(first.task.media[0]).kind == "image" and file.store.info(second.task.media[0]).kind == "clip"
    assert len(file) == file.answered == 2 and file.of == ("task", "when")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2 is not JSON"),
        ("", "line 2 is empty"),
        ("[1]", "line 2: the line: "),
        ({**LINE, "media": []}, "line 2: media: "),
        ({**LINE, "question": ""}, "line 2: question: "),
        ({**LINE, "question": "x" * 100_001}, "line 2: question: "),
        ({**LINE, "answer": 3}, "line 2: answer: "),
        ({**LINE, "anwser": "3"}, "line 2: anwser: "),
        ({**LINE, "answer_type": "essay"}, "line 2: answer_type: "),
        ({**LINE, "id": "one"}, "lines 1 and 2 have the same id 'one'"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_what_is_no_question_is_told_with_its_line(folder: Path, line: object, told: str) -> None:
    with pytest.raises(TaskError, match=rf"tasks\.jsonl: {told}"):
        written(folder, {**LINE, "id": "one"}, line)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"media": ["gone.png"]}, "No such file"),
        ({"media": ["tasks.jsonl"]}, "neither an image nor a clip"),
        ({"media": ["http://example.com/a.png"]}, "nothing is fetched"),
        ({"evidence": {"boxes": [[0, 0, 500, 1001]]}}, "outside 0..1000"),
        ({"evidence": {"colour": "red"}}, "colour"),
        ({"evidence": {"windows": [[0, 500]]}}, "of a still picture"),
        ({}, None),
        ({"answer": None}, None),
    ],
)
def test_media_and_evidence_are_looked_at_one_by_one(folder: Path, changes: dict[str, object], told: str | None) -> None:
    file = written(folder, LINE, {**LINE, **changes})
    assert file.check(0) is None
    found = file.check(1)
    assert found is None if told is None else told in str(found) and "line 2" in str(found)


def test_a_question_without_an_answer_cannot_be_scored(folder: Path) -> None:
    file = written(folder, {**LINE, "answer": None})
    assert file.answered == 0
    with pytest.raises(TaskError, match="line 1: no answer"):
        file.gold(0)


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff\xfe"])
def test_a_file_without_questions_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tasks.jsonl").write_bytes(data)
    with pytest.raises(TaskError, match=r"tasks\.jsonl: "):
        QuestionFile(tmp_path / "tasks.jsonl", MediaStore())


@pytest.mark.parametrize(
    ("said", "gold", "kind", "same"),
    [
        ("k7p ", "K7P", "text", True),
        ("3.0", "3", "number", True),
        ("1,200", "1200", "number", True),
        ("three", "3", "number", False),
        ("(B).", "b", "choice", True),
        ("C", "b", "choice", False),
        ("nan", "nan", "number", False),
    ],
)
def test_an_answer_agrees_by_its_kind(said: str, gold: str, kind: str, same: bool) -> None:
    assert agrees(said, gold, kind) is same
