"""Where a run's questions come from, looked at before anything starts."""

import json
from pathlib import Path

import pytest

from pixelis.actors.questions import TaskError
from pixelis.actors.tasks import TaskSource
from pixelis.actors.traces import TraceFile
from pixelis.cluster.config import ConfigError, RunConfig, load
from pixelis.cluster.source import Rounds, end, looked_at, open_source
from pixelis.tools.media import MediaStore
from tests.fakes_media import plate, png

ASKED = {"question": "What is written?", "media": ["plate.png"], "answer": "K7P", "family": "mine"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plate.png").write_bytes(png(plate("K7P")))
    (tmp_path / "tasks.jsonl").write_text((json.dumps(ASKED) + "\n") * 3)
    (tmp_path / "traces.jsonl").write_text((json.dumps({**ASKED, "version": 1, "steps": []}) + "\n") * 3)
    return tmp_path


def sft(*sets: str) -> RunConfig:
    return load("tiny_sft", ["tasks.traces=traces.jsonl", *sets])


def rft(*sets: str) -> RunConfig:
    return load("tiny_rft", ["tasks.file=tasks.jsonl", *sets])


def test_a_file_is_named_by_its_whole_path(folder: Path) -> None:
    assert looked_at(load("traces")).tasks.traces == str(folder / "traces.jsonl")
    assert looked_at(sft("replay.mixture=[{batch={mine=2}}]")).tasks.traces == str(folder / "traces.jsonl")
    assert looked_at(rft()).tasks.file == str(folder / "tasks.jsonl")
    assert looked_at(load("tiny_sft")) == load("tiny_sft")


def test_traces_end_and_questions_come_again(folder: Path) -> None:
    traces, asked, world = (config.tasks for config in (load("traces"), looked_at(rft()), load("tiny_sft")))
    assert (end(traces, "sft"), end(asked, "rft"), end(world, "sft")) == (3, None, 16)
    assert isinstance(open_source(traces, "demo", MediaStore()), TraceFile)
    assert isinstance(open_source(world, "demo", MediaStore()), TaskSource)
    source = open_source(asked, "demo", MediaStore())
    assert isinstance(source, Rounds)
    assert [source.gold(i).task.id for i in (0, 2, 3, 7)] == ["tasks/1", "tasks/3", "tasks/1@2", "tasks/2@3"]
    assert {source.gold(i).answer for i in range(7)} == {"K7P"}


def test_a_mixture_of_families_that_the_file_has_not_is_told_with_the_way_out(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"wants code\.caption, .*traces\.jsonl has 3 mine; .*any=16"):
        looked_at(sft())


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({**ASKED, "answer": None}, "1 of 4 questions have no answer"),
        ({**ASKED, "media": ["gone.png"]}, r"line 4: gone\.png: no such file"),
        ({"question": "?"}, "line 4: media: "),
    ],
)
def test_questions_that_cannot_be_rewarded_are_told(folder: Path, line: object, told: str) -> None:
    with (folder / "tasks.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(TaskError, match=told):
        looked_at(rft())


def test_a_file_goes_with_its_phase(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.traces: demonstrations are for phase sft"):
        rft("tasks.traces=traces.jsonl")
    with pytest.raises(ConfigError, match=r"tasks\.file: questions are for phases rft and ttrl, this is sft"):
        sft("tasks.file=tasks.jsonl")
    with pytest.raises(FileNotFoundError):
        looked_at(sft("tasks.traces=none.jsonl"))
