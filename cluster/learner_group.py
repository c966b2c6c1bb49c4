"""The learner's ranks, an actor each, behind the interface that RLlib's Algorithm asks of a learner group.

Every rank takes the batches from the replay shards itself and works on its part of them; the driver sees figures, versions
and one flat array of weights, which are the same on all ranks.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pixelis.cluster.config import RunConfig
from pixelis.cluster.job import Published, Update
from pixelis.cluster.part import PATIENCE, PartError, answer, name_of, quiet, stack_of, where
from pixelis.cluster.policy import inheritance, put, resolve, trained
from pixelis.cluster.pool import Held, Pool, by_age
from pixelis.cluster.shard import Shards
from pixelis.cluster.watchdog import Watchdog, stacks
from pixelis.learners import judged
from pixelis.learners.judged import Judged
from pixelis.learners.learner import Learner
from pixelis.learners.ranks import Ranks
from pixelis.memory import checkpoint, codec
from pixelis.memory.journal import Frozen, RolledBack
from pixelis.memory.ledger import Place
from pixelis.memory.model import Model, device_of
from pixelis.memory.replay import RecordId
from pixelis.memory.segment import Segments
from pixelis.memory.trajectory import Group, Version
from pixelis.memory.weights import Slot
from pixelis.tools.media import MediaStore


class LearnerLost(PartError):
    """A rank died or hangs: the group can be rebuilt from a checkpoint."""


class LearnerPart:
    """The inside of a learner actor: one rank's `Learner`, its pool, and its checkpoints."""

    def __init__(self, config: RunConfig, root: Path, shards: Shards, epoch: int, rank: int = 0) -> None:
        self.config, self.shards, self.rank, self.segments = config, shards, rank, Segments()
        quiet()
        source = resolve(config.start)
        model = Model.load(source.folder, config.learner.dtype, device_of(config.learner.gpus), source.card or config.card)
        if source.checkpoint:
            put(model, source.checkpoint)
        self.base = source.folder.resolve()
        self.learner = Learner(model, MediaStore(root / "media"), config.learner, (epoch, 0), config.stop.steps)
        if self.learner.ttrl:
            self._inherit()
        self.pool = Pool(config.replay, config.seed)

    def _inherit(self) -> None:
        """Curiosity and coherence as the phase before has left them, if it has."""
        left = inheritance(self.config.start)
        if left is None:
            return
        origin = Model.load(left.origin, self.config.learner.dtype, device_of(self.config.learner.gpus))
        self.learner.inherit(origin, left.tensors, left.state)

    def address(self) -> str:
        """Where this process could listen."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def join(self, size: int, address: str) -> None:
        """Become one of `size` ranks; returns when all have met."""
        self.learner.join(Ranks.join(self.rank, size, address, self.config.deadline))

    def update(self, records: Sequence[RecordId], first: int, steps: int) -> list[Update]:
        """Optimizer steps `first`, `first + 1`, ... after taking some more records of the shards into the pool."""
        found = self.shards.encoded(records, self.segments)
        read: Callable[[Any], Sequence[Group | Judged]] = judged.decode if self.learner.ttrl else codec.decode
        self.pool.add({record: read(data) for record, data in zip(records, found, strict=True)})
        return [self._step(self.pool.draw(first + i)) for i in range(steps)]

    def _step(self, drawn: list[Held]) -> Update:
        """One step on some groups, and what became of each of their trajectories."""
        at, once = self.learner.version[1], self.config.replay.mode == "once"
        stale, fresh = by_age(drawn, at - self.config.rollout.staleness) if once else ([], drawn)  # a teacher has no weights
        figures = self.learner.update([held.judged or held.group for held in fresh])
        if once and fresh:
            figures["staleness"] = float(np.mean([at - held.sampled_at for held in fresh]))
        dropped = {why: tuple(fresh[g].places[k] for g, k in places) for why, places in self.learner.left_out.items() if places}
        if stale:
            dropped["stale"] = tuple(place for held in stale for place in held.places)
            figures["dropped_stale"] = float(len(stale))
        gone = {place for places in dropped.values() for place in places}
        trained: list[Place] = [place for held in fresh for place in held.places if place not in gone]
        return Update(figures, tuple(trained), dropped, self.learner.stood_in, tuple(self.learner.entries))

    def rehearse(self, groups: bytes) -> None:
        """See `Learner.rehearse`."""
        self.learner.rehearse([t for group in codec.decode(groups) for t in group.trajectories])

    def keep_good(self) -> None:
        """See `Learner.keep_good`."""
        self.learner.keep_good()

    def roll_back(self, epoch: int, why: str, figures: dict[str, float]) -> tuple[RolledBack, Frozen]:
        """Put the last good weights back, and learn nothing from here on; the journal's entries of both."""
        return self.learner.roll_back(epoch, why, figures), self.learner.freeze(why, figures)

    def hash(self) -> str:
        """sha256 of the weights now."""
        return self.learner.flat().hash()

    def version(self) -> Version:
        """Of the weights now."""
        return self.learner.version

    def plan(self) -> tuple[Slot, ...]:
        """What `weights` holds."""
        return self.learner.flat().plan

    def weights(self) -> np.ndarray:
        """The parameters that train, as one array of the first rank; a return value, so that the driver owns it."""
        flat = self.learner.flat()
        return np.zeros(0, np.uint8) if self.rank else flat.array()

    def save(self, path: Path, state: dict[str, Any]) -> Path:
        """Write a checkpoint: trained tensors, optimizer, generators, and the driver's `state` with its cursor."""
        tensors, learner, tables = self.learner.state()
        own = {
            "base": str(self.base), "phase": self.config.phase, "version": list(self.learner.version), "learner": learner,
            "lora": asdict(self.config.learner.lora), "card": asdict(self.learner.model.card),
        }  # fmt: skip
        if self.rank == 0:
            checkpoint.save(path, {**tensors, "rng": checkpoint.pack_rng()}, {**state, **own}, tables)
        return path

    def restore(self, path: Path, epoch: int) -> dict[str, Any]:
        """Go on from a checkpoint of this phase, in this epoch; returns its state. CheckpointError if it differs."""
        found = checkpoint.load(path)
        if found.state.get("phase") != self.config.phase:
            raise checkpoint.CheckpointError(f"{path}: phase {found.state.get('phase')}, this run is {self.config.phase}")
        weights = {"model": trained(path, self.learner.model)}
        self.learner.restore({**found.tensors, **weights}, found.state["learner"], found.tables)
        checkpoint.unpack_rng(found.tensors["rng"])
        self.learner.version = (epoch, found.state["version"][1])
        self.pool = Pool(self.config.replay, self.config.seed)
        return found.state

    def where(self) -> str:
        """Of this process."""
        return where()

    @ray.method(concurrency_group="control")
    def stack(self) -> str:
        """What the threads of this process are doing; answers while an update goes on."""
        return stacks()

    def export(self, folder: Path) -> Path:
        """Write the whole policy as a folder that any of our commands and transformers open."""
        self.learner.save(folder)
        return folder

    def __repr__(self) -> str:
        return f"Learner({self.config.phase}, rank {self.rank})"


class LearnerGroup:
    """What the driver and RLlib hold. RLlib's own cannot return bf16 weights and dies with its first actor (ray.md 1)."""

    is_remote, is_local = True, False

    def __init__(self, config: RunConfig, root: Path, shards: Shards, epoch: int) -> None:
        self.config, self.watchdog = config, Watchdog(config.watch)
        self._what = (config, root, shards)
        self.actors: list[ActorHandle] = []
        self.epoch = epoch
        self._plan: tuple[Slot, ...] = ()
        self.build(epoch)

    def build(self, epoch: int) -> None:
        """All ranks anew, from where the phase starts; those that are there are ended first."""
        self.shutdown()
        self.epoch = epoch
        size, seconds, gpus = self.config.learner.ranks, self.config.deadline, self.config.learner.gpus
        given = get_current_placement_group()  # Tune has set a trial's room aside already
        self._room: PlacementGroup = given or placement_group([bundle(gpus)] * size, strategy="PACK")
        answer(self._room.ready(), seconds, f"cluster (room for {size} learner ranks)")
        make: Any = ray.remote
        part = make(num_cpus=1, num_gpus=gpus, concurrency_groups={"control": 1})(LearnerPart)
        places = [PlacementGroupSchedulingStrategy(self._room, -1 if given else i) for i in range(size)]
        names = [name_of("learner", self._what[1], self.config.phase, epoch, rank) for rank in range(size)]
        self.actors = [
            part.options(scheduling_strategy=place, name=name).remote(*self._what, epoch, rank)
            for rank, (place, name) in enumerate(zip(places, names, strict=True))
        ]
        if size > 1:
            where: Any = self.actors[0].address.remote()
            self.ask([actor.join.remote(size, where) for actor in self.actors])
        self._where = answer([actor.where.remote() for actor in self.actors], seconds, "learner")

    def begin_update(self, records: Sequence[RecordId], first: int, steps: int) -> list[Any]:
        """Start some optimizer steps on what was read before and these records; `ask` for what is returned."""
        return [actor.update.remote(records, first, steps) for actor in self.actors]

    def done(self, refs: list[Any], seconds: float, since: float) -> bool:
        """Whether all ranks have answered, waiting up to `seconds`. LearnerLost when they were asked too long ago."""
        ready, late = ray.wait(refs, num_returns=len(refs), timeout=seconds)
        if late and any(_died(ref) for ref in ready):  # the others would wait for it until their own deadline
            return True
        for rank in (refs.index(ref) for ref in late):
            still = time.monotonic() - since
            self.watchdog.look(f"learner rank {rank} ({self._where[rank]})", still, partial(stack_of, self.actors[rank]))
        if late and time.monotonic() - since > self.config.deadline:
            ranks = ", ".join(str(refs.index(ref)) for ref in late)
            raise LearnerLost(f"rank {ranks} of the learner did not answer within {self.config.deadline:g} s")
        return not late

    def update(self, records: Sequence[RecordId], first: int, steps: int = 1) -> list[Update]:
        """Some optimizer steps."""
        return self.ask(self.begin_update(records, first, steps))

    def publish(self) -> Published:
        """The weights as they are now, for the rollout actors to pull when they are newer than theirs."""
        self._plan = self._plan or self.ask([actor.plan.remote() for actor in self.actors])
        weights: list[Any] = [actor.weights.remote() for actor in self.actors]
        # Who answers this has sent its weights: a learner that died before would leave rollout actors waiting for them. The
        # driver does not fetch them itself, since it may be on another node.
        version: Version = self.ask([actor.version.remote() for actor in self.actors])
        return Published(version, self._plan, (weights[0],))

    def ask(self, refs: list[Any]) -> Any:
        """What the first of some ranks answers, when all have. LearnerLost when one died or is late."""
        try:
            return answer(refs, self.config.deadline, "learner")[0]
        except RayTaskError:
            for rank, ref in enumerate(refs):  # a rank also fails when it misses one that died
                if _died(ref):
                    raise LearnerLost(f"rank {rank} of the learner died") from None
            raise
        except PartError as error:
            raise LearnerLost(str(error)) from None

    def rehearse(self, groups: bytes) -> None:
        """See `Learner.rehearse`."""
        self.ask([actor.rehearse.remote(groups) for actor in self.actors])

    def keep_good(self) -> None:
        """See `Learner.keep_good`."""
        self.ask([actor.keep_good.remote() for actor in self.actors])

    def roll_back(self, epoch: int, why: str, figures: dict[str, float]) -> tuple[RolledBack, Frozen]:
        """See `LearnerPart.roll_back`: the first weights of a new epoch."""
        self.epoch = epoch
        return self.ask([actor.roll_back.remote(epoch, why, figures) for actor in self.actors])

    def hash(self) -> str:
        """sha256 of the weights now."""
        return self.ask([actor.hash.remote() for actor in self.actors])

    def save(self, path: Path, state: dict[str, Any]) -> Path:
        """See `LearnerPart.save`."""
        return self.ask([actor.save.remote(path, state) for actor in self.actors])

    def restore(self, path: Path, epoch: int) -> dict[str, Any]:
        """See `LearnerPart.restore`."""
        return self.ask([actor.restore.remote(path, epoch) for actor in self.actors])

    def export(self, folder: Path) -> Path:
        """See `LearnerPart.export`."""
        return self.ask([actor.export.remote(folder) for actor in self.actors])

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

    def get_checkpointable_components(self) -> list[Any]:
        """None: this is one component."""
        return []

    def shutdown(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)
        if self.actors and not get_current_placement_group():
            remove_placement_group(self._room)
        self.actors = []


def bundle(gpus: float) -> dict[str, float]:
    """Room for one actor that computes: a core, and its GPUs if it has any."""
    return {"CPU": 1, "GPU": gpus} if gpus else {"CPU": 1}


def _died(ref: Any) -> bool:
    try:
        ray.get(ref, timeout=PATIENCE)
    except (RayTaskError, GetTimeoutError):
        return False
    except RayActorError:
        return True
    return False
