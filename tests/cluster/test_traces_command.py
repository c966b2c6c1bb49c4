"""`pixelis traces`: made, played, counted, taken over."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pixelis.cluster.cli import app
from tests.fakes_media import plate, png


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["traces", *map(str, words)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations of PixelWorld."""
    folder = tmp_path_factory.mktemp("traces") / "demo"
    assert run("example", folder, "--n", 2).exit_code == 0
    return folder / "traces.jsonl"


def test_an_example_passes_its_own_check(made: Path) -> None:
    told = run("check", made)
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("2 traces, ") and "2 pass, 0 must not be learned from" in told.stdout
    again = run("example", made.parent)
    assert again.exit_code and "is there already" in str(again.exception)


def test_each_that_fails_is_told_with_its_line_and_why(made: Path) -> None:
    first, second = (json.loads(line) for line in made.read_text().splitlines())
    first["steps"][0]["observation"] = {"ok": False}
    second["media"] = ["gone.avi"]
    path = made.with_name("bad.jsonl")
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    told = run("check", path)
    assert told.exit_code == 1 and "0 pass, 2 must not be learned from" in told.stdout
    assert "bad.jsonl: line 1: step 1: " in told.stderr and "bad.jsonl: line 2: [Errno 2]" in told.stderr


def test_a_file_is_counted(made: Path) -> None:
    told = run("stats", made)
    assert told.exit_code == 0
    rows = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in told.stdout.splitlines() if line.count("│") == 4}
    lines = [json.loads(line) for line in made.read_text().splitlines()]
    steps = [step for line in lines for step in line["steps"]]
    assert (rows["traces"], rows["calls"], rows["erroneous"]) == ("2", str(len(steps)), "0")
    assert rows["OCR"] == str(sum(step["call"]["name"] == "OCR" for step in steps))
    assert rows["family code"] == rows["family clip"] == "1" and rows["answer text"] == "2"


def test_what_is_taken_over_is_written_and_what_is_not_is_told(tmp_path: Path) -> None:
    (tmp_path / "plate.png").write_bytes(png(plate("K7P")))
    asked = {"role": "user", "content": [{"type": "image", "image": "plate.png"}, {"type": "text", "text": "What code?"}]}
    call = {"function": {"name": "OCR", "arguments": '{"on": "img0"}'}}
    good = [asked, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": ""}]
    records = [{"messages": [*good, {"role": "assistant", "content": "K7P"}]}, {"messages": good}]
    source, out = tmp_path / "chat.jsonl", tmp_path / "traces.jsonl"
    source.write_text("\n".join(map(json.dumps, records)))
    told = run("import", source, out, "--format", "chat")
    assert told.exit_code == 1 and "1 traces, 1 of 2 records left out" in told.stdout
    assert "chat.jsonl: line 2: the last message calls a tool" in told.stderr
    assert run("check", out).exit_code == 0
    for words, why in (((source, source), "is the source itself"), ((out, tmp_path / "none"), "none of 1 records")):
        refused = run("import", *words, "--format", "chat")
        assert refused.exit_code and why in str(refused.exception)
    assert "unknown; known: pixel-reasoner, chat" in str(run("import", source, out, "--format", "alpaca").exception)
