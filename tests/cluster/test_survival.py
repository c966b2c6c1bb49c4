"""What a run is after its processes were killed: to the bit the same, or balanced to the last trajectory."""

import signal
from pathlib import Path

import pytest

from bench.kills import Run, babbler
from pixelis.cluster.audit import audit
from pixelis.memory.checkpoint import Checkpoint, latest, load
from pixelis.memory.replay import catalogs

CONFIG = Path(__file__).parents[2] / "configs" / "tiny_rft.toml"

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy whose rollouts differ in what they are worth."""
    return babbler(tmp_path_factory.mktemp("babbler"))


def newest(run: Run) -> Checkpoint:
    found = latest(run.root / "checkpoints" / "rft")
    assert found is not None
    return load(found)


def finish(run: Run, resume: bool = False) -> None:
    run.start(resume)
    assert run.process is not None
    assert run.process.wait(240) == 0, run.told()


def test_a_driver_killed_at_any_moment_and_resumed_gives_the_same_weights_to_the_bit(start: Path, workplace: Path) -> None:
    """In the synchronous setting; learner and rollouts have one thread each."""
    sets: dict[str, object] = {
        "start": start, "eval.n": 0, "save_every": 2, "stop.steps": 7, "rollout.actors": 2,
        "tools.where": "pool", "replay.shards": 2, "replay.segment_bytes": 2000,
    }  # fmt: skip
    whole, cut = (Run(CONFIG, {**sets, "name": name}) for name in ("whole", "cut"))
    finish(whole)
    cut.start()
    cut.next_step(after=cut.next_step(after=0.0))
    cut.kill("driver", 0.0)
    killed_at = len(cut.stamps())
    finish(cut, resume=True)
    assert 1 <= killed_at < 7
    one, other = newest(whole), newest(cut)
    assert other.state["version"][1] == one.state["version"][1] > 0
    assert other.state["version"][0] == one.state["version"][0] + 1
    for file in ("model", "optimizer"):
        assert all((one.tensors[file][k] == other.tensors[file][k]).all() for k in one.tensors[file])
    for run in (whole, cut):
        account = audit(run.root)["rft"]
        assert account.balanced and account.pending == 0, account
        assert account.trained + account.dropped.get("uniform", 0) == 7 * 2 * 4
    assert [len(run.stamps()) for run in (whole, cut)] == [7, 7]


def test_a_run_survives_the_death_of_each_part_and_every_trajectory_is_accounted_for(start: Path, workplace: Path) -> None:
    """Asynchronous, two actors, two ranks that share the layers, two replay shards that keep little."""
    sets: dict[str, object] = {
        "name": "hit", "start": start, "eval.n": 0, "save_every": 2, "stop.steps": 10_000, "rollout.actors": 2,
        "rollout.staleness": 1, "learner.ranks": 2, "learner.shard": "true", "learner.grpo.truncate": 2.0,
        "tools.where": "pool", "replay.shards": 2, "replay.segment_bytes": 20_000, "replay.keep_bytes": 60_000,
    }  # fmt: skip
    run = Run(CONFIG, sets)
    run.start()
    at = run.next_step(after=0.0)
    for part in ("tool replica", "rollout actor", "replay shard", "tool keeper", "learner rank", "driver"):
        at = run.kill(part, 0.99)
        if part == "driver":
            run.start(resume=True)
        run.next_step(after=at + 1.0)
    assert run.stop() == 130, run.told()
    account = audit(run.root)["rft"]
    assert account.balanced and account.trained > 0, account
    records = catalogs(run.root / "replay" / "rft")
    assert {shard for shard, _ in records} == {0, 1} and any(record.evicted for record in records.values())
    assert "Traceback" not in run.told()


def test_a_rollout_actor_that_hangs_is_replaced(start: Path, workplace: Path) -> None:
    """Stopped, so that it neither works nor answers: nothing but its deadline tells."""
    sets: dict[str, object] = {
        "name": "stuck", "start": start, "eval.n": 0, "stop.steps": 10_000, "rollout.actors": 2, "deadline": 60.0,
    }  # fmt: skip
    run = Run(CONFIG, sets)
    run.start()
    run.next_step(after=0.0)
    at = run.kill("rollout actor", 0.0, signal.SIGSTOP)
    run.next_step(after=at + 50.0)
    assert run.stop() == 130, run.told()
    assert "did not finish" in run.told() and "another one does it" in run.told()
    assert audit(run.root)["rft"].balanced
