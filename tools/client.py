"""Asks spread over replicas of a server: bundles, a breaker for each replica, one retry elsewhere, never past a deadline."""

from __future__ import annotations

import asyncio
import random
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pixelis.tools.call import Failure
from pixelis.tools.local import BATCH
from pixelis.tools.server import Busy
from pixelis.tools.tool import Answer, Ask

MARGIN = 0.02
"""Seconds before its deadline at which an ask is given up, so that its caller hears of it in time."""
FAILS = 3
"""Infrastructure failures in a row that take a replica out of service."""
REST = 0.5
"""Seconds until it is probed, and between probes."""
PROBE = 5.0
"""Seconds in which a probe must come back."""
BACKOFF = 0.01, 0.05
"""Least and most seconds before another try."""
OWN_FAULT = frozenset({"died", "timeout", "out_of_memory", "bad_result"})
"""Codes of infrastructure failures that speak against the replica (and not, say, against the medium)."""


class Gone(Exception):
    """The replica's process has ended, or cannot be reached."""


class Replica(Protocol):
    """One server, wherever it runs. `ask` raises Gone or Busy; its media are sent along as whatever the transport takes."""

    name: str

    async def ask(self, asked: Sequence[tuple[Ask, float]], media: Mapping[str, Any]) -> list[Answer]: ...

    async def probe(self) -> None:
        """Comes back when its models are free to work."""
        ...

    async def ids(self) -> Mapping[str, str]:
        """Its tools' ids by op."""
        ...


@dataclass(slots=True)
class Sent:
    """An ask on its way. `until` is `time.time()`."""

    ask: Ask
    media: Mapping[str, Any]
    until: float
    answer: asyncio.Future[Answer]


@dataclass(slots=True)
class Member:
    """What a client knows of a replica."""

    replica: Replica
    pending: int = 0
    fails: int = 0
    resting: bool = False
    """Out of service until a probe comes back."""
    outbox: dict[str, list[Sent]] = field(default_factory=dict)


class Client:
    """Answers asks through replicas. What is asked in one turn of the event loop travels in bundles, each of one op.

    An ask goes to one of the two replicas that its medium belongs to (they have its embedding), the less loaded, or, when
    both have a batch ahead, to the least loaded of all. A replica that lets a deadline pass, or fails three times in a row,
    is out of service until a probe comes back from its models.

    Example:
        >>> client.update(replicas)                                        # doctest: +SKIP
        >>> answer = await client.ask(ask, media, time.time() + 10)        # doctest: +SKIP
    """

    def __init__(self, batch: int = BATCH) -> None:
        self.batch = batch
        self._members: dict[str, Member] = {}
        self._gone: set[str] = set()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flush: asyncio.Handle | None = None

    def update(self, replicas: Sequence[Replica]) -> None:
        """The replicas in service, by name; what others have taken they still answer. One that has gone stays gone."""
        kept = self._members
        self._gone &= {replica.name for replica in replicas}
        there = [replica for replica in replicas if replica.name not in self._gone]
        self._members = {replica.name: kept.get(replica.name) or Member(replica) for replica in there}
        self._changed.set()

    @property
    def serving(self) -> list[str]:
        """Names of the replicas that are asked."""
        return [name for name, member in self._members.items() if not member.resting]

    async def ask(self, ask: Ask, media: Mapping[str, Any], until: float) -> Answer:
        """The answer, or an infrastructure failure, before `until` (`time.time()`)."""
        try:
            async with asyncio.timeout(until - MARGIN - time.time()):
                return await self._tried(ask, media, until)
        except TimeoutError:
            told = f"{ask.op} was not answered in time" if self._members else "no replica of the tools is there"
            return Answer(Failure("infra", "timeout", told))

    async def _tried(self, ask: Ask, media: Mapping[str, Any], until: float) -> Answer:
        """At most two replicas get to fail it; a busy or missing one only costs time."""
        avoid: set[str] = set()
        while True:
            member = await self._choose(ask, avoid)
            try:
                answer = await self._sent(member, Sent(ask, media, until, asyncio.get_running_loop().create_future()))
            except Busy:
                await asyncio.sleep(random.uniform(*BACKOFF))
                continue
            except Gone as error:
                answer = Answer(Failure("infra", "died", str(error)))
            if not answer.infra or avoid:
                return answer
            avoid.add(member.replica.name)
            await asyncio.sleep(random.uniform(*BACKOFF))

    async def ids(self) -> Mapping[str, str]:
        """The tools' ids by op, from whatever replica is there first."""
        while True:
            for member in list(self._members.values()):
                try:
                    return await member.replica.ids()
                except Gone:
                    self._forget(member)
            self._changed.clear()
            await self._changed.wait()

    async def _choose(self, ask: Ask, avoid: set[str]) -> Member:
        """A replica in service, one not to be avoided if there is any; waits for one."""
        while True:
            serving = [member for member in self._members.values() if not member.resting]
            fresh = [member for member in serving if member.replica.name not in avoid]
            if serving:
                return self._least(fresh or serving, ask.media[0])
            self._changed.clear()
            await self._changed.wait()

    def _least(self, members: list[Member], medium: str) -> Member:
        members.sort(key=lambda member: zlib.crc32(f"{member.replica.name} {medium}".encode()))
        near = min(members[:2], key=lambda member: member.pending)
        return near if near.pending < self.batch else min(members, key=lambda member: member.pending)

    async def _sent(self, member: Member, one: Sent) -> Answer:
        member.pending += 1
        member.outbox.setdefault(one.ask.op, []).append(one)
        self._flush = self._flush or asyncio.get_running_loop().call_soon(self._send_all)
        try:
            answer = await one.answer
        except asyncio.CancelledError:  # its deadline has come
            self._rest(member)
            raise
        except Gone:
            self._forget(member)
            raise
        finally:
            member.pending -= 1
        if answer.infra and isinstance(answer.found, Failure) and answer.found.code in OWN_FAULT:
            member.fails += 1
            if member.fails >= FAILS:
                self._rest(member)
        elif not answer.infra:
            member.fails = 0
        return answer

    def _send_all(self) -> None:
        self._flush = None
        for member in list(self._members.values()):
            for sent in member.outbox.values():
                for start in range(0, len(sent), self.batch):
                    self._go(self._bundle(member, sent[start : start + self.batch]))
            member.outbox = {}

    async def _bundle(self, member: Member, sent: list[Sent]) -> None:
        media: dict[str, Any] = {}
        for one in sent:
            media.update(one.media)
        try:
            answers = await member.replica.ask([(one.ask, one.until) for one in sent], media)
        except Exception as error:  # every caller gets it: Gone and Busy are theirs to handle, a tool's bug ends them
            for one in sent:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for one, answer in zip(sent, answers, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)

    def _forget(self, member: Member) -> None:
        self._gone.add(member.replica.name)
        self._members.pop(member.replica.name, None)

    def _rest(self, member: Member) -> None:
        if not member.resting:
            member.resting = True
            self._go(self._probe(member))

    async def _probe(self, member: Member) -> None:
        """Take a replica back into service when its models work again; one that has gone is forgotten."""
        while self._members.get(member.replica.name) is member:
            await asyncio.sleep(REST)
            try:
                async with asyncio.timeout(PROBE):
                    await member.replica.probe()
            except TimeoutError:
                continue
            except Gone:
                return self._forget(member)
            member.resting, member.fails = False, 0
            self._changed.set()
            return

    def _go(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)
