"""A run seen from outside: names in the State API, counters and gauges at the metrics endpoint, and who stands still."""

import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.util.state import list_actors

from bench.kills import PARTS, below
from pixelis.cluster.algorithm import PixelisAlgorithm, PixelisConfig
from pixelis.cluster.config import load
from pixelis.cluster.meters import COUNTERS, GAUGES
from pixelis.cluster.run import ray_session

CONFIGS = Path(__file__).parents[2] / "configs"

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def algorithm(untrained: Path, workplace: Path) -> Iterator[PixelisAlgorithm]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        run = load(CONFIGS / "tiny_rft.toml", [f"start={untrained}", "watch=3", "tools.where=pool"])
        with ray_session([run], dashboard=True):
            made = PixelisConfig().for_run(run, workplace / "runs" / "outside").build_algo()
            made.train()
            yield made
            made.stop()


def test_every_actor_has_a_name_and_says_what_it_is(algorithm: PixelisAlgorithm) -> None:
    here = ray.get_runtime_context().gcs_address
    alive = [actor for actor in list_actors(here, detail=True, timeout=60) if actor.state == "ALIVE"]
    kinds = ("RolloutActor", "LearnerPart", "Shard", "Keeper", "ToolActor")
    ours = {actor.repr_name: actor.name for actor in alive if actor.class_name in kinds}
    assert set(ours) == {"Rollout(rft, 1)", "Learner(rft, rank 0)", "Replay(rft)", "Keeper(rft)", "Tools"}
    assert all("outside" in name and "rft" in name for name in ours.values())


def test_the_metrics_endpoint_has_what_is_documented(algorithm: PixelisAlgorithm) -> None:
    port = ray.nodes()[0]["MetricsExportPort"]
    until = time.monotonic() + 60
    wanted = {"ray_pixelis_rollouts_total", "ray_pixelis_step", "ray_pixelis_reward", "ray_pixelis_update_s"}
    wanted.add("ray_pixelis_tool_replicas")
    page = ""
    while not all(name in page for name in wanted):
        assert time.monotonic() < until, page[-2000:]
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10).read().decode()
        time.sleep(0.5)
    [line] = [line for line in page.splitlines() if line.startswith("ray_pixelis_rollouts_total{")]
    assert 'run="tiny"' in line and 'phase="rft"' in line and float(line.split()[-1]) == 8


def test_every_metric_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert all(f"`ray_pixelis_{name}_total`" in page for name in COUNTERS)
    assert all(f"`ray_pixelis_{name}`" in page for name in GAUGES)


def test_a_learner_that_stands_still_is_named_with_its_process(
    algorithm: PixelisAlgorithm, capfd: pytest.CaptureFixture[str]
) -> None:
    """Stopped, so that it cannot say what it does; it goes on when it may."""
    [pid] = below(os.getpid(), PARTS["learner rank"])
    os.kill(pid, signal.SIGSTOP)
    try:
        pending = algorithm.learners.begin_update([], 1, 1)
        start = time.monotonic()
        while time.monotonic() - start < 5:
            algorithm.learners.done(pending, 0.5, start)
    finally:
        os.kill(pid, signal.SIGCONT)
    told = capfd.readouterr().err
    assert f"learner rank 0 (process {pid} on " in told and "has not moved for" in told and "does not answer" in told
    algorithm.learners.ask(pending)


def test_a_busy_actor_tells_its_stack(algorithm: PixelisAlgorithm) -> None:
    assert "thread MainThread" in algorithm.crew.actors.stack(1)
    assert "backlog" in algorithm.crew.actors.stack(1)
    assert "thread" in ray.get(algorithm.learners.actors[0].stack.remote(), timeout=30)
