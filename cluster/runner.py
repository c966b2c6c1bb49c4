"""The inside of a rollout actor: tasks in, groups to the replay shard, a receipt to the driver. No RLlib here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from ray.actor import ActorHandle

from pixelis.actors.engine import TransformersEngine
from pixelis.actors.liveness import check_vision
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutWorker
from pixelis.actors.shift import Shift
from pixelis.actors.tasks import TaskSource
from pixelis.actors.world import NO_SHIFT, Split
from pixelis.cluster.config import RunConfig
from pixelis.cluster.job import Job, Published, Receipt
from pixelis.cluster.part import answer, quiet
from pixelis.cluster.policy import open_policy
from pixelis.memory.codec import encode
from pixelis.memory.trajectory import Group, Trajectory, Version
from pixelis.memory.weights import unflatten
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox


class Runner:
    """Acts for one phase of a run. Light to make; the policy is loaded by the first job.

    Example:
        >>> Runner(config, Path("runs/tiny"), None).run(Job("evaluate", (0, 1), "dev"))   # doctest: +SKIP
    """

    def __init__(self, config: RunConfig, root: Path, shard: ActorHandle | None, version: Version = (0, 0)) -> None:
        self.config, self.root, self.shard, self._version = config, root, shard, version
        self._workers: dict[tuple[Split, bool, Shift], RolloutWorker] = {}
        quiet()

    @cached_property
    def store(self) -> MediaStore:
        """The media of the run, shared by all processes of this node."""
        return MediaStore(self.root / "media")

    @cached_property
    def engine(self) -> TransformersEngine:
        """The policy, loaded from where the phase starts."""
        model = open_policy(self.config.start)
        return TransformersEngine(model, self.store, Renderer(model).stop, self._version)

    def run(self, job: Job, published: Published | None = None) -> Receipt:
        """Do one job under the published weights. Groups are durable in the shard when the receipt comes back."""
        start = time.monotonic()
        self._pull(published)
        worker = self._worker(job.split, equally=job.kind == "evaluate", shift=job.shift)
        if job.kind == "evaluate":
            outcomes, trajectories = worker.evaluate(job.indices)
            episodes = encode([Group(t.task_id, (t,)) for t in trajectories]) if trajectories else b""
            sums = sums_of(trajectories, start) | {"infra": float(len(job.indices) - len(trajectories))}
            return Receipt(job.seq, 0, sums, tuple(outcomes), episodes)
        act: Callable[[Sequence[int]], list[Group]] = worker.recite if job.kind == "recite" else worker.sample
        groups = act(job.indices)
        assert self.shard is not None
        answer(self.shard.add.remote(job.producer, job.seq, encode(groups)), self.config.deadline, "replay shard")
        return Receipt(job.seq, len(groups), sums_of([t for g in groups for t in g.trajectories], start))

    def look(self, split: Split, published: Published | None = None) -> float:
        """Vision liveness: see `actors.liveness.check_vision`."""
        self._pull(published)
        source = self._worker(split, equally=True).source
        tasks = [source.gold(i).task for i in range(4 * len(source.families))]
        return check_vision(self.engine.model, Renderer(self.engine.model), self.store, tasks)

    def _pull(self, published: Published | None) -> None:
        """Take the published weights if they are newer; called between episodes only."""
        if published is None or published.version <= self.engine.version:
            return
        flat = answer(published.ref[0], self.config.deadline, "weights")
        self.engine.load(unflatten(flat, published.plan), published.version, self.config.learner.train_vision)

    def _worker(self, split: Split, equally: bool, shift: Shift = NO_SHIFT) -> RolloutWorker:
        """`equally`: every family as often as the others, however the run trains."""
        if (split, equally, shift) not in self._workers:
            tasks = self.config.tasks
            families = tuple(dict.fromkeys(tasks.families)) if equally else tasks.families
            source = TaskSource(families, split, self.store, None if equally else tasks.scenes, shift)
            box = next((w.toolbox for w in self._workers.values()), None) or Toolbox(self.store)
            self._workers[split, equally, shift] = RolloutWorker(
                source, box, Renderer(self.engine.model), self.engine, self.config.rollout, self.config.seed
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
        "seconds": time.monotonic() - start,
    }
