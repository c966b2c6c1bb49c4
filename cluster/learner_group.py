"""The learner's ranks, an actor each, behind the interface that RLlib's Algorithm asks of a learner group.

Every rank takes the batches from the replay shard itself and works on its part of them; the driver sees figures, versions
and one flat array of weights, which are the same on all ranks.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from pixelis.cluster.config import RunConfig
from pixelis.cluster.job import Published
from pixelis.cluster.part import PartError, answer, quiet
from pixelis.cluster.policy import put, resolve
from pixelis.cluster.pool import Pool
from pixelis.learners.learner import Learner
from pixelis.learners.ranks import Ranks
from pixelis.memory import checkpoint
from pixelis.memory.model import Model
from pixelis.memory.trajectory import Version
from pixelis.memory.weights import Slot, flatten, slots
from pixelis.tools.media import MediaStore

PATIENCE = 5.0
"""Seconds in which Ray notices that a process has died."""


class LearnerPart:
    """The inside of a learner actor: one rank's `Learner`, its pool, and its checkpoints."""

    def __init__(self, config: RunConfig, root: Path, shard: ActorHandle, epoch: int) -> None:
        quiet()
        self.config, self.shard = config, shard
        source = resolve(config.start)
        model = Model.load(source.folder)
        if source.checkpoint:
            put(model, source.checkpoint)
        self.base = source.folder.resolve()
        self.learner = Learner(model, MediaStore(root / "media"), config.learner, (epoch, 0), config.stop.steps)
        self.pool = Pool(config.replay, config.seed, self._take)

    def address(self) -> str:
        """Where this process could listen."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def join(self, rank: int, size: int, address: str) -> None:
        """Become one of `size` ranks; returns when all have met."""
        self.learner.ranks = Ranks.join(rank, size, address, self.config.deadline)

    def update(self, stored: int, first: int, steps: int) -> list[dict[str, float]]:
        """Optimizer steps `first`, `first + 1`, ... on what the shard holds (`stored` groups in all); figures of each."""
        self.pool.grow(stored)
        return [self.learner.update(self.pool.draw(first + i)) for i in range(steps)]

    def version(self) -> Version:
        """Of the weights now."""
        return self.learner.version

    def plan(self) -> tuple[Slot, ...]:
        """What `weights` holds."""
        return slots(self.learner.weights())

    def weights(self) -> np.ndarray:
        """The parameters that train, as one array; a return value, so that the driver owns it."""
        return flatten(self.learner.weights())

    def save(self, path: Path, state: dict[str, Any]) -> Path:
        """Write a checkpoint: trained tensors, optimizer, generators, cursor and the driver's `state`."""
        moments, packed = checkpoint.pack_optimizer(self.learner.optimizer)
        tensors = {"model": self.learner.weights(), "optimizer": moments, "rng": checkpoint.pack_rng()}
        own = {
            "base": str(self.base), "phase": self.config.phase, "version": list(self.learner.version),
            "cursor": self.pool.cursor, "optimizer": packed,
        }  # fmt: skip
        return checkpoint.save(path, tensors, {**state, **own})

    def restore(self, path: Path) -> dict[str, Any]:
        """Go on from a checkpoint of this phase, in the next epoch; returns its state. CheckpointError if it differs."""
        found = checkpoint.load(path)
        if found.state.get("phase") != self.config.phase:
            raise checkpoint.CheckpointError(f"{path}: phase {found.state.get('phase')}, this run is {self.config.phase}")
        put(self.learner.model, path)
        checkpoint.unpack_optimizer(self.learner.optimizer, found.tensors["optimizer"], found.state["optimizer"])
        checkpoint.unpack_rng(found.tensors["rng"])
        epoch, step = found.state["version"]
        self.learner.version = (epoch + 1, step)
        if self.config.replay.mode == "once":
            self.pool.cursor = self._drop_lost(found.state["cursor"])
        return found.state

    def _drop_lost(self, cursor: int) -> int:
        """Groups beyond the checkpoint's cursor came from weights that no longer exist: dropped, and said so."""
        stored = self._ask_shard(self.shard.stats.remote())["groups"]
        self._ask_shard(self.shard.seek.remote(stored))
        if stored > cursor and self.learner.ranks.rank == 0:
            self._ask_shard(self.shard.drop.remote("sampled by weights that were lost", stored - cursor))
        return stored

    def export(self, folder: Path) -> Path:
        """Write the whole policy as a folder that any of our commands and transformers open."""
        self.learner.model.save(folder)
        return folder

    def _take(self, count: int, cursor: int) -> list[Any]:
        return self._ask_shard(self.shard.take.remote(count, cursor))

    def _ask_shard(self, ref: Any) -> Any:
        return answer(ref, self.config.deadline, "replay shard")

    def __repr__(self) -> str:
        return f"Learner({self.config.phase}, rank {self.learner.ranks.rank})"


class LearnerGroup:
    """What the driver and RLlib hold. RLlib's own cannot return bf16 weights and dies with its first actor (ray.md 1)."""

    is_remote, is_local = True, False

    def __init__(self, config: RunConfig, root: Path, shard: ActorHandle, epoch: int) -> None:
        self.config = config
        part: Any = ray.remote(num_cpus=1)(LearnerPart)
        size = config.learner.ranks
        self.actors = [part.remote(config, root, shard, epoch) for _ in range(size)]
        self._plan: tuple[Slot, ...] = ()
        if size > 1:
            where = self.actors[0].address.remote()
            self.ask([actor.join.remote(rank, size, where) for rank, actor in enumerate(self.actors)])

    def begin_update(self, stored: int, first: int, steps: int) -> Any:
        """Start some optimizer steps; `ask` of what this returns gives the figures of each."""
        return [actor.update.remote(stored, first, steps) for actor in self.actors]

    def update(self, stored: int, first: int, steps: int = 1) -> list[dict[str, float]]:
        """Some optimizer steps on what the shard holds."""
        return self.ask(self.begin_update(stored, first, steps))

    def publish(self) -> Published:
        """The weights as they are now, for the rollout actors to pull when they are newer than theirs."""
        self._plan = self._plan or self.ask([self.actors[0].plan.remote()])
        version = self.ask([self.actors[0].version.remote()])
        return Published(version, self._plan, (self.actors[0].weights.remote(),))

    def ask(self, refs: list[Any]) -> Any:
        """What the first of some ranks answers, when all have, within the deadline."""
        try:
            return answer(refs, self.config.deadline, "learner")[0]
        except RayTaskError:
            for rank, ref in enumerate(refs):  # a rank also fails when it misses one that died
                if _died(ref):
                    raise PartError(f"rank {rank} of the learner died") from None
            raise

    def save(self, path: Path, state: dict[str, Any]) -> Path:
        """See `LearnerPart.save`."""
        return self.ask([self.actors[0].save.remote(path, state)])

    def restore(self, path: Path) -> dict[str, Any]:
        """See `LearnerPart.restore`."""
        return self.ask([actor.restore.remote(path) for actor in self.actors])

    def export(self, folder: Path) -> Path:
        """See `LearnerPart.export`."""
        return self.ask([self.actors[0].export.remote(folder)])

    # From here on: what `ray.rllib.algorithms.Algorithm` calls (ray.md 1). Checkpoints stay ours; RLlib only wraps them.

    def get_state(self, components: Any = None, **_: Any) -> dict[str, Any]:
        """Asked for by `Algorithm.setup` to sync runners; ours pull their weights, so there is nothing to hand out."""
        return {"learner": {}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Inverse of `get_state`."""

    def foreach_learner(self, func: Callable[..., Any], **_: Any) -> list[Any]:
        """RLlib offers functions for its own Learner class; none applies to ours."""
        return []

    def save_to_path(self, path: Any = None, *, state: dict[str, Any], **_: Any) -> str:
        """Called by `Algorithm.save_to_path` with a folder for this component, and the loop's state (see there)."""
        return str(self.save(Path(path) / "checkpoint", state))

    def restore_from_path(self, path: Any, **_: Any) -> dict[str, Any]:
        """Called by our `Algorithm.restore_from_path`; returns the state that was saved."""
        return self.restore(Path(path) / "checkpoint")

    def get_checkpointable_components(self) -> list[Any]:
        """None: this is one component."""
        return []

    def shutdown(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)


def _died(ref: Any) -> bool:
    try:
        ray.get(ref, timeout=PATIENCE)
    except (RayTaskError, GetTimeoutError):
        return False
    except RayActorError:
        return True
    return False
