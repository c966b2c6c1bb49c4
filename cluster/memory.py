"""The episode memory on a cluster: each shard a detached actor that Ray restarts, and whose keys a memory holds."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ObjectLostError, RayActorError

from pixelis.cluster.errors import UsageError
from pixelis.cluster.part import NAMESPACE, answer, name_of, where
from pixelis.cluster.watchdog import stacks
from pixelis.memory.episodes import EpisodeShard
from pixelis.memory.log import replace_file
from pixelis.memory.recall import AwayError, folders

if TYPE_CHECKING:
    from pixelis.cluster.config import RunConfig
    from pixelis.memory.encoder import EncoderSettings

CALLS = 100
"""Calls that a shard holds at once."""
START = 120.0
"""Seconds in which a shard has to read its log."""
CARD = "memory.json"


class MemoryActor:
    """A shard that does what it is asked one after another on a thread of its own, and says how it is meanwhile."""

    def __init__(self, root: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(1)  # the cores belong to all parts
        self.root = root
        self._shard = EpisodeShard(root)
        self._thread = ThreadPoolExecutor(1)

    async def ask(self, method: str, *given: Any) -> Any:
        """Call a method of EpisodeShard. Ray sends it again when the actor died: what was added is known by its id."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, getattr(self._shard, method), *given)

    @ray.method(concurrency_group="control")
    async def health(self) -> str:
        """Where it is; answers while the shard works."""
        return where()

    @ray.method(concurrency_group="control")
    async def stack(self) -> str:
        """What the threads of this process are doing."""
        return stacks()

    def __repr__(self) -> str:
        return f"Memory({self.root.name})"


class RayShard:
    """A shard's actor as a `memory.recall.Handle`."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name, self.actor = name, actor

    def ask(self, method: str, *given: Any) -> Future[Any]:
        """Call a method of the shard. The future raises AwayError when the actor is gone, and the shard's own errors."""
        told: Future[Any] = Future()

        def settle(done: Future[Any]) -> None:
            if not told.set_running_or_notify_cancel():
                return
            error = done.exception()
            if isinstance(error, RayActorError | ObjectLostError):
                told.set_exception(AwayError(str(error).splitlines()[0]))
            elif error is not None:
                told.set_exception(error)
            else:
                told.set_result(done.result())

        self.actor.ask.remote(method, *given).future().add_done_callback(settle)
        return told


def start_memory(root: Path, shards: int) -> list[RayShard]:
    """The shards of the memory in a folder, started or found running; of one that is there, as many as it was made with.

    They outlive the driver: `stop_memory` ends them. Raises: PartError for one that does not open in time.
    """
    made: Any = ray.remote(concurrency_groups={"control": 2})(MemoryActor)  # type: ignore[call-overload]
    kept = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": CALLS}
    found = {"namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    for number in range(0 if folders(root) else shards):  # how many there are is on disk before any is filled
        (root / str(number)).mkdir(parents=True)
    handles = []
    for number, folder in enumerate(folders(root)):
        actor = made.options(name=name_of("memory", root, number), **found, **kept).remote(folder.resolve())
        handles.append(RayShard(f"memory shard {number}", actor))
    for handle in handles:
        answer(handle.actor.ask.remote("stats"), START, handle.name)
    return handles


def remembering(run: RunConfig, root: Path) -> list[RayShard]:
    """The memory of a run, with what makes its keys written down beside it."""
    from pixelis.cluster.policy import resolve

    handles = start_memory(root, run.memory.shards)
    write_card(root, resolve(run.start).folder, run.memory.encoder)
    return handles


def stop_memory(root: Path) -> None:
    """End the shards of the memory in a folder; what they acknowledged is on disk."""
    for folder in folders(root):
        try:
            actor = ray.get_actor(name_of("memory", root, int(folder.name)), NAMESPACE)
        except ValueError:  # it does not run
            continue
        ray.kill(actor)


def write_card(root: Path, policy: Path, settings: EncoderSettings) -> None:
    """Write down beside the shards what makes their keys: a phase-1 policy, or models from local folders."""
    root.mkdir(parents=True, exist_ok=True)
    replace_file(root / CARD, json.dumps({"policy": str(policy.resolve()), **asdict(settings)}, indent=1).encode())


def read_card(root: Path) -> tuple[Path, EncoderSettings]:
    """What `write_card` wrote. UsageError when it is not there."""
    from pixelis.memory.encoder import EncoderSettings

    if not (root / CARD).is_file():
        raise UsageError(f"{root}: no {CARD}, which says what makes the keys; name the policy with --policy")
    told = json.loads((root / CARD).read_text())
    return Path(told.pop("policy")), EncoderSettings(**told)
