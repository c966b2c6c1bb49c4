"""Runs on files of one's own, on a real Ray: SFT imitates traces, RFT asks questions. Nothing is learned here."""

import json
import shutil
from pathlib import Path

import pytest

from pixelis.cluster.audit import audit
from pixelis.cluster.config import load
from pixelis.cluster.report import write_report
from pixelis.cluster.run import train_all
from pixelis.cluster.traces import example
from pixelis.memory.replay import ReplayShard
from pixelis.memory.trajectory import Trajectory
from pixelis.tools.media import MediaStore

CONFIGS = Path(__file__).parents[2] / "configs"

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def traces(workplace: Path) -> Path:
    """Six traces: one whose evidence is wrong, one without its medium, one that shows an error."""
    path = example(workplace / "own", 6)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 6
    lines[1]["evidence"] = {"texts": ["EEE"]}
    lines[2]["media"] = ["gone.jpg"]
    lines[3]["steps"][0]["erroneous"] = True
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def run(traces: Path, untrained: Path) -> Path:
    """SFT on the traces, then RFT on three questions of their own, one Ray session."""
    tasks = traces.with_name("tasks.jsonl")
    lines = [json.loads(line) for line in traces.read_text().splitlines()]
    kept = ("question", "media", "answer", "id", "family")
    tasks.write_text("".join(json.dumps({k: lines[i][k] for k in kept}) + "\n" for i in (0, 1, 3)))
    own = ["name=own", "eval.n=0", "tools.where=here", "tracking=''", "deadline=600.0"]
    sft = [f"start={untrained}", f"tasks.traces={traces}", "stop.steps=4", "replay.steps_per_call=2", "rollout.groups=4"]
    return train_all([
        load("traces", [*own, *sft, "rollout.actors=1", "learner.ranks=1", "replay.mixture=[{batch={any=2}}]"]),
        load(CONFIGS / "tiny_rft.toml", [*own, "start=''", f"tasks.file={tasks}", "tasks.split=demo"]),
    ])  # fmt: skip


def stored(run: Path, phase: str) -> list[list[Trajectory]]:
    shard = ReplayShard(run / "replay" / phase, [MediaStore(run / "media")])
    groups = [list(group.trajectories) for record in shard.read(range(len(shard.records))) for group in record]
    shard.close()
    return groups


def test_traces_that_pass_are_stored_and_the_others_never(run: Path) -> None:
    told = sorted(t.task_id for (t,) in stored(run, "sft"))
    assert told == ["clip-11", "clip-6", "code-1", "code-11"]
    summary = json.loads((run / "summary.json").read_text())["phases"]["sft"]
    assert summary["refused"] == 2 and summary["steps"] == 4
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    refused = [line["refused"] for line in lines if line["phase"] == "sft" and "refused" in line]
    assert len(refused) == 2 and refused[0] in (1, 2) and refused[1] == 2  # the second iteration is asked with the first


def test_an_erroneous_step_is_stored_as_one(run: Path) -> None:
    roles = {t.task_id: [set(turn.roles) for turn in t.turns] for (t,) in stored(run, "sft")}
    assert roles["clip-6"][0] == {"x"}
    assert all("x" not in turn for name, turns in roles.items() for turn in turns[name == "clip-6" :])


def test_questions_of_a_file_are_asked_over_and_over(run: Path, traces: Path) -> None:
    """Two iterations of two questions: the fourth is the first again, with other seeds."""
    groups = stored(run, "rft")
    assert [group[0].task_id for group in groups] == ["code-1", "clip-1", "clip-6", "code-1@2"]
    assert all(len(group) == 4 and set(t.rewards) >= {"answer", "length"} for group in groups for t in group)
    assert groups[0][0].question == groups[3][0].question
    first, again = ([t.turns[0].sampled for t in groups[i]] for i in (0, 3))
    assert first != again


def test_the_books_of_both_phases_balance(run: Path) -> None:
    accounts = audit(run)
    assert all(one.balanced for one in accounts.values())
    assert accounts["sft"].stored == 4 and accounts["rft"].stored == 16


def test_such_a_run_can_be_reported(run: Path) -> None:
    shutil.copytree(run, run.with_name("copy"))
    assert write_report(run.with_name("copy")).is_file()
