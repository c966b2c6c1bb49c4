"""Runs as Ray jobs, on a head node of their own: from another directory to the end, stopped, resumed, and never two at once."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bench.kills import below
from pixelis.memory.checkpoint import latest
from pixelis.memory.checkpoint import load as load_checkpoint

CONFIG = Path(__file__).parents[2] / "configs" / "tiny_sft.toml"
PATIENCE = 300.0
"""Seconds for anything on a machine that is busy."""

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def free_ports(count: int) -> list[int]:
    """Ports of this host that nobody listens at."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in held]


def until(done: object, what: str) -> None:
    """Wait for a condition."""
    start = time.monotonic()
    while not done():  # type: ignore[operator]
        assert time.monotonic() - start < PATIENCE, f"no {what} within {PATIENCE:g} s"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """`ray start --head` as a user types it, but on free ports, with a token, and with an end."""
    gcs, dashboard, agent, grpc, runtime, client, metrics = free_ports(7)
    here = f"http://127.0.0.1:{dashboard}"
    ports = {
        "port": gcs, "dashboard-port": dashboard, "dashboard-agent-listen-port": agent, "dashboard-agent-grpc-port": grpc,
        "runtime-env-agent-port": runtime, "ray-client-server-port": client, "metrics-export-port": metrics,
        "min-worker-port": 0, "max-worker-port": 0, "num-cpus": 4, "object-store-memory": 256 << 20,
    }  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="px", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_AUTH_TOKEN", "of-this-test-only-and-32-letters-long")
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("RAY_AUTH_MODE", raising=False)
        words = [f"--{key}={value}" for key, value in ports.items()]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--temp-dir={folder}", *words]
        with (Path(folder) / "head.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            until(lambda: process.poll() is not None or answers(here), "dashboard")
            assert process.poll() is None, (Path(folder) / "head.log").read_text()[-3000:]
            patch.setenv("RAY_API_SERVER_ADDRESS", here)
            yield here
        finally:
            parts = below(process.pid, "")
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            for pid in [process.pid, *parts]:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            process.wait(20)


def answers(address: str) -> bool:
    """Whether the Jobs API is up; without the token it refuses to say anything else."""
    try:
        urllib.request.urlopen(f"{address}/api/jobs/", timeout=10)
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    raise AssertionError("the cluster answers without a token")


def pixelis(*words: object, cwd: Path, status: int = 0) -> str:
    """What a command says, in a folder."""
    command = [sys.executable, "-m", "pixelis.cluster.cli", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == status, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def steps(run: Path) -> list[int]:
    """The steps in a run's metrics."""
    path = run / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def test_jobs_run_from_another_directory_to_their_end_and_go_on_after_a_stop(
    head: str, untrained: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "some where else"
    elsewhere.mkdir()
    (elsewhere / "start").symlink_to(untrained)
    own = elsewhere / "own.toml"
    own.write_text(CONFIG.read_text())
    sets = ["--set", "start=start", "--set", "eval.n=0"]
    long = [*sets, "--set", "name=cut", "--set", "stop.steps=100000"]

    told = pixelis("submit", "own.toml", *sets, "--set", "name=whole", cwd=elsewhere)
    assert "whole-1 runs on " in told and f"in {elsewhere}" in told
    own.write_text("nothing that could be run")  # the job has the config as it was
    pixelis("submit", CONFIG, *long, cwd=elsewhere)
    refused = pixelis("submit", CONFIG, *long, cwd=elsewhere, status=2)
    assert "run cut goes on as job cut-1" in refused and refused.count("\n") == 1

    cut = elsewhere / "runs" / "cut"
    until(lambda: len(steps(cut)) > 4, "step of the second job")
    told = pixelis("stop", "cut", cwd=tmp_path)
    saved = latest(cut / "checkpoints" / "sft")
    assert saved is not None and f"stopped; checkpoint {saved}" in told
    assert f"continue with: pixelis submit {CONFIG} {' '.join(long)} --resume (in {elsewhere})" in told
    step = load_checkpoint(saved).state["version"][1]

    told = pixelis("submit", CONFIG, *long, "--set", f"stop.steps={step + 2}", "--resume", "--follow", cwd=elsewhere)
    assert "cut-2 SUCCEEDED" in told and f"checkpoints/sft/{saved.name}" in told
    assert steps(cut) == list(range(1, step + 3))

    told = pixelis("logs", "whole", "--follow", cwd=tmp_path)
    assert "whole-1 SUCCEEDED" in told and "whole/sft 6/6" in told
    assert steps(elsewhere / "runs" / "whole") == [1, 2, 3, 4, 5, 6]
    assert (elsewhere / "runs" / "whole" / "report.html").is_file()
    rows = json.loads(pixelis("jobs", "--json", cwd=tmp_path))
    found = [(row["id"], row["status"], row["step"]) for row in rows]
    assert found == [("whole-1", "SUCCEEDED", 6), ("cut-1", "STOPPED", step + 2), ("cut-2", "SUCCEEDED", step + 2)]
    assert re.search(r"cut-2 .* cut .* sft .* SUCCEEDED .* \d\d:\d\d .* ", pixelis("jobs", cwd=tmp_path))
