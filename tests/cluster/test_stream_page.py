"""Test-time training in a report: what is not known is not said, and what is there is shown."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pixelis.actors.stream import Answer, Key
from pixelis.cluster.config import CONFIGS, dump, load
from pixelis.cluster.report import write_report
from pixelis.cluster.stream import command
from pixelis.cluster.stream_page import Told
from pixelis.memory.journal import Accepted, Journal, JournalError
from tests.memory.test_journal import ENTRIES

N = 40
KEYS = [Key(f"q{i}", f"K{i}P", "text", ("code", "clip")[i % 2], "lighting:0.5") for i in range(N)]
ANSWERS = [Answer(k.id, k.answer if i % 4 else "E4E", i % 3 == 0, 0.5 + i / 100) for i, k in enumerate(KEYS)]
SURE = sum(not one.abstained for one in ANSWERS)


def line(step: int, **more: float) -> dict:
    kl = {"kl_k3_policy_to_ema_token_mean": 0.01 * step, "kl_exact_policy_to_ema_probes": 0.02 * step, "kl_window": 0.01}
    return {"phase": "ttrl", "step": step, "skipped": 0.0, **kl, **more}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of test-time training alone, which nobody has scored; its last update was discarded, and one accepted nothing."""
    root = tmp_path / "adapt"
    root.mkdir()
    (root / "config-ttrl.toml").write_text(dump(load(CONFIGS / "ttrl.toml")))
    lines = [*map(line, range(1, 9)), {"phase": "ttrl", "step": 9, "skipped": 1.0}, line(10, skipped=1.0, discarded=1.0)]
    (root / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    (root / "answers.jsonl").write_text("".join(json.dumps(asdict(one)) + "\n" for one in ANSWERS))
    journal = Journal(root / "journal.jsonl")
    for entry in ENTRIES:
        journal.write(entry)
    journal.close()
    return root


@pytest.fixture
def scored(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The same, scored."""
    key = tmp_path / "key.jsonl"
    key.write_text("".join(json.dumps(asdict(one)) + "\n" for one in reversed(KEYS)))
    command(run / "answers.jsonl", key, True)
    assert json.loads(capsys.readouterr().out)["all"]["success"] == 0.75
    return run


def images(html: str) -> int:
    return len(re.findall("<img ", html))


def test_without_a_key_nothing_is_said_of_what_is_right(run: Path) -> None:
    html = write_report(run).read_text()
    assert f"<b>{SURE / N:.1%}</b><span>answered for sure, of {N} questions" in html
    assert "Nobody has scored the answers" in html and "corridor" not in html  # it is drawn, not written
    assert not any(word in html for word in ("risk-coverage", "answered right", "wrong among", "Before and after"))


def test_a_score_shows_what_is_right(run: Path, scored: Path) -> None:
    html = write_report(scored).read_text()
    wrong = sum(i % 4 == 0 for i, one in enumerate(ANSWERS) if not one.abstained) / SURE
    assert "<b>75.0%</b><span>answered right" in html and f"<b>{wrong:.1%}</b><span>wrong among" in html
    assert "risk-coverage" in html and "first quarter" in html and "Nobody has scored" not in html


def test_marks_stand_in_the_order_of_the_answers(scored: Path) -> None:
    told = Told.of(scored)
    assert told.right == tuple(bool(i % 4) for i in range(N)) and len(told.answers) == N


def test_what_was_decided_is_counted_with_its_reasons(run: Path) -> None:
    html = write_report(run).read_text()
    assert "canary 0.71 after 0.76 (1)" in html and "canary: größer (1)" in html and "margin (1)" in html
    kept = sum(isinstance(entry, Accepted) for entry in ENTRIES)
    assert f"<b>{kept}</b><span>updates kept" in html


def test_success_before_and_after_is_shown_by_shift(run: Path) -> None:
    before = images(write_report(run).read_text())
    three = {name: {"n": 100, "success": 0.5} for name in ("all", "code", "clip")}
    better = {name: {"n": 100, "success": 0.625} for name in three}
    shifts = {"clean": {"before": three, "after": three}, "noise:0.3": {"before": three, "after": better}}
    phase = {"heldout": {}, "cpu_s": 1.0, "wall_s": 1.0, "shifts": shifts}
    (run / "summary.json").write_text(json.dumps({"run": "adapt", "phases": {"ttrl": phase}}))
    html = write_report(run).read_text()
    assert "noise:0.3" in html and html.count("+0.125") == 3 and html.count("+0.000") == 3
    assert images(html) == before + 1


def test_a_run_that_is_going_on_has_a_report(run: Path, scored: Path) -> None:
    with (run / "answers.jsonl").open("a") as file:  # after it was scored; the second line is being written
        file.write(json.dumps(asdict(replace(ANSWERS[0], id="new"))) + "\n" + '{"id": "q4')
    assert len(Told.of(run).answers) == N + 1
    assert "risk-coverage" in write_report(run).read_text()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_answers_are_enough(run: Path, count: int) -> None:
    path = run / "answers.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))
    (run / "journal.jsonl").unlink()
    assert "<span>updates kept" in write_report(run).read_text()


@pytest.mark.parametrize("change", ["learner.corridor.high=0", "learner.ttrl.anchor=start"])
def test_every_anchor_and_no_corridor_can_be_drawn(run: Path, change: str) -> None:
    (run / "config-ttrl.toml").write_text(dump(load(CONFIGS / "ttrl.toml", [change])))
    assert "KL of each kept update to" in write_report(run).read_text()


def test_a_changed_journal_is_named(run: Path) -> None:
    path = run / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b"0.13", b"0.12", 1))
    with pytest.raises(JournalError, match="line 2: changed"):
        write_report(run)
