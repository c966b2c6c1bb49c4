"""A run as a Ray job, on a head node of its own: from another directory, stopped, resumed, and to its end."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bench.kills import below
from pixelis.memory.checkpoint import latest
from pixelis.memory.checkpoint import load as load_checkpoint

CONFIG = Path(__file__).parents[2] / "configs" / "tiny_sft.toml"
PATIENCE = 300.0
"""Seconds for any one thing, on a machine that is busy."""

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def free_ports(count: int) -> list[int]:
    """Ports of this host that nobody listens at."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in held]


def until(done: Callable[[], bool], what: str) -> None:
    """Wait for it."""
    start = time.monotonic()
    while not done():
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
        "min-worker-port": 0, "max-worker-port": 0, "num-cpus": 2, "object-store-memory": 256 << 20,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="px", ignore_cleanup_errors=True) as folder:
        patch.setenv("RAY_AUTH_TOKEN", "of-this-test-only-and-long-enough")
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
            patch.delenv(name, raising=False)
        words = [f"--{key}={value}" for key, value in ports.items()]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--temp-dir={folder}", *words]
        log = Path(folder) / "head.log"
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, cwd=folder)
        try:
            until(lambda: process.poll() is not None or answers(here), "dashboard")
            assert process.poll() is None, log.read_text()[-3000:]
            patch.setenv("RAY_API_SERVER_ADDRESS", here)
            yield here
        finally:
            for pid in [*below(process.pid, ""), process.pid]:  # at once: asked to end, a head drains its jobs first
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            process.wait(20)


def answers(address: str) -> bool:
    """Whether the Jobs API is up: without the token it says no more than that."""
    try:
        urllib.request.urlopen(f"{address}/api/jobs/", timeout=10)
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    raise AssertionError("the cluster answers without a token")


def pixelis(*words: object, cwd: Path) -> str:
    """What a command says, in a folder."""
    command = [sys.executable, "-m", "pixelis.cluster.cli", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def steps(run: Path) -> list[int]:
    """The steps in a run's metrics."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def test_a_job_of_another_directory_is_stopped_and_goes_on_to_its_end(head: str, untrained: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "some where else"
    elsewhere.mkdir()
    (elsewhere / "start").symlink_to(untrained)
    own = elsewhere / "own.toml"
    own.write_text(CONFIG.read_text())
    sets = ["--set", "name=cut", "--set", "start=start", "--set", "eval.n=0", "--set", f"deadline={PATIENCE}"]

    told = pixelis("submit", "own.toml", *sets, "--set", "stop.steps=100000", cwd=elsewhere)
    assert told.startswith("cut-1 ")
    own.write_text("later edits change nothing")
    cut = elsewhere / "runs" / "cut"
    until(lambda: len(steps(cut)) > 4, "step")

    told = pixelis("stop", "cut", cwd=tmp_path)
    saved = latest(cut / "checkpoints" / "sft")
    assert saved is not None and f"stopped; checkpoint {saved}\n" in told, told
    assert f"pixelis submit own.toml {' '.join(sets)} --set stop.steps=100000 --resume (in {elsewhere})" in told
    step = load_checkpoint(saved).state["version"][1]

    own.write_text(CONFIG.read_text())
    more = [*sets, "--set", f"stop.steps={step + 2}", "--resume"]
    told = pixelis("submit", "own.toml", *more, "--follow", cwd=elsewhere)
    assert "cut-2 SUCCEEDED" in told and f"checkpoints/sft/{saved.name}" in told
    assert steps(cut) == list(range(1, step + 3))
    assert (cut / "report.html").is_file() and (cut / "policy" / "sft" / "config.json").is_file()

    rows = json.loads(pixelis("jobs", "--json", "--address", head, cwd=tmp_path))
    found = [(row["id"], row["status"], row["step"]) for row in rows]
    assert found == [("cut-1", "STOPPED", step + 2), ("cut-2", "SUCCEEDED", step + 2)]
    told = pixelis("logs", "cut-1", cwd=tmp_path)
    assert " runs on " in told and f" in {elsewhere}\n" in told and "stopped; checkpoint" in told
