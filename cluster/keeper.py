"""The keeper of a tool pool: makes replicas, ends those that hang, replaces what has died, and follows the load."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError

from pixelis.cluster.grant import Granted, PoolSettings, grant, scaled
from pixelis.cluster.tool_actor import Health, Make, start
from pixelis.cluster.watchdog import tell
from pixelis.tools.local import BATCH

TICK = 0.25
"""Seconds between looks at the replicas."""
START = 120.0
"""Seconds in which a new replica must answer."""
DEAF = 20.0
"""Seconds without an answer from its event loop after which a replica is ended."""
HUNG = 10.0
"""Seconds that a model may work beyond all its deadlines."""
LEAVE = 30.0
"""Longest time that a replica which leaves may take to finish what it has, in seconds."""
FAILURES = 3
"""Replicas that died one after another without ever answering: then the tools themselves are broken."""


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

    Example: keeper = start_keeper(make, PoolSettings(replicas=2), "tools_demo")
    """

    def __init__(self, make: Make, granted: Granted, name: str) -> None:
        self.make, self.granted, self.name = make, granted, name
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
        watch = self._begin()
        if self._version == known and not self._broken:
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)
        if watch.done():
            watch.result()
        if self._broken:
            raise RuntimeError(self._broken)
        serving = {one.name: one.actor for one in self._kept.values() if one.health and one.leaving is None}
        return self._version, serving

    async def report(self) -> dict[str, Any]:
        """The pool in figures: replicas, what waits, asks by what came of them, batch sizes; sums over all replicas ever."""
        self._begin()
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

    def _begin(self) -> asyncio.Task[None]:
        """The first question starts the keeping: a constructor has no event loop."""
        self._watch = self._watch or asyncio.get_running_loop().create_task(self._keep())
        return self._watch

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
        actor = start(self.make, name, self.granted.cpus, self.granted.gpus)
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
        return f"Keeper({self.name.rpartition('_')[2]})"


def start_keeper(make: Make, settings: PoolSettings, name: str, spoken_for: float = 0.0) -> Any:
    """A keeper actor, which begins at once; `make` makes the server of each replica. `spoken_for`: CPUs that are free now, but
    another part's. What the cluster has not free is told, and done without.
    """
    free = ray.available_resources()
    granted = grant(settings, free | {"CPU": free.get("CPU", 0.0) - spoken_for})
    if granted.told:
        tell(granted.told)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 0, "max_concurrency": 100}
    made: Any = ray.remote(Keeper).options(name=f"{name}_keeper", scheduling_strategy="DEFAULT", **options)
    keeper = made.remote(make, granted, name)
    keeper.report.remote()  # a constructor has no event loop: this is where the replicas begin to start
    return keeper
