"""One phase after another, in one run folder and one Ray session; interrupted, it leaves a checkpoint to go on from.

runs/NAME/  config-PHASE.toml  metrics.jsonl  summary.json  heldout-PHASE.arrow  report.html
            checkpoints/PHASE/step-N/  policy/PHASE/  replay/PHASE/  media/
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from pixelis.actors.world import Split
from pixelis.cluster import usage
from pixelis.cluster.config import ConfigError, RunConfig, dump
from pixelis.cluster.errors import BusyError
from pixelis.cluster.evaluate import Evaluation, gather, jobs, write
from pixelis.cluster.part import PartError
from pixelis.cluster.policy import check_start
from pixelis.cluster.progress import Bar
from pixelis.cluster.source import looked_at
from pixelis.cluster.track import Track, read_summary, write_summary
from pixelis.memory.checkpoint import latest
from pixelis.memory.log import replace_file

if TYPE_CHECKING:
    from pixelis.cluster.algorithm import PixelisAlgorithm
    from pixelis.cluster.loop import Loop

RUNS = Path("runs")
KEPT = 2
"""Checkpoints of a phase that stay on disk."""
TOLD = 10
"""Traces that are not learned from, and of which is told why."""
REBUILDS = 3
"""Times that learners are rebuilt from one checkpoint before the run ends."""
FREED = 30.0
"""Seconds in which a cluster frees what a run held that has just ended."""
MORE = {"CPU": "take fewer, or begin it with `ray start --head --num-cpus=...`", "GPU": "set rollout.gpus and learner.gpus"}
"""What to do about a cluster that has too few."""


class Interrupted(Exception):
    """The user asked to stop; everything up to here is in `checkpoint`."""

    def __init__(self, phase: str, checkpoint: Path) -> None:
        super().__init__(f"{phase} interrupted; checkpoint {checkpoint}")
        self.checkpoint = checkpoint


def train(config: RunConfig, resume: bool = False, dashboard: bool = False) -> Path:
    """Run one phase; returns the run's folder. ConfigError when it was begun already and `resume` is not set."""
    return train_all([config], resume, dashboard)


def train_all(configs: Sequence[RunConfig], resume: bool = False, dashboard: bool = False) -> Path:
    """Run phases of one run, each starting (unless told otherwise) from the policy of the one before.

    Phases that are finished are passed over when `resume` is set. Raises Interrupted after Ctrl-C.
    """
    root = RUNS / configs[0].name
    configs = [looked_over(config, resume) for config in configs]
    if not configs[0].start:  # pre-trained before Ray is up
        from pixelis.cluster.pretrain import backbone

        configs[0] = replace(configs[0], start=str(backbone(configs[0].seed)))
    with stop_signals() as stop, ray_session(configs, dashboard):
        for i, config in enumerate(configs):
            if config.phase in read_summary(root)["phases"]:
                continue
            if i and not config.start:
                config = replace(config, start=str((root / "policy" / configs[i - 1].phase).resolve()))
            Phase(config, root, resume, stop).run()
    return root


def looked_over(config: RunConfig, resume: bool) -> RunConfig:
    """The config with whole paths, once all that can be wrong with it is looked at; nothing is started.

    Raises: ConfigError when the phase was begun already and `resume` is not set, CheckpointError or ModelError for a start
    policy that is none, and as `looked_at`.
    """
    if not resume:
        unbegun(config)
    config = looked_at(config)
    if not config.start:
        return config
    check_start(config.start, config.learner.lora)
    return replace(config, start=str(Path(config.start).resolve()))


class Phase:
    """One phase of a run: from its start policy to its evaluated one."""

    def __init__(self, config: RunConfig, root: Path, resume: bool, stop: Stop) -> None:
        self.config, self.root, self.stop = config, root, stop
        self.folder = root / "checkpoints" / config.phase
        self.resumed = latest(self.folder) if resume else None
        self.meter, self.load = usage.Meter(), usage.load()
        self.spent = {"wall_s": 0.0, "cpu_s": 0.0}
        self.rebuilt = Counter[Path]()
        self.alarmed: set[str] = set()
        """Components of the reward of which was told that they do not differ."""

    def run(self) -> None:
        """Train, evaluate, and write everything down. Raises Interrupted after Ctrl-C."""
        self.root.mkdir(parents=True, exist_ok=True)
        replace_file(self.root / f"config-{self.config.phase}.toml", dump(self.config).encode())
        uri = self.config.tracking.format(runs=RUNS)
        track = Track(self.root, self.config.phase, uri, asdict(self.config))
        from pixelis.cluster.learner_group import LearnerLost

        algorithm, status = None, "FAILED"
        try:
            algorithm = self._build()
            track.rewind(algorithm.loop.step)
            lost: LearnerLost | None = None
            while status != "FINISHED":
                try:
                    if lost is not None:
                        self._recover(algorithm, lost, track)
                    lost = None
                    self._train(algorithm, track)
                    self._finish(algorithm)
                    status = "FINISHED"
                except LearnerLost as error:  # also while they are rebuilt
                    lost = error
        except Interrupted:
            status = "KILLED"
            raise
        finally:
            track.close(status)
            self.meter.read()  # before the parts end: see usage.cpu_seconds
            if algorithm is not None:
                algorithm.stop()
                _remove_empty(Path(algorithm.logdir))

    def _build(self) -> PixelisAlgorithm:
        from pixelis.cluster.algorithm import PixelisConfig

        made = PixelisConfig().for_run(self.config, self.root.resolve(), epoch=_next_epoch(self.root))
        with _stderr_to(self.root / "ray.log"):
            algorithm = cast("PixelisAlgorithm", made.build_algo())
        try:
            if self.resumed:
                self.spent = algorithm.go_on(self.resumed.resolve())["spent"]
            else:
                algorithm.begin()
                self._save(algorithm)  # so that there is always one to go on from
        except BaseException:
            algorithm.stop()
            raise
        return algorithm

    def _train(self, algorithm: PixelisAlgorithm, track: Track) -> None:
        loop, steps = algorithm.loop, self.config.stop.steps
        with Bar(f"{self.config.name}/{self.config.phase}", steps, "steps") as bar:
            bar.begin(loop.step)
            bar.say(f"{self.config.phase}: {self._where()}; swapping pictures moves log-probs by {algorithm.look():.2g} nats")
            while loop.step < steps:
                before = loop.step
                algorithm.train()
                for figures in algorithm.figures:
                    track.log(int(figures["step"]), figures)
                    for name in constant(figures) - self.alarmed:
                        bar.say(f"step {loop.step}: all rollouts of 50 updates earned the same {name}: it teaches nothing")
                        self.alarmed.add(name)
                self._tell_refused(loop, bar)
                self._tell_news(loop, bar)
                bar.to(loop.step, algorithm.figures[-1])
                if self.stop.asked:
                    raise Interrupted(self.config.phase, self._save(algorithm))
                if (_passed(before, loop.step, self.config.save_every) or loop.went_back) and loop.step < steps:
                    self._save(algorithm)
                if self._gate(algorithm, before, track, bar):
                    break

    def _tell_refused(self, loop: Loop, bar: Bar) -> None:
        """Say which traces were not learned from; all of them, as long as they are few."""
        told, loop.news = loop.news, []
        before = loop.refused - len(told)
        for line in told[: max(0, TOLD - before)]:
            bar.say(f"not learned from: {line}")
        if before <= TOLD < loop.refused:
            bar.say(f"not learned from: more than {TOLD}; pixelis traces check {self.config.tasks.traces} tells them all")

    def _tell_news(self, loop: Loop, bar: Bar) -> None:
        """Say what test-time training has to say."""
        if loop.adaptation:
            told, loop.adaptation.news = loop.adaptation.news, []
            for line in told:
                bar.say(f"step {loop.step}: {line}")

    def _recover(self, algorithm: PixelisAlgorithm, lost: PartError, track: Track) -> None:
        """A learner rank is lost: all are rebuilt from the newest checkpoint, a few times."""
        newest = cast(Path, latest(self.folder))
        self.rebuilt[newest] += 1
        if self.rebuilt[newest] > REBUILDS:
            raise PartError(f"{lost}, and {REBUILDS} times before since {newest}")
        print(f"{lost}: going on from {newest}", flush=True)
        algorithm.rebuild(newest.resolve())
        track.rewind(algorithm.loop.step)

    def _where(self) -> str:
        return f"goes on from {self.resumed}" if self.resumed else f"starts from {self.config.start}"

    def _gate(self, algorithm: PixelisAlgorithm, before: int, track: Track, bar: Bar) -> bool:
        """Whether the dev split says that this is enough."""
        stop = self.config.stop
        if not stop.gate or not _passed(before, algorithm.loop.step, stop.gate_every):
            return False
        figures = self._evaluate(algorithm, stop.gate_n, "dev").figures["all"]
        track.log(algorithm.loop.step, {f"dev/{name}": value for name, value in figures.items()})
        bar.say(f"step {algorithm.loop.step}: dev success {figures['success']:.3f}, gate {stop.gate:g}")
        return figures["success"] >= stop.gate

    def _evaluate(self, algorithm: PixelisAlgorithm, n: int, split: Split) -> Evaluation:
        work = jobs(n, len(set(self.config.tasks.families)), split)
        algorithm.loop.publish()
        return gather(algorithm.crew.run(work, algorithm.loop.published))

    def _save(self, algorithm: PixelisAlgorithm) -> Path:
        path = self.folder / f"step-{algorithm.loop.step:06d}"
        if path.exists():
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {"loop": algorithm.loop.state(), "spent": self._spent(), "config": asdict(self.config)}
        algorithm.learners.save(path.resolve(), state)
        for old in sorted(self.folder.glob("step-*"))[:-KEPT]:
            shutil.rmtree(old)
        return path

    def _finish(self, algorithm: PixelisAlgorithm) -> None:
        """Checkpoint, whole policy, held-out figures, summary: in this order, so that a resume repeats the rest only."""
        config = self.config
        self._save(algorithm)
        policy = self.root / "policy" / config.phase
        algorithm.learners.export(policy.resolve())
        row: dict[str, Any] = {"heldout": {}}
        if config.eval.n:
            found = self._evaluate(algorithm, config.eval.n, config.eval.split)
            write(self.root / f"heldout-{config.phase}.arrow", found)
            row = {"heldout": found.figures, "heldout_infra": found.infra}
        loop = algorithm.loop
        loop.publish()
        row |= {
            "steps": loop.step, "version": list(loop.published.version), "infra": loop.infra,
            **({"refused": loop.refused} if config.tasks.traces else {}),
            "tools": algorithm.tools(),
            "actors_died": algorithm.crew.infra, "learners_rebuilt": self.rebuilt.total(), "policy": str(policy),
            **self._spent(), "load_start": self.load, "load_end": usage.load(),
        }  # fmt: skip
        write_summary(self.root, {"phases": {config.phase: row}, "versions": usage.versions(), "seed": config.seed})

    def _spent(self) -> dict[str, float]:
        now = self.meter.read()
        return {key: round(self.spent[key] + now[key], 1) for key in now}


def constant(figures: Mapping[str, float]) -> set[str]:
    """Components of the reward that have not differed between rollouts for a while.

    Example:
        >>> constant({"coherence_constant": 1.0, "curiosity_constant": 0.0})
        {'coherence'}
    """
    return {name.removesuffix("_constant") for name, value in figures.items() if name.endswith("_constant") and value}


class Stop:
    """Whether the user asked to stop."""

    asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: the first signal finishes the step, the second ends at once."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM set a mark that is looked at between steps."""
    stop = Stop()
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _listen(stop)
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _listen(stop: Stop) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


@contextmanager
def ray_session(configs: Sequence[RunConfig], dashboard: bool) -> Iterator[None]:
    """A Ray on this machine for as long as the run takes, or the cluster that RAY_ADDRESS names."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    if os.environ.get("RAY_ADDRESS"):
        where: dict[str, Any] = {"runtime_env": {"env_vars": threads}}
    else:
        os.environ.update(threads)  # a Ray of our own inherits it, and starts each worker 0.7 s sooner than with an environment
        # One slot for each part, however few cores there are: an actor that finds none would wait for ever, silently.
        where = {"num_cpus": max(map(_parts, configs)) + max(map(_tools, configs)), "include_dashboard": dashboard}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except Exception as error:  # Ray has no class for it
        if "timed out during startup" not in str(error):
            raise
        busy = f"Ray did not come up within the 30 s that it allows itself (load {os.getloadavg()[0]:.0f})"
        raise BusyError(f"{busy}: try again when the machine has less to do; nothing is lost") from error
    for number, handler in handlers.items():  # ray.init installs its own for SIGTERM
        signal.signal(number, handler)
    try:
        gpus = max(c.rollout.actors * c.rollout.gpus + c.learner.ranks * c.learner.gpus for c in configs)
        _granted({"CPU": max(map(_parts, configs)), "GPU": gpus})
        yield
    finally:
        ray.shutdown()


def _granted(wanted: Mapping[str, float]) -> None:
    """ConfigError when the cluster has less than is wanted, or has not as much free: an actor would wait for ever, silently."""
    import ray

    until = time.monotonic() + FREED
    for kind, count in wanted.items():
        told = f"rollout.actors and learner.ranks together need {count:g} {kind}s, the cluster has "
        have = ray.cluster_resources().get(kind, 0)
        if have < count:
            raise ConfigError(f"{told}{have:g}; {MORE[kind]}")
        while (free := ray.available_resources().get(kind, 0)) < count:
            if time.monotonic() > until:
                raise ConfigError(f"{told}{have:g}, of which {free:g} are free: `pixelis jobs` says what runs there")
            time.sleep(0.2)


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """While RLlib makes its actors: Ray's core warns, from C++, about how RLlib hands them their config."""
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    sys.stderr.flush()
    kept = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def _remove_empty(folder: Path) -> None:
    """RLlib makes a folder under ~/ray_results for every algorithm; ours never writes there."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def unbegun(config: RunConfig) -> None:
    """ConfigError when the run has begun this phase already."""
    root = RUNS / config.name
    if latest(root / "checkpoints" / config.phase) is not None:
        raise ConfigError(
            f"{root} holds a {config.phase} phase already: continue it with --resume, or take another name with --set name=..."
        )


def slots(config: RunConfig) -> int:
    """CPUs of a Ray on which a run and its tools have one for each part."""
    return _parts(config) + _tools(config)


def _parts(config: RunConfig) -> int:
    return config.rollout.actors + config.learner.ranks


def _tools(config: RunConfig) -> int:
    pool = config.tools.pool
    return math.ceil(pool.limit * pool.cpus) if config.tools.where == "pool" else 0


def _next_epoch(root: Path) -> int:
    """Phases of a run count their epochs on, so that a version never means two things."""
    return max((phase["version"][0] + 1 for phase in read_summary(root)["phases"].values()), default=0)


def _passed(before: int, after: int, every: int) -> bool:
    return before // every != after // every
