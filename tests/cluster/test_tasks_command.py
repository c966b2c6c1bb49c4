"""Questions of one's own: looked over, and asked."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pixelis.cluster.cli import app
from tests.fakes_media import plate, png


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "plate.png").write_bytes(png(plate("K7P")))
    lines = [
        {"question": "What is the code on the red plate?", "media": ["plate.png"], "answer": "K7P", "family": "code"},
        {"question": "Where is it?", "media": ["plate.png"]},
    ]
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_a_file_is_counted_and_its_faults_are_told(file: Path) -> None:
    good = CliRunner().invoke(app, ["tasks", "check", str(file)])
    assert good.exit_code == 0
    assert "2 questions (1 code, 1 task), 1 with an answer, 0 that cannot be used" in good.stdout
    (file.parent / "plate.png").unlink()
    bad = CliRunner().invoke(app, ["tasks", "check", str(file)])
    assert bad.exit_code == 1 and "line 1: [Errno 2]" in bad.stderr and "2 that cannot be used" in bad.stdout


def test_an_answer_that_is_none_of_its_kind_is_told(file: Path) -> None:
    wrong = [("number", "three"), ("choice", "K7P"), ("text", " ")]
    lines = [{"question": "Which?", "media": ["plate.png"], "answer_type": kind, "answer": said} for kind, said in wrong]
    file.write_text("\n".join(map(json.dumps, lines)))
    bad = CliRunner().invoke(app, ["tasks", "check", str(file)])
    assert bad.exit_code == 1 and "3 that cannot be used" in bad.stdout
    assert "line 1: answer 'three' is no number" in bad.stderr and "line 2: answer 'K7P' is not the letter" in bad.stderr
    file.write_text(json.dumps({"question": " ", "media": ["plate.png"]}))
    assert "line 1: question: Value error, it is blank" in str(CliRunner().invoke(app, ["tasks", "check", str(file)]).exception)


@pytest.mark.slow
def test_a_policy_is_evaluated_on_them(file: Path, untrained: Path) -> None:
    words = ["eval", str(untrained), "--suite", str(file), "--n", "1", "--json"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    figures = json.loads(told.stdout)
    assert figures["suite"] == str(file) and figures["heldout"]["code"]["n"] == 1
    assert figures["heldout"]["all"]["success"] == 0  # it has learned nothing
