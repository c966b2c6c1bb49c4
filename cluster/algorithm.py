"""Every seam between pixelis and RLlib, in one file, each with its reason; tests/cluster/test_seams.py holds a test for each.

RLlib gives us rollout actors that are watched and restarted (`EnvRunnerGroup`), a Tune trainable (`Algorithm`) and
metrics. Learning, replay and weights are ours. Ray's minor version is pinned: these APIs are alpha.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import gymnasium as gym
import ray
import ray.rllib.algorithms.algorithm as rllib
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.examples.rl_modules.classes.random_rlm import RandomRLModule
from ray.tune import PlacementGroupFactory

from pixelis.actors.world import Split
from pixelis.cluster import equipment
from pixelis.cluster.adaptation import Adaptation
from pixelis.cluster.config import RunConfig, changed
from pixelis.cluster.crew import Bug, Crew
from pixelis.cluster.errors import is_users
from pixelis.cluster.job import Job, Published, Report
from pixelis.cluster.learner_group import LearnerGroup, bundle
from pixelis.cluster.loop import Loop
from pixelis.cluster.memory import RayShard, remembering
from pixelis.cluster.meters import Meters
from pixelis.cluster.part import PartError, name_of, stack_of
from pixelis.cluster.runner import Runner
from pixelis.cluster.shard import Shards, start_shards
from pixelis.cluster.watchdog import stacks
from pixelis.memory.ledger import Ledger

SAMPLE_SECONDS = 1.0
"""Longest time that `sample` takes: RLlib can ask a rollout actor nothing else meanwhile."""

PATIENT = 0.25
"""Part of the run's deadline within which a replay shard must answer: who asks it must still be in time with another one."""


class RolloutActor(EnvRunner):
    """Seam: RLlib makes, watches and restarts rollout actors that are subclasses of EnvRunner; ours wraps `Runner`."""

    def __init__(self, *, config: PixelisConfig, **kwargs: Any) -> None:
        assert config.run is not None and config.root is not None
        self._called = f"Rollout({config.run.phase}, {kwargs.get('worker_index', 0)})"  # asked for even if the rest fails
        super().__init__(config=config, **kwargs)
        self.runner = Runner(config.run, config.root, config.shards, (config.epoch, 0), config.keeper, config.memory)

    def apply(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Seam: every remote call passes here. The stock one turns any exception into a dead actor (`sys.exit`), which is
        then revived for ever; a bug must end the run instead, so it travels back as a value."""
        try:
            return func(self, *args, **kwargs)
        except Exception as error:
            user = error if is_users(error) else None
            return Bug(f"{type(error).__name__}: {error}", traceback.format_exc(), user)

    def sample(  # type: ignore[override]
        self, *, jobs: tuple[Job, ...], published: Published | None = None, **_: Any
    ) -> Report:
        """Take jobs, and tell what is done after `SAMPLE_SECONDS` at the latest; groups go to the replay shards, episodes
        go on in the background."""
        return self.runner.poll(jobs, published, SAMPLE_SECONDS)

    def look(self, *, split: Split, published: Published | None = None) -> float:
        """Vision liveness."""
        return self.runner.look(split, published)

    def stack(self) -> str:
        """What the threads of this process are doing."""
        return stacks()

    def assert_healthy(self) -> None:
        """Seam: abstract in EnvRunner; called after construction."""
        assert self.runner is not None

    def get_spaces(self) -> dict[str, Any]:
        """Seam: abstract in EnvRunner; `RolloutGroup` answers for the actors."""
        return spaces(self.config)

    def get_state(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Seam: RLlib collects connector states; there are none."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Seam: RLlib sends connector and module states; weights are pulled instead, see `Runner.run`."""

    def stop(self) -> None:
        """Nothing to free: the process ends."""

    def __repr__(self) -> str:
        return self._called


class RolloutGroup(EnvRunnerGroup):
    """Seam: `Algorithm.setup` asks an actor for spaces and waits for it without a deadline; there is no gym environment, so
    the answer is known here, and the first wait for an actor is ours (`PixelisAlgorithm.look`)."""

    def get_spaces(self) -> dict[str, Any]:
        """What an actor would say."""
        return spaces(self._remote_config)

    def _make_worker(self, *, worker_index: int, **kwargs: Any) -> Any:
        """Seam: the one place where actors are made; they get names."""
        config: Any = self._remote_config
        self._remote_args["name"] = name_of("rollout", config.root, config.run.phase, config.epoch, worker_index)
        return super()._make_worker(worker_index=worker_index, **kwargs)


def spaces(config: AlgorithmConfig) -> dict[str, Any]:
    """Observation and action space as RLlib wants to be told; nothing reads them."""
    return {"default_policy": (config.observation_space, config.action_space)}


class PixelisConfig(AlgorithmConfig):
    """Seam: what RLlib must know about a run, as little as it accepts."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or PixelisAlgorithm)
        self.run: RunConfig | None = None
        self.sets: dict[str, Any] = {}
        self.root: Path | None = None
        self.shards: Shards | None = None
        self.keeper: Any = None
        self.memory: list[RayShard] = []
        self.epoch = 0
        self.environment(env=None, observation_space=gym.spaces.Discrete(2), action_space=gym.spaces.Discrete(2))
        self.env_runners(
            env_runner_cls=RolloutActor, create_local_env_runner=False, num_cpus_per_env_runner=1,
            validate_env_runners_after_construction=False,
            max_requests_in_flight_per_env_runner=1,
            merge_env_runner_states=False,
            broadcast_env_runner_states=False,
        )  # fmt: skip
        self.fault_tolerance(
            restart_failed_env_runners=True, max_num_env_runner_restarts=100, delay_between_env_runner_restarts_s=0.0,
            env_runner_health_probe_timeout_s=5.0, env_runner_restore_timeout_s=60.0,
        )  # fmt: skip
        self.debugging(log_level="ERROR")

    def for_run(
        self, run: RunConfig, root: Path | None = None, sets: dict[str, Any] | None = None, epoch: int = 0
    ) -> PixelisConfig:
        """This config for one phase of a run.

        `root`: the run's folder (None: the folder that Tune gives to a trial). `sets`: settings that replace those of
        `run`, like {"learner.lr": tune.grid_search([1e-4, 5e-4])}. `epoch`: the least one to begin with.
        """
        self.run, self.root, self.sets, self.epoch = run, root, sets or {}, epoch
        return self.env_runners(num_env_runners=run.rollout.actors, num_gpus_per_env_runner=run.rollout.gpus)

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Seam: demanded by `Algorithm.setup`, never built, since the learner group below ignores it."""
        return RLModuleSpec(module_class=RandomRLModule)

    def build_learner_group(self, **_: Any) -> LearnerGroup:  # type: ignore[override]
        """Seam: our learner in place of RLlib's, which cannot return bf16 weights, cuts packed patches silently and is
        dead for good after one failure."""
        assert self.run is not None and self.root is not None and self.shards is not None
        return LearnerGroup(self.run, self.root, self.shards, self.epoch)


class Runners:
    """Seam: `EnvRunnerGroup` as the `Actors` that a crew needs."""

    def __init__(self, group: EnvRunnerGroup) -> None:
        self.group = group

    def healthy(self) -> list[int]:
        """Ids of the actors in service."""
        return self.group.healthy_env_runner_ids()

    def send(self, actor: int, jobs: tuple[Job, ...], published: Published | None) -> None:
        """Look at one actor, with jobs for it."""
        kwargs = {"jobs": jobs, "published": published}
        self.group.foreach_env_runner_async("sample", tag="job", kwargs=kwargs, remote_worker_ids=[actor])

    def fetch(self, seconds: float) -> list[tuple[int, Report | Bug]]:
        """Reports that are there, waiting up to `seconds` for the first."""
        return self.group.fetch_ready_async_reqs(tags="job", timeout_seconds=seconds)

    def revive(self) -> None:
        """Look after actors that are out of service; Ray has restarted them, or is about to."""
        self.group.probe_unhealthy_env_runners()

    def end(self, actor: int) -> None:
        """Kill an actor; Ray restarts it."""
        ray.kill(self.group._worker_manager.actors()[actor], no_restart=False)

    def stack(self, actor: int) -> str:
        """What an actor's threads are doing, or that it does not say."""
        return stack_of(self.group._worker_manager.actors()[actor])


class PixelisAlgorithm(Algorithm):
    """Seam: the trainable. One `training_step` for all phases: sample, make durable, update, publish (`Loop`)."""

    run_config: RunConfig
    group: EnvRunnerGroup
    learners: LearnerGroup
    crew: Crew
    loop: Loop
    ledger: Ledger
    shards: Shards
    keeper: Any
    memory: list[RayShard]
    figures: list[dict[str, float]]

    @classmethod
    def get_default_config(cls) -> PixelisConfig:
        """Seam: with `algo_class` set, or Tune's `default_resource_request` fails."""
        return PixelisConfig(algo_class=cls)

    @classmethod
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        """Seam: what Tune sets aside for a trial. The stock one has no room for our learner's ranks."""
        run, sets = (config["run"], config["sets"]) if isinstance(config, dict) else (config.run, config.sets)
        run = changed(run, sets)
        acting, learning = [bundle(run.rollout.gpus)] * run.rollout.actors, [bundle(run.learner.gpus)] * run.learner.ranks
        return PlacementGroupFactory([{"CPU": 1}, *acting, *learning])

    def setup(self, config: PixelisConfig) -> None:  # type: ignore[override]
        """Actors up, then our loop around them."""
        assert config.run is not None
        run = changed(config.run, config.sets)
        root = config.root or Path(self.logdir)
        self.ledger = Ledger(root / "ledger" / run.phase)
        kept = run.replay
        self.shards = start_shards(root, run.phase, run.deadline * PATIENT, kept.shards, kept.segment_bytes, kept.strata)
        try:
            self._around(config, run, root)
        except BaseException:
            self.shards.end()  # they would outlive this process
            raise

    def _around(self, config: PixelisConfig, run: RunConfig, root: Path) -> None:
        """All parts beside the shards, and the loop."""
        self.keeper = equipment.start(run, root)
        self.memory = remembering(run, root / "memory") if run.phase == "ttrl" and run.memory.shards else []
        self.config = config = config.copy(copy_frozen=False)
        config.run, config.root, config.shards, config.keeper = run, root, self.shards, self.keeper
        config.memory = self.memory
        config.epoch = self.ledger.epoch(config.epoch)
        # `Algorithm.setup` makes the group by this name; put back after, for other algorithms in this process
        stock, rllib.EnvRunnerGroup = rllib.EnvRunnerGroup, RolloutGroup  # type: ignore[misc]
        try:
            super().setup(config)
        finally:
            rllib.EnvRunnerGroup = stock  # type: ignore[misc]
        group, learners = self.env_runner_group, self.learner_group
        assert group is not None and isinstance(learners, LearnerGroup)
        self.run_config, self.group, self.learners = run, group, learners
        self.crew = Crew(Runners(group), run.deadline, run.watch)
        adaptation = Adaptation(run, root, self.crew, learners, self.memory) if run.phase == "ttrl" else None
        self.loop = Loop(run, self.crew, learners, self.shards, self.ledger, Meters(run.name, run.phase), adaptation)
        self.figures = []

    def begin(self) -> None:
        """Begin the phase where it starts, unless it goes on from a checkpoint."""
        if not self.loop.begun:
            self.loop.begin({})

    def go_on(self, checkpoint: Path) -> dict[str, Any]:
        """Go on from a checkpoint of this phase, in a new epoch; returns the state saved in it."""
        state = self.learners.restore(checkpoint, self.ledger.epoch(self.learners.epoch))
        self.loop.begin(state["loop"])
        return state

    def rebuild(self, checkpoint: Path) -> None:
        """All learner ranks anew, from a checkpoint; rollout actors and what is stored stay."""
        self.loop.drain()
        self.loop.meters.count("deaths", 1, part="learner group")
        self.learners.build(self.ledger.epoch(self.learners.epoch + 1))
        self.go_on(checkpoint)

    def training_step(self) -> None:
        """One round of the loop; its figures are in `figures`, the last of them in the result dict too."""
        self.begin()
        self.figures = self.loop.round()
        report = self.tools()
        if report and self.figures:
            self.figures[-1] |= self.loop.meters.tools(report)
        assert self.metrics is not None
        for name, value in self.figures[-1].items() if self.figures else ():
            self.metrics.log_value(("pixelis", name), value, window=1)

    def cleanup(self) -> None:
        """End all parts."""
        try:
            super().cleanup()
            self.ledger.close()
            if self.loop.adaptation:
                self.loop.adaptation.close()
        finally:
            self.shards.end()
            for shard in self.memory:
                ray.kill(shard.actor)
        equipment.stop(self.run_config, self.keeper)

    def tools(self) -> dict[str, Any]:
        """What the tool pool has done so far; nothing without one, or while its keeper is being restarted."""
        return equipment.report(self.keeper)

    def look(self) -> float:
        """Vision liveness at start: `actors.liveness.BlindPolicy` when swapping the image moves nothing."""
        seconds = self.run_config.deadline
        kwargs = {"split": self.run_config.tasks.split, "published": self.loop.published}
        results: list[Any] = self.group.foreach_env_runner(
            "look", kwargs=kwargs, local_env_runner=False, timeout_seconds=seconds, remote_worker_ids=[1]
        )
        if not results:
            raise PartError(f"rollout actor 1 did not check the policy's vision within {seconds:g} s")
        if isinstance(results[0], Bug):
            raise results[0].user or PartError(f"rollout actor 1 failed at start:\n{results[0].traceback}")
        return float(results[0])

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """Seam: the stock one asks our learner for a MultiRLModuleSpec. A restarted actor pulls weights at its first job."""
        return env_runner_group.probe_unhealthy_env_runners()

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """Seam: only the learner has state here; replay is on disk, rollout actors have none."""
        return [("learner_group", self.learners)]

    def get_state(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Seam: the stock one collects module and connector states. The loop's is saved with the learner's, as JSON."""
        return {"learner_group": {"loop": self.loop.state()}, "training_iteration": self.training_iteration}

    def set_state(self, state: dict[str, Any]) -> None:
        """Seam: nothing; `restore_from_path` goes on from our checkpoint."""

    def restore_from_path(self, path: Any, *_: Any, **__: Any) -> None:
        """Seam: the stock one pushes weights through `sync_weights`, which our actors do not know; we publish."""
        self.go_on(Path(path) / "learner_group" / "checkpoint")
