"""One test for each seam between pixelis and RLlib: what we override must still be what RLlib calls."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import ray.rllib.algorithms.algorithm as rllib
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from bench.kills import PARTS, below
from pixelis.cluster.algorithm import PixelisAlgorithm, PixelisConfig, RolloutGroup
from pixelis.cluster.config import load
from pixelis.cluster.crew import Bug, Crew
from pixelis.cluster.job import Job
from pixelis.cluster.learner_group import LearnerGroup, LearnerLost
from pixelis.cluster.part import PartError
from pixelis.cluster.run import ray_session
from pixelis.memory.ledger import account
from pixelis.memory.replay import catalogs

CONFIGS = Path(__file__).parents[2] / "configs"

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def algorithm(untrained: Path, workplace: Path) -> Iterator[PixelisAlgorithm]:
    run = load(CONFIGS / "tiny_rft.toml", [f"start={untrained}", "rollout.actors=2"])
    room = replace(run, learner=replace(run.learner, ranks=3))  # one test adds a group of two ranks
    with ray_session([room], dashboard=False):
        root = workplace / "runs" / "seams"
        made = PixelisConfig().for_run(run, root, epoch=3).build_algo()
        made.begin()
        yield made
        made.stop()


def test_a_default_config_names_its_algorithm() -> None:
    assert PixelisAlgorithm.get_default_config().algo_class is PixelisAlgorithm


def test_the_learner_group_is_ours(algorithm: PixelisAlgorithm) -> None:
    assert isinstance(algorithm.learner_group, LearnerGroup)
    assert algorithm.loop.published.version == (3, 0)


def test_no_rollout_actor_lives_in_the_driver(algorithm: PixelisAlgorithm) -> None:
    assert algorithm.env_runner is None
    assert algorithm.crew.actors.healthy() == [1, 2]


def test_setup_waits_for_no_actor(algorithm: PixelisAlgorithm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spaces that `Algorithm.setup` asks for come from the config, not from an actor that may never start."""
    group = algorithm.env_runner_group
    assert isinstance(group, RolloutGroup)
    monkeypatch.setattr(group, "foreach_env_runner", None)
    assert algorithm.spaces == group.get_spaces()


def test_other_algorithms_of_this_process_keep_their_group(algorithm: PixelisAlgorithm) -> None:
    assert rllib.EnvRunnerGroup is EnvRunnerGroup


def test_train_runs_our_training_step_and_reports(algorithm: PixelisAlgorithm) -> None:
    result = algorithm.train()
    assert result["training_iteration"] == algorithm.loop.step == 1
    assert result["pixelis"]["rollouts"] == 8


def test_a_bug_in_an_actor_comes_back_and_the_actor_lives(algorithm: PixelisAlgorithm) -> None:
    with pytest.raises(PartError, match=r"(?s)failed: .*Traceback"):
        algorithm.crew.run([Job("sample", (0,), "no such split", "test", 0)], None)
    assert algorithm.crew.actors.healthy() == [1, 2]


def test_a_killed_actor_is_restarted_and_its_job_done(algorithm: PixelisAlgorithm) -> None:
    def die(actor: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    crew = algorithm.loop.crew = type(algorithm.crew)(algorithm.crew.actors, 120)
    algorithm.env_runner_group.foreach_env_runner_async(die, tag="die", remote_worker_ids=[1])
    receipts = crew.run([Job("evaluate", (i,), "dev", seq=i) for i in range(4)], algorithm.loop.published)
    assert [r.key for r in receipts] == [("evaluate", i) for i in range(4)]
    assert all(len(r.outcomes) == 1 for r in receipts)
    until = time.monotonic() + 120
    while crew.actors.healthy() != [1, 2]:
        assert time.monotonic() < until, "the actor did not come back within 120 s"
        crew.actors.revive()
    assert crew.run([Job("evaluate", (i,), "dev", seq=i) for i in range(2)], algorithm.loop.published)


def test_an_actor_that_hangs_is_replaced(algorithm: PixelisAlgorithm, capfd: pytest.CaptureFixture[str]) -> None:
    """Stopped, so that it neither works nor answers: nothing but its deadline tells."""
    before = algorithm.loop.crew
    algorithm.loop.crew = Crew(algorithm.crew.actors, 40)
    os.kill(below(os.getpid(), PARTS["rollout actor"])[0], signal.SIGSTOP)
    result = algorithm.train()
    algorithm.loop.crew = before
    assert result["pixelis"]["rollouts"] == 8
    told = capfd.readouterr().err
    assert "did not finish" in told and "another one does it" in told
    found = account(catalogs(algorithm.config.root / "replay" / "rft"), algorithm.ledger.entries, once=True)
    assert found.balanced and found.pending == 0, found


def test_save_to_path_wraps_our_checkpoint(algorithm: PixelisAlgorithm, tmp_path: Path) -> None:
    algorithm.save_to_path(tmp_path / "saved")
    assert list((tmp_path / "saved").rglob("model.safetensors"))
    epoch, step = algorithm.loop.published.version
    algorithm.restore_from_path(tmp_path / "saved")
    assert algorithm.loop.published.version == (epoch + 1, step)


def test_a_learner_that_is_late_is_named(algorithm: PixelisAlgorithm) -> None:
    from pixelis.cluster.part import answer

    with pytest.raises(PartError, match="the learner did not answer within 0 s"):
        answer(algorithm.learner_group.actors[0].weights.remote(), 0, "learner")


def test_ranks_meet_and_a_dead_one_is_named(algorithm: PixelisAlgorithm) -> None:
    """Through gloo: the first speaks for all (that all hold the same is seen in tests/learners/test_ranks.py), and when one
    is killed the others' error is not the news."""
    run = replace(algorithm.run_config, learner=replace(algorithm.run_config.learner, ranks=2))
    root = algorithm.config.root
    group = LearnerGroup(run, root, algorithm.config.shards, 9)
    algorithm.training_step()
    [update] = group.update([(0, 0), (0, 1)], 0)
    assert update.figures["groups"] == 2
    first, second = ray.get([actor.weights.remote() for actor in group.actors], timeout=60)
    assert len(first) == sum(slot.bytes for slot in group.publish().plan) and not len(second)
    ray.kill(group.actors[1])
    with pytest.raises(ray.exceptions.RayActorError):  # it takes a moment
        while True:
            ray.get(group.actors[1].where.remote(), timeout=60)
    with pytest.raises(LearnerLost, match="learner died"):
        group.ask(group.begin_update([], 1, 1))
    group.build(10)
    assert ray.get([actor.version.remote() for actor in group.actors], timeout=60) == [(10, 0)] * 2
    group.shutdown()


def test_bugs_of_the_learner_keep_their_traceback(algorithm: PixelisAlgorithm) -> None:
    with pytest.raises(ray.exceptions.RayTaskError, match=r"replay\.py"):
        algorithm.learner_group.ask(algorithm.learner_group.begin_update([(0, "four")], 0, 1))


def test_a_bug_is_a_small_value() -> None:
    assert Bug("message", "traceback").user is None
