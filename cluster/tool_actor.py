"""A replica of the tools as a Ray actor: a server, and ways to look at it while it works."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError, PendingCallsLimitExceeded, RayActorError

from pixelis.cluster.part import where
from pixelis.cluster.watchdog import stacks
from pixelis.tools.call import Failure
from pixelis.tools.client import Gone
from pixelis.tools.server import Busy, Server
from pixelis.tools.tool import Answer, Ask

Make = Callable[[], Server]
"""Makes the server of a replica, in its process."""
CALLS = 1000
"""Bundles that an actor holds at once; the server's own queue is the limit that callers meet."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a replica is. Example: Health("process 4711 on 10.0.0.3", depth=2, working=True).overdue == 0.0"""

    where: str
    depth: int = 0
    """Asks that wait."""
    working: bool = False
    overdue: float = 0.0
    """Seconds by which a model's work is beyond all deadlines."""
    counts: dict[str, int] = field(default_factory=dict)
    """Asks by what came of them."""
    batches: dict[int, int] = field(default_factory=dict)
    """Size of a batch -> how many there were."""
    ids: dict[str, str] = field(default_factory=dict)
    """The tools' ids by op."""


class ToolActor:
    """Serves tools. `share` is the part of a GPU that is its own (0 for none).

    Example: start(partial(backend.server, Learned(), ServerSettings(), MediaLimits()), "tools_1")
    """

    def __init__(self, make: Make, share: float = 0.0) -> None:
        if share:
            _bound_gpu_memory(share)
        self.server = make()

    async def ask(self, asked: Sequence[tuple[Ask, float]], shas: Sequence[str], *media: np.ndarray) -> list[Answer]:
        """Answers in order. `media`: bytes, in the order of `shas`, of every medium that is looked at. Raises Busy.

        They are arguments of their own so that Ray hands them over from its store without a copy, and a replica that is
        killed holds no references: what those kept stayed in the store.
        """
        for sha, data in zip(shas, media, strict=True):
            if not self.server.has(sha):
                self.server.add(sha, data.tobytes())
        return await self.server.ask(asked)

    async def probe(self) -> None:
        """Comes back when the models are free to work."""
        await self.server.probe()

    @ray.method(concurrency_group="control")
    async def health(self) -> Health:
        """Answers while the queue is full and the models work: it has an event loop of its own."""
        server = self.server
        return Health(
            where(), server.depth, server.working, server.overdue, dict(server.counts), dict(server.batches), server.ids
        )

    @ray.method(concurrency_group="control")
    async def stack(self) -> str:
        """What the threads of this process are doing."""
        return stacks()

    def __repr__(self) -> str:
        return "Tools"


def start(make: Make, name: str, cpus: float = 0.0, gpus: float = 0.0) -> Any:
    """A new replica; it is not restarted when it dies, since its keeper makes another.

    Scheduled for itself: in the placement group of a Tune trial it would wait for room that nobody has set aside.
    """
    groups = {"ask": CALLS, "control": 2}
    options = {"num_cpus": cpus, "num_gpus": gpus, "max_concurrency": CALLS, "max_pending_calls": CALLS}
    made = ray.remote(concurrency_groups=groups)(ToolActor)  # type: ignore[call-overload]
    once = {"max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "DEFAULT"}
    return made.options(name=name, **once, **options).remote(make, gpus)


class RayReplica:
    """A tool actor as a client's replica; `media` holds object references."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name, self.actor = name, actor

    async def ask(self, asked: Sequence[tuple[Ask, float]], media: Mapping[str, Any]) -> list[Answer]:
        """One call of the actor. Raises Gone or Busy."""
        try:
            return await self.actor.ask.remote(asked, tuple(media), *media.values())
        except ObjectLostError as error:  # with the node that it was on
            return [Answer(Failure("infra", "lost_media", str(error).splitlines()[0]))] * len(asked)
        except RayActorError as error:
            raise Gone(str(error).splitlines()[0]) from error
        except PendingCallsLimitExceeded as error:
            raise Busy(str(error)) from error

    async def probe(self) -> None:
        """Through the queue of its models. Raises Gone."""
        await self._told(self.actor.probe)

    async def ids(self) -> Mapping[str, str]:
        """Its tools' ids by op. Raises Gone."""
        health: Health = await self._told(self.actor.health)
        return health.ids

    async def _told(self, method: Any) -> Any:
        try:
            return await method.remote()
        except RayActorError as error:
            raise Gone(str(error).splitlines()[0]) from error


def _bound_gpu_memory(share: float) -> None:
    """Ray's fractions of a GPU are bookkeeping: what a process really takes is bounded here."""
    import torch

    if torch.cuda.is_available() and os.environ.get("CUDA_VISIBLE_DEVICES"):
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))
