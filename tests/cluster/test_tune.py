"""Tune runs our algorithm: a search over a setting of a config, with checkpoints that we can read."""

from dataclasses import replace
from pathlib import Path

import pytest
from ray import tune

from pixelis.cluster.algorithm import PixelisAlgorithm, PixelisConfig
from pixelis.cluster.config import load
from pixelis.cluster.run import ray_session
from pixelis.memory.checkpoint import load as load_checkpoint

CONFIGS = Path(__file__).parents[2] / "configs"

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_two_trials_differ_in_what_was_searched_over(untrained: Path, workplace: Path) -> None:
    run = load(CONFIGS / "tiny_rft.toml", [f"start={untrained}"])
    rates = [1e-4, 3e-4]
    space = PixelisConfig().for_run(run, sets={"learner.lr": tune.grid_search(rates)})
    room = replace(run, learner=replace(run.learner, ranks=2))  # a trial has a driver of its own
    with ray_session([room], dashboard=False):
        results = tune.Tuner(
            PixelisAlgorithm, param_space=space,
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(
                stop={"training_iteration": 2}, storage_path=str(workplace / "tune"), verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
            ),
        ).fit()  # fmt: skip
    assert not results.errors
    assert sorted(result.config["sets"]["learner.lr"] for result in results) == rates
    for result in results:
        assert result.metrics is not None and result.metrics["pixelis"]["rollouts"] == 8
        [saved] = Path(str(result.checkpoint.path)).rglob("checkpoint/manifest.json")
        assert load_checkpoint(saved.parent).state["loop"]["step"] == 2
