"""Streams: what is in the folder that adaptation gets, what is not, and how answers are scored."""

import json
from pathlib import Path

import pytest

from pixelis.actors import stream
from pixelis.actors.questions import QuestionFile
from pixelis.actors.shift import Shift
from pixelis.actors.stream import Answer, Key, Part, Score, StreamError
from pixelis.tools.media import MediaStore

PARTS = (Part(Shift("lighting", 0.5), 5), Part(Shift("noise", 0.5), 3))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Key]]:
    root = tmp_path_factory.mktemp("stream")
    stream.write(root / "asked", root / "away" / "key.jsonl", ("code", "clip"), PARTS, seed=3)
    return root / "asked", stream.read_keys(root / "away" / "key.jsonl")


def test_every_question_can_be_asked_and_none_is_asked_twice(written: tuple[Path, list[Key]]) -> None:
    folder, keys = written
    file = QuestionFile(folder / "tasks.jsonl", MediaStore())
    tasks = [file.task(i) for i in range(len(file))]
    assert [task.id for task in tasks] == [key.id for key in keys] and len({task.media for task in tasks}) == 8
    assert [task.family for task in tasks] == ["code", "clip"] * 4 == [key.family for key in keys]
    assert [key.shift for key in keys] == ["lighting:0.5"] * 5 + ["noise:0.5"] * 3


def test_the_folder_holds_no_answer_and_nothing_that_leads_to_one(written: tuple[Path, list[Key]]) -> None:
    folder, keys = written
    lines = [json.loads(line) for line in (folder / "tasks.jsonl").read_text().splitlines()]
    assert all(line.keys() == {"id", "question", "media", "answer_type", "family"} for line in lines)
    text = (folder / "tasks.jsonl").read_text()
    assert not any(key.answer in line["question"] or f'"{key.answer}"' in text for key, line in zip(keys, lines, strict=True))
    stems = {Path(name).stem for line in lines for name in line["media"]}
    assert {path.stem for path in (folder / "media").iterdir()} == stems and all(len(stem) == 64 for stem in stems)
    assert {path.name for path in folder.iterdir()} == {"tasks.jsonl", "media"}


def test_other_seeds_are_other_scenes_and_names_and_the_same_seed_is_the_same_stream(tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []
    for number, seed in enumerate((0, 0, 1)):
        stream.write(tmp_path / f"{number}", tmp_path / f"{number}.key", ("code",), (Part(Shift(), 2),), seed)
        asked.append(tuple((tmp_path / f"{number}" / "tasks.jsonl").read_text().splitlines()))
    assert asked[0] == asked[1] and not set(asked[0]) & set(asked[2])
    with pytest.raises(FileExistsError, match="holds a stream already"):
        stream.write(tmp_path / "0", tmp_path / "0.key", ("code",), (Part(Shift(), 2),), 0)


def test_a_score_counts_what_was_abstained_from_as_asked_but_not_as_selected() -> None:
    keys = [Key(name, "K7P", "text", "code") for name in "abcd"]
    told = [Answer("a", "k7p "), Answer("b", "K7A"), Answer("c", "K7P", abstained=True), Answer("d", None, abstained=True)]
    assert stream.score(keys, told) == Score(4, 0.5, 0.5, 0.5)
    permuted = [Key(key.id, answer, "text", "code") for key, answer in zip(keys, ("K7A", "K7P", "AAA", "K7P"), strict=True)]
    assert stream.score(permuted, told).success == 0.0
    assert stream.score(keys, []) == Score(0, 0.0, 0.0, 0.0)


def test_foreign_and_repeated_answers_and_broken_lines_are_told(tmp_path: Path) -> None:
    keys = [Key("a", "K7P", "text", "code")]
    with pytest.raises(StreamError, match="no question 'b' in the key"):
        stream.score(keys, [Answer("b", "K7P")])
    with pytest.raises(StreamError, match="answered twice"):
        stream.score(keys, [Answer("a", "K7P"), Answer("a", "K7A")])
    (tmp_path / "answers.jsonl").write_text('{"id": "a", "answer": "K7P"}\n{"id": "a", "said": "K7P"}\n')
    with pytest.raises(StreamError, match="line 2 is no answer"):
        stream.read_answers(tmp_path / "answers.jsonl")
