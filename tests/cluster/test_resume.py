"""A run whose driver was killed goes on from its checkpoint, and comes to the same weights to the bit."""

from pathlib import Path

import pytest

from bench.kills import Run, babbler
from pixelis.cluster.audit import audit
from pixelis.memory.checkpoint import Checkpoint, latest, load

CONFIG = Path(__file__).parents[2] / "configs" / "tiny_rft.toml"

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def newest(run: Run) -> Checkpoint:
    found = latest(run.root / "checkpoints" / "rft")
    assert found is not None
    return load(found)


def test_a_driver_killed_at_any_moment_and_resumed_gives_the_same_weights_to_the_bit(tmp_path: Path, workplace: Path) -> None:
    """In the synchronous setting; learner and rollouts have one thread each."""
    sets: dict[str, object] = {
        "start": babbler(tmp_path), "eval.n": 0, "save_every": 2, "stop.steps": 7, "rollout.actors": 2,
        "tools.where": "pool", "replay.shards": 2, "replay.segment_bytes": 2000,
    }  # fmt: skip
    whole, cut = (Run(CONFIG, {**sets, "name": name}) for name in ("whole", "cut"))
    whole.finish()
    with cut:
        cut.start()
        cut.next_step(after=cut.next_step(after=0.0))
        cut.kill("driver", 0.0)
    killed_at = len(cut.stamps())
    cut.finish(resume=True)
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
