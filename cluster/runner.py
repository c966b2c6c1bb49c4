"""The inside of a rollout actor: tasks in, groups to a replay shard, a receipt to the driver. No RLlib here."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pixelis.actors.engine import TransformersEngine
from pixelis.actors.liveness import check_vision
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutWorker
from pixelis.actors.shift import Shift
from pixelis.actors.tasks import Questions, TaskSource
from pixelis.actors.world import NO_SHIFT, Split
from pixelis.cluster.backlog import Backlog
from pixelis.cluster.config import RunConfig
from pixelis.cluster.job import Job, Published, Receipt, Report
from pixelis.cluster.judge import Judge
from pixelis.cluster.part import answer, quiet
from pixelis.cluster.policy import open_policy
from pixelis.cluster.shard import Shards
from pixelis.cluster.source import Rounds, asked, open_source
from pixelis.cluster.tool_pool import ToolPool
from pixelis.learners.collapse import seen
from pixelis.learners.judged import encode as encode_judged
from pixelis.memory.codec import encode
from pixelis.memory.encoder import encoders
from pixelis.memory.lora import adapt, trains_vision
from pixelis.memory.model import Model, device_of
from pixelis.memory.recall import EpisodeMemory, Handle
from pixelis.memory.trajectory import Group, Trajectory, Version
from pixelis.memory.weights import unflatten
from pixelis.tools.backend import tools
from pixelis.tools.local import Local
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox


class Runner:
    """Acts for one phase of a run. Light to make; the policy is loaded by the first job.

    Example:
        >>> Runner(config, Path("runs/tiny"), None).run(Job("evaluate", (0, 1), "dev"))   # doctest: +SKIP
    """

    def __init__(
        self,
        config: RunConfig,
        root: Path,
        shards: Shards | None,
        version: Version = (0, 0),
        keeper: Any = None,
        memory: Sequence[Handle] = (),
    ) -> None:
        """`memory`: the shards of the episode memory, for `judge`."""
        self.config, self.root, self.shards, self.keeper, self._version = config, root, shards, keeper, version
        self.memory = memory
        self.episodes: EpisodeMemory | None = None
        self._workers: dict[tuple[Split, bool, Shift], RolloutWorker] = {}
        quiet()

    @cached_property
    def backlog(self) -> Backlog:
        """The jobs that were given and not taken back yet."""
        return Backlog(self.run)

    def poll(self, jobs: Sequence[Job], published: Published | None, seconds: float) -> Report:
        """Give jobs and take what is done, waiting up to `seconds` for any: see `Backlog`."""
        return self.backlog.poll(jobs, published, seconds)

    @cached_property
    def store(self) -> MediaStore:
        """The media of the run, shared by all processes of this node."""
        return MediaStore(self.root / "media", limits=self.config.tools.limits)

    @cached_property
    def engine(self) -> TransformersEngine:
        """The policy, loaded from where the phase starts."""
        config = self.config
        model = open_policy(config.start, config.learner.dtype, device_of(config.rollout.gpus), config.card)
        self._remember(model)
        adapt(model, config.learner.lora)
        return TransformersEngine(model, self.store, Renderer(model).stop, self._version)

    def _remember(self, model: Model) -> None:
        """Open the episode memory with the towers that the phase starts from: keys of others could not be compared."""
        if self.memory:
            settings = self.config.memory
            frozen = model.with_eyes_of_its_own()
            self.episodes = EpisodeMemory(self.memory, *encoders(frozen, self.store, settings.encoder), settings.recall)

    @cached_property
    def toolbox(self) -> Toolbox:
        """One for all splits, so that what is remembered serves them all; on the pool, if the run has one."""
        deadline = self.config.deadline
        backend = Local(tools(self.config.tools.learned)) if self.keeper is None else ToolPool(self.keeper, deadline)
        return Toolbox(self.store, backend, self.config.tools.deadline)

    def run(self, job: Job, published: Published | None = None) -> Receipt:
        """Do one job under the published weights. Groups are durable in a shard when the receipt comes back."""
        start = time.monotonic()
        self._pull(published)
        worker = self._worker(job.split, equally=job.kind in ("evaluate", "judge"), shift=job.shift)
        before = self.toolbox.retried, worker.repeated
        if job.kind == "judge":
            return self._judge(job, start)
        if job.kind == "evaluate":
            outcomes, trajectories = worker.evaluate(job.indices)
            episodes = encode([Group(t.task_id, (t,)) for t in trajectories]) if trajectories else b""
            sums = sums_of(trajectories, start) | {"infra": float(len(job.indices) - len(trajectories))}
            return Receipt(job.key, sums=sums, outcomes=tuple(outcomes), episodes=episodes)
        act: Callable[[Sequence[int]], list[Group]] = worker.recite if job.kind == "recite" else worker.sample
        groups = act(job.indices)
        assert self.shards is not None
        record = self.shards.add(job.producer, job.seq, encode(groups), job.indices)
        sums = sums_of([t for g in groups for t in g.trajectories], start)
        retries = self.toolbox.retried - before[0], worker.repeated - before[1]
        refused, worker.refused = tuple(worker.refused), []
        sums |= {"call_retries": float(retries[0]), "episode_retries": float(retries[1]), "refused": float(len(refused))}
        return Receipt(job.key, record, job.indices, len(groups), sums, refused=refused)

    @cached_property
    def questions(self) -> Rounds:
        """Those that nobody has the key of."""
        return asked(self.config.tasks, self.store)

    @cached_property
    def judge(self) -> Judge:
        """Who asks them."""
        config, engine = self.config, self.engine
        worker = RolloutWorker(self.questions, self.toolbox, Renderer(engine.model), engine, config.rollout, config.seed)
        return Judge(worker, self.episodes, config.learner.ttrl)

    def _judge(self, job: Job, start: float) -> Receipt:
        """Answer questions; what may be learned from them is durable in a shard when the receipt comes back."""
        before = self.toolbox.retried, self.judge.worker.repeated, self.judge.partial
        tasks = {index: self.questions.task(index) for index in job.indices}
        served = self.judge.serve(tasks, self.engine.version)
        judged = [one.judged for one in served.values() if one.judged]
        assert self.shards is not None
        record = self.shards.add(job.producer, job.seq, encode_judged(judged), job.indices)
        sums = sums_of([t for one in judged for t in one.group.trajectories], start)
        sums |= {
            "call_retries": float(self.toolbox.retried - before[0]),
            "episode_retries": float(self.judge.worker.repeated - before[1]),
            "recall_partial": float(self.judge.partial - before[2]),
        }
        return Receipt(
            job.key, record, job.indices, len(judged), sums,
            answers=tuple(one.answer for one in served.values()), rows=tuple(one.row for one in served.values()),
            seen=tuple(seen(one.verdict, one.decision) for one in judged),
        )  # fmt: skip

    def look(self, split: Split, published: Published | None = None) -> float:
        """Vision liveness: see `actors.liveness.check_vision`."""
        self._pull(published)
        source = self._worker(split, equally=True).source
        tasks = [source.gold(i).task for i in range(4 * len(set(self.config.tasks.families)))]
        return check_vision(self.engine.model, Renderer(self.engine.model), self.store, tasks)

    def _pull(self, published: Published | None) -> None:
        """Take the published weights if they are newer; called between episodes only."""
        if published is None or published.version <= self.engine.version:
            return
        flat = answer(published.ref[0], self.config.deadline, "weights")
        sight_changes = trains_vision(slot.name for slot in published.plan)
        self.engine.load(unflatten(flat, published.plan), published.version, sight_changes)

    def _worker(self, split: Split, equally: bool, shift: Shift = NO_SHIFT) -> RolloutWorker:
        """What the run trains on, or (`equally`) PixelWorld, every family as often as the others."""
        if (split, equally, shift) not in self._workers:
            tasks = self.config.tasks
            families = tuple(dict.fromkeys(tasks.families))
            source: Questions = (
                TaskSource(families, split, self.store, shift=shift) if equally else open_source(tasks, split, self.store)
            )
            self._workers[split, equally, shift] = RolloutWorker(
                source, self.toolbox, Renderer(self.engine.model), self.engine, self.config.rollout, self.config.seed
            )
        return self._workers[split, equally, shift]


def sums_of(trajectories: Sequence[Trajectory], start: float) -> dict[str, float]:
    """Sums over trajectories for a receipt; those that ended by infrastructure are only counted."""
    whole = [t for t in trajectories if t.status not in ("infra", "cancelled")]
    return {
        "n": float(len(whole)),
        "infra": float(len(trajectories) - len(whole)),
        "reward": sum(sum(t.rewards.values()) for t in whole),
        "answer": sum(t.rewards.get("answer", 0.0) for t in whole),
        "steps": float(sum(t.chain_length for t in whole)),
        "valid": float(sum(t.chain_length - t.n_invalid for t in whole)),
        "tokens": float(sum(int(t.mask.sum()) for t in whole)),
        **calls_of(trajectories),
        "seconds": time.monotonic() - start,
    }


def calls_of(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """How many calls ended how, and the seconds that they took."""
    results = [turn.result for t in trajectories for turn in t.turns if turn.result is not None]
    ended = Counter(result.failure.cls if result.failure else "ok" for result in results)
    counts = {f"calls_{outcome}": float(ended[outcome]) for outcome in ("ok", "policy", "tool", "infra")}
    return {**counts, "tool_s": sum(result.ms for result in results) / 1000}
