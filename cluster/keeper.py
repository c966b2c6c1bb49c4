"""The keeper of a tool pool: makes replicas, ends those that hang, replaces what has died, and follows the load."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError

from pixelis.cluster.tool_actor import Health, Make, start
from pixelis.cluster.watchdog import tell
from pixelis.tools.local import BATCH
from pixelis.tools.server import ServerSettings

TICK = 0.25
"""Seconds between looks at the replicas."""
START = 120.0
"""Seconds in which a new replica must answer."""
DEAF = 20.0
"""Seconds without an answer from its event loop after which a replica is ended."""
HUNG = 10.0
"""Seconds that a model may work beyond all its deadlines."""
BUSY_TICKS = 4
"""Looks in a row that must find a batch waiting at every replica before one is added."""
LEAVE = 30.0
"""Longest time that a replica which leaves may take to finish what it has, in seconds."""
FAILURES = 3
"""Replicas that died one after another without ever answering: then the tools themselves are broken."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """A pool of replicas, each with all tools."""

    replicas: int = 2
    """That are always there."""
    most: int = 0
    """Under load; 0 for no more than `replicas`."""
    cpus: float = 1.0
    """Cores of a replica, as far as the cluster has them free."""
    gpus: float = 0.0
    """Share of a GPU, as far as the cluster has it; without one the tools run on the CPU."""
    idle: float = 30.0
    """Seconds without work after which one beyond `replicas` is let go."""
    server: ServerSettings = field(default_factory=ServerSettings)

    @property
    def limit(self) -> int:
        """Most replicas."""
        return max(self.replicas, self.most)


@dataclass(frozen=True, slots=True)
class Granted:
    """What a pool gets of what it asked for. `told` says in a line what it does not."""

    replicas: int
    limit: int
    cpus: float
    gpus: float
    idle: float = 30.0
    told: str = ""


def grant(wanted: PoolSettings, free: Mapping[str, float]) -> Granted:
    """Fits a pool into what a cluster has free, so that no replica waits for ever for what is not there.

    Example:
        >>> grant(PoolSettings(replicas=4, gpus=0.5), {"CPU": 8, "GPU": 1}).replicas
        2
        >>> grant(PoolSettings(replicas=1, gpus=0.5), {"CPU": 0.0}).told
        'the tools get 0 CPUs a replica instead of 1; run on the CPU: no 0.5 GPU is free'
    """
    told = []
    cpus, gpus, most = wanted.cpus, wanted.gpus, wanted.limit
    if gpus and free.get("GPU", 0.0) < gpus:
        told.append(f"run on the CPU: no {gpus:g} GPU is free")
        gpus = 0.0
    if gpus:  # a share above 1 is whole GPUs; shares below never straddle two
        fit = int(free["GPU"] // gpus) if gpus >= 1 else int(free["GPU"]) * int(1 / gpus) or int(free["GPU"] / gpus)
        most = min(most, fit)
    if cpus and free.get("CPU", 0.0) < cpus * min(wanted.replicas, most):
        told.insert(0, f"get 0 CPUs a replica instead of {cpus:g}")
        cpus = 0.0
    if cpus:
        most = min(most, int(free["CPU"] / cpus))
    replicas = min(wanted.replicas, most)
    if replicas < wanted.replicas:
        told.insert(0, f"have {replicas} replicas instead of {wanted.replicas}")
    return Granted(replicas, most, cpus, gpus, wanted.idle, f"the tools {'; '.join(told)}" if told else "")


def scaled(now: int, granted: Granted, busy_ticks: int, idle: float) -> int:
    """How many replicas there should be, after so many looks that found a batch waiting at each, or so long without work.

    Example:
        >>> granted = Granted(1, 4, cpus=1.0, gpus=0.0)
        >>> scaled(2, granted, BUSY_TICKS, 0.0), scaled(2, granted, 0, granted.idle)
        (3, 1)
    """
    step = 1 if busy_ticks >= BUSY_TICKS else -1 if idle >= granted.idle else 0
    return max(granted.replicas, min(granted.limit, now + step))


@dataclass(slots=True)
class Kept:
    """A replica as its keeper sees it."""

    name: str
    actor: Any
    since: float = field(default_factory=time.monotonic)
    """When it last answered, or was made."""
    health: Health | None = None
    """None until it answers for the first time."""
    leaving: float | None = None
    """Since when it gets no new asks."""
    look: asyncio.Task[None] | None = None


class Keeper:
    """Owns the replicas of one pool: with it they end. An actor itself, restarted by Ray.

    Example: keeper = start_keeper(classical, PoolSettings(replicas=2), "demo")
    """

    def __init__(self, make: Make, server: ServerSettings, granted: Granted, name: str) -> None:
        self.make, self.server, self.granted, self.name = make, server, granted, name
        self.counts: Counter[str] = Counter()
        """Of replicas: made, died, hung, drained."""
        self.wanted = self.granted.replicas
        self._kept: dict[str, Kept] = {}
        self._version = 0
        self._changed = asyncio.Event()
        self._busy_ticks, self._failures = 0, 0
        self._last_work = time.monotonic()
        self._past: Counter[str] = Counter()
        self._past_batches: Counter[int] = Counter()
        self._watch: asyncio.Task[None] | None = None
        self._broken = ""

    async def members(self, known: int, seconds: float) -> tuple[int, dict[str, Any]]:
        """The version of the membership and the replicas in service, as soon as it is not `known`, or after `seconds`.

        RuntimeError when replicas die before they ever answer: the tools cannot be made.
        """
        self._watch = self._watch or asyncio.get_running_loop().create_task(self._keep())
        if self._version == known and not self._broken:
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)
        if self._watch.done():
            self._watch.result()
        if self._broken:
            raise RuntimeError(self._broken)
        serving = {one.name: one.actor for one in self._kept.values() if one.health and one.leaving is None}
        return self._version, serving

    async def report(self) -> dict[str, Any]:
        """The pool in figures: replicas, what waits, asks by what came of them, batch sizes; sums over all replicas ever."""
        alive = [one.health for one in self._kept.values() if one.health]
        counts, batches = Counter(self._past), Counter(self._past_batches)
        for health in alive:
            counts.update(health.counts)
            batches.update(health.batches)
        return {
            "replicas": len(alive), "wanted": self.wanted, "depth": sum(h.depth for h in alive),
            "working": sum(h.working for h in alive), "asks": dict(counts), "batches": dict(batches),
            "made": self.counts["made"], "died": self.counts["died"], "hung": self.counts["hung"],
            "drained": self.counts["drained"],
        }  # fmt: skip

    async def _keep(self) -> None:
        while not self._broken:
            while sum(one.leaving is None for one in self._kept.values()) < self.wanted:
                self._add()
            for one in list(self._kept.values()):
                if one.look is None or one.look.done():
                    one.look = asyncio.get_running_loop().create_task(self._look(one))
                self._judge(one)
            self._scale()
            await asyncio.sleep(TICK)

    def _add(self) -> None:
        self.counts["made"] += 1
        name = f"{self.name}_{self.counts['made']}_{time.time_ns() % 10**9}"  # a restarted keeper counts from one again
        actor = start(self.make, self.server, name, self.granted.cpus, self.granted.gpus)
        self._kept[name] = Kept(name, actor)

    async def _look(self, one: Kept) -> None:
        """Ask a replica how it is."""
        try:
            health = await one.actor.health.remote()
        except RayActorError as error:
            self._bury(one, "died", str(error))
            return
        if one.health is None:
            self._change()
        one.health, one.since, self._failures = health, time.monotonic(), 0

    def _judge(self, one: Kept) -> None:
        """End a replica that hangs, or has finished what it had when it was told to leave."""
        silent = time.monotonic() - one.since
        if one.health is None:
            if silent > START:
                self._bury(one, "hung", f"it did not answer within {START:g} s of its start")
        elif silent > DEAF or one.health.overdue > HUNG:
            self._bury(one, "hung", f"no answer for {silent:.0f} s, a model {one.health.overdue:.0f} s beyond its deadline")
        elif one.leaving is not None:
            left = time.monotonic() - one.leaving
            if left > LEAVE or (left > 1 and not one.health.depth and not one.health.working):
                self._bury(one, "drained", "")

    def _bury(self, one: Kept, why: str, told: str) -> None:
        if self._kept.pop(one.name, None) is None:
            return
        self.counts[why] += 1
        if one.health is None:
            self._failures += 1
            if self._failures >= FAILURES:
                self._broken = f"{self._failures} replicas of the tools ended before they answered; the last: {told}"
        else:
            self._past.update(one.health.counts)
            self._past_batches.update(one.health.batches)
        if why == "hung":
            tell(f"tool replica {one.name} is ended: {told}")
        ray.kill(one.actor)
        self._change()

    def _scale(self) -> None:
        serving = [one for one in self._kept.values() if one.health and one.leaving is None]
        now = time.monotonic()
        depth = sum(one.health.depth for one in serving if one.health)
        if any(one.health and (one.health.depth or one.health.working) for one in serving):
            self._last_work = now
        self._busy_ticks = self._busy_ticks + 1 if serving and depth > BATCH * len(serving) else 0
        idle = now - self._last_work
        wanted = scaled(self.wanted, self.granted, self._busy_ticks, idle)
        if wanted == self.wanted:
            return
        self.wanted, self._busy_ticks, self._last_work = wanted, 0, now
        if wanted < len(serving):
            serving[-1].leaving = now
            self._change()

    def _change(self) -> None:
        self._version += 1
        self._changed.set()

    def __repr__(self) -> str:
        return f"Keeper({self.name})"


def start_keeper(make: Make, settings: PoolSettings, name: str) -> Any:
    """A keeper actor; `make` makes the tools in each replica. What the cluster has not free is told, and done without."""
    granted = grant(settings, ray.available_resources())
    if granted.told:
        tell(granted.told)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 0, "max_concurrency": 100}
    made = ray.remote(Keeper).options(name=f"keeper_{name}", **options)
    return made.remote(make, settings.server, granted, f"tools_{name}")
