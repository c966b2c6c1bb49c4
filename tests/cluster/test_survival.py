"""A run outlives the death of any of its parts, and is balanced to the last trajectory."""

from pathlib import Path

import pytest

from bench.kills import Run, babbler
from pixelis.cluster.audit import audit
from pixelis.memory.replay import catalogs

CONFIG = Path(__file__).parents[2] / "configs" / "tiny_rft.toml"

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_run_survives_the_death_of_each_part_and_every_trajectory_is_accounted_for(tmp_path: Path, workplace: Path) -> None:
    """Asynchronous, two actors, two ranks that share the layers, two replay shards that keep little."""
    sets: dict[str, object] = {
        "name": "hit", "start": babbler(tmp_path), "eval.n": 0, "save_every": 2, "stop.steps": 10_000, "rollout.actors": 2,
        "rollout.staleness": 1, "learner.ranks": 2, "learner.shard": "true", "learner.grpo.truncate": 2.0,
        "tools.where": "pool", "replay.shards": 2, "replay.segment_bytes": 20_000, "replay.keep_bytes": 60_000,
    }  # fmt: skip
    with Run(CONFIG, sets) as run:
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
