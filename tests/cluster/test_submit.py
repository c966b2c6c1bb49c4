"""What is sent to a cluster, and what is told of its jobs, without one."""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from pixelis.cluster import submit as jobs
from pixelis.cluster.config import load
from pixelis.cluster.errors import UsageError, is_users
from pixelis.cluster.submit import ClusterError, Submission, connect, find, next_id, saved, script
from pixelis.cluster.track import last_step

JOB = Submission("sft-2", "sft", "sft", "/some/where", 100, 600, "pixelis submit sft", "RUNNING", 2.0)
CONFIGS = Path(__file__).parents[2] / "configs"


class Cluster:
    """A Jobs API that takes jobs and runs none of them."""

    def __init__(self, status: str = "RUNNING", log: Sequence[str] = ("{id} runs on me",)) -> None:
        self.status, self.log = JobStatus(status), log
        self.sent: list[dict[str, Any]] = []

    def submit_job(self, **sent: Any) -> None:
        self.sent.append(sent)

    def list_jobs(self) -> list[Any]:
        other = SimpleNamespace(submission_id=None, metadata=None, status=JobStatus("RUNNING"), start_time=1)
        return [other, *(self.get_job_info(sent["submission_id"]) for sent in self.sent)]

    def get_job_info(self, name: str) -> Any:
        [sent] = [one for one in self.sent if one["submission_id"] == name]
        return SimpleNamespace(
            submission_id=name, metadata=sent["metadata"], status=self.status, start_time=1000, message="Traceback\nbad: worse"
        )

    def get_job_status(self, name: str) -> JobStatus:
        return self.status

    def get_job_logs(self, name: str) -> str:
        return "\n".join(self.log).format(id=name)

    def get_address(self) -> str:
        return "http://head:8265"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, workplace: Path) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(jobs, "connect", lambda *_: made)
    return made


def test_ids_are_taken_once() -> None:
    assert next_id("sft", []) == "sft-1"
    assert next_id("sft", ["sft-1", "sft-9", "sft-10", "sft-x", "sft-2-99", "xsft-77"]) == "sft-11"
    assert next_id("a/b c", ["a_b_c-3"]) == "a_b_c-4"


def test_a_job_is_found_by_its_id_or_its_run() -> None:
    old, new, other = replace(JOB, id="sft-1", status="STOPPED"), JOB, replace(JOB, id="rft-1", run="rft", status="FAILED")
    assert find([old, new, other], "sft-1") == old
    assert find([old, new, other], "sft") == new
    assert find([replace(new, status="FAILED"), replace(old, status="RUNNING")], "sft").id == "sft-1"
    assert find([other], "rft") == other
    with pytest.raises(UsageError, match=r"nothing: no job or run of this cluster; its newest jobs: sft-2"):
        find([new], "nothing")
    twins = [new, replace(new, id="sft-3", folder="/else")]
    with pytest.raises(UsageError, match=r"sft: sft-2 in /some/where, sft-3 in /else go on; name one of them"):
        find(twins, "sft")


def test_metadata_bring_the_job_back() -> None:
    told = JOB.metadata()
    assert all(isinstance(value, str) for value in told.values())
    job = SimpleNamespace(submission_id="sft-2", metadata=told, status=JobStatus("RUNNING"), start_time=2000)
    assert Submission.of(job) == JOB


@pytest.mark.parametrize("name", ["plain", 'it\'s $HOME; `touch x` "and" more'])
def test_the_line_that_a_node_runs(name: str, tmp_path: Path) -> None:
    """As the shell understands it: in the folder, with the config and --resume, or refused in one line."""
    folder = tmp_path / name
    job = replace(JOB, folder=str(folder))
    python = folder / "python"

    def run(interpreter: Path) -> tuple[int, str, str]:
        line = ["sh", "-c", script(job, str(interpreter), resume=True)]
        done = subprocess.run(line, cwd="/", capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    status, _, told = run(python)
    assert (status, told.count("\n")) == (2, 1) and f"does not see {job.config}: submit from a folder on a file system" in told
    job.config.parent.mkdir(parents=True)
    job.config.touch()
    status, _, told = run(python)
    assert (status, told.count("\n")) == (2, 1) and f"has no {python}: pixelis must be installed there" in told
    assert told.startswith("pixelis: ")
    python.write_text('#!/bin/sh\npwd\nfor word; do echo "$word"; done\n')
    python.chmod(0o755)
    status, said, _ = run(python)
    first, *rest = said.splitlines()
    assert status == 0 and first.startswith("sft-2 runs on ") and first.endswith(f" in {folder}")
    assert rest == [str(folder), "-m", "pixelis.cluster.cli", "train", str(job.config), "--resume"]


def test_what_is_sent(cluster: Cluster, untrained: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("start").symlink_to(untrained)
    sets = ["start=start", "name=sent", "stop.steps=7", "deadline=300"]
    assert jobs.submit(CONFIGS / "tiny_sft.toml", sets, False, None, False) == 0
    [sent] = cluster.sent
    assert sent["submission_id"] == "sent-1" and sent["metadata"]["run"] == "sent"
    assert sent["runtime_env"] == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "300"}}
    assert shlex.quote(sys.executable) in sent["entrypoint"]
    run = load(workplace / "runs" / "sent" / "jobs" / "sent-1.toml")
    assert (run.name, run.stop.steps, run.start) == ("sent", 7, str(untrained.resolve()))
    assert capsys.readouterr().out.startswith("sent-1 runs on me\npixelis logs sent-1 --follow")
    with pytest.raises(UsageError, match="run sent goes on as job sent-1: end it with `pixelis stop sent-1`"):
        jobs.submit(CONFIGS / "tiny_sft.toml", sets, True, None, False)
    assert len(cluster.sent) == 1


def test_what_is_wrong_is_told_before_anything_is_sent(cluster: Cluster, workplace: Path) -> None:
    with pytest.raises(Exception, match="nowhere") as told:
        jobs.submit(CONFIGS / "tiny_sft.toml", ["start=nowhere", "name=wrong"], False, None, False)
    assert is_users(told.value) and not cluster.sent and not Path("runs/wrong").exists()


@pytest.mark.parametrize(
    ("log", "why"),
    [(["Running entrypoint: pixelis: no", "pixelis: node-7 does not see x"], "node-7 does not see x"), ([], "bad: worse")],
)
def test_a_job_that_does_not_begin(cluster: Cluster, untrained: Path, log: list[str], why: str) -> None:
    cluster.status, cluster.log = JobStatus("FAILED"), log
    with pytest.raises(ClusterError, match=f"^failed-1 failed: {why}$"):
        jobs.submit(CONFIGS / "tiny_sft.toml", [f"start={untrained}", "name=failed"], False, None, False)


def test_a_job_that_has_ended_is_not_stopped(cluster: Cluster, untrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.submit(CONFIGS / "tiny_sft.toml", [f"start={untrained}", "name=over"], False, None, False)
    cluster.status = JobStatus("SUCCEEDED")
    jobs.stop("over", None)
    assert "over-1 has ended before: SUCCEEDED" in capsys.readouterr().out


def test_what_a_stopped_job_leaves(tmp_path: Path) -> None:
    job = replace(JOB, folder=str(tmp_path))
    assert "its checkpoints are on the cluster" in saved(job, "")
    job.root.mkdir(parents=True)
    assert saved(job, "") == f"stopped before anything was saved\nagain: pixelis submit sft (in {tmp_path})"
    path = job.root / "checkpoints" / "sft" / "step-000012"
    path.mkdir(parents=True)
    (path / "manifest.json").touch()
    told = saved(job, "...\n\nstopped; checkpoint runs/sft/checkpoints/sft/step-000012\ncontinue with: ...")
    assert told == f"stopped; checkpoint {path}\ncontinue with: pixelis submit sft --resume (in {tmp_path})"
    assert f"not at a checkpoint; what came after {path} is done again" in saved(job, "Killed")
    (job.root / "summary.json").write_text(json.dumps({"phases": {"sft": {}}}))
    assert "stopped after the end of sft" in saved(job, "")


def test_how_far_a_run_is(tmp_path: Path) -> None:
    assert last_step(tmp_path, "sft") is None
    lines = [json.dumps({"phase": phase, "pad": "x" * 900, "step": i}) for phase in ("sft", "rft") for i in range(40)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"phase": "rft", "st')
    assert (last_step(tmp_path, "rft"), last_step(tmp_path, "sft"), last_step(tmp_path, "other")) == (39, 39, None)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "nonsense", "nowhere://at.all"])
def test_no_cluster_is_told_with_the_way_out(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8")  # --address counts
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(
        ClusterError, match=r"start one with `ray start --head --num-cpus=5`, or name one with --address"
    ) as told:
        connect(address, "ray start --head --num-cpus=5")
    assert is_users(told.value) and "127.0.0.1:8" not in str(told.value)
