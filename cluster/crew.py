"""The rollout actors as one crew: jobs go out, receipts come back, the jobs of a dead or hanging actor go to another."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from pixelis.cluster.job import Job, Key, Published, Receipt, Report
from pixelis.cluster.part import PartError
from pixelis.cluster.watchdog import Watchdog

DEPTH = 2
"""Jobs that an actor holds, so that it need not wait for the next one."""
DEATHS = 5
"""Actors that died one after another, without any job done, that are too many to be bad luck."""


@dataclass(frozen=True, slots=True)
class Bug:
    """An exception inside a rollout actor: not a dead actor, so the run ends with its traceback."""

    message: str
    traceback: str
    user: Exception | None = None
    """The exception itself where it is one that the user's input caused."""


class Actors(Protocol):
    """What the crew needs of a group of actors (RLlib's, behind `algorithm.Runners`)."""

    def healthy(self) -> list[int]: ...

    def send(self, actor: int, jobs: tuple[Job, ...], published: Published | None) -> None:
        """Look at an actor, giving it jobs; its report comes by `fetch` as soon as a job is done, or after a second."""
        ...

    def fetch(self, seconds: float) -> list[tuple[int, Report | Bug]]: ...

    def revive(self) -> None: ...

    def end(self, actor: int) -> None:
        """Kill an actor that hangs; it comes back like one that died."""
        ...

    def stack(self, actor: int) -> str:
        """What an actor's threads are doing, or that it does not say."""
        ...


@dataclass(slots=True)
class Member:
    """What the crew knows of one actor."""

    jobs: dict[Key, Job] = field(default_factory=dict)
    """Given and not known to be done."""
    asked: bool = False
    """Whether a report is on its way."""
    since: float = 0.0
    """When it last did something, or got its first job."""
    doing: str = ""
    where: str = ""


class Crew:
    """Hands jobs to actors and takes their receipts.

    Example:
        >>> receipts = crew.run([Job("evaluate", (0, 1), "dev")], published)    # doctest: +SKIP
    """

    def __init__(self, actors: Actors, deadline: float, watch: float = math.inf) -> None:
        self.actors, self.deadline, self.watchdog = actors, deadline, Watchdog(watch)
        self.infra = 0
        """Rollout actors that died so far."""
        self._deaths = 0
        self._late: set[Key] = set()
        self._waiting: deque[Job] = deque()
        self._members: dict[int, Member] = {}
        self._spare: list[Receipt] = []
        self._since = time.monotonic()

    def give(self, jobs: Sequence[Job]) -> None:
        """Add jobs; `collect` hands them out."""
        if self.idle:
            self._since = time.monotonic()
        self._waiting.extend(jobs)

    @property
    def idle(self) -> bool:
        """Whether nothing is to be done or taken."""
        return not self._waiting and not self._spare and not any(m.jobs for m in self._members.values())

    def collect(self, published: Published | None, seconds: float) -> list[Receipt]:
        """Hand out jobs and return what was done since, waiting up to `seconds`.

        An actor that is late is ended. PartError when a job was late in a second one, when an actor has a bug, or when
        all keep dying.
        """
        self._hand_out(published)
        done, self._spare = self._spare, []
        for actor, result in self.actors.fetch(0.0 if done else seconds):
            done += self._take(actor, result)
        self._bury()
        self._check_deadlines()
        return done

    def run(self, jobs: Sequence[Job], published: Published | None) -> list[Receipt]:
        """Do some jobs and wait for all; receipts in the order of the jobs. Others' receipts are kept for `collect`."""
        wanted = {job.key for job in jobs}
        found: dict[Key, Receipt] = {}
        others: list[Receipt] = []
        self.give(jobs)
        while len(found) < len(jobs):
            for receipt in self.collect(published, 1.0):
                if receipt.key in wanted:
                    found[receipt.key] = receipt
                else:
                    others.append(receipt)
        self._spare += others
        return [found[job.key] for job in jobs]

    def _hand_out(self, published: Published | None) -> None:
        members = {actor: self._members.setdefault(actor, Member()) for actor in self.actors.healthy()}
        new: dict[int, list[Job]] = {actor: [] for actor in members}
        while self._waiting and members:
            actor = min(members, key=lambda a: len(members[a].jobs) + len(new[a]))
            member = members[actor]
            if member.asked or len(member.jobs) + len(new[actor]) >= DEPTH:
                break
            new[actor].append(self._waiting.popleft())
        for actor, member in members.items():
            if member.asked or not (member.jobs or new[actor]):
                continue
            member.since = member.since if member.jobs else time.monotonic()
            member.jobs |= {job.key: job for job in new[actor]}
            member.asked = True
            self.actors.send(actor, tuple(new[actor]), published)

    def _take(self, actor: int, result: Report | Bug) -> list[Receipt]:
        member = self._members[actor]
        member.asked = False
        if isinstance(result, Bug):
            if result.user is not None:
                raise result.user
            raise PartError(f"rollout actor {actor} failed: {result.message}\n{result.traceback}")
        member.doing, member.where = result.doing, result.where
        for receipt in result.done:
            if member.jobs.pop(receipt.key, None) is None:  # it was late, and has just been given to another
                self._waiting = deque(job for job in self._waiting if job.key != receipt.key)
            self._late.discard(receipt.key)
            member.since = self._since = time.monotonic()
            self._deaths = 0
        gone = [key for key in member.jobs if key not in result.held]  # it was restarted and knows nothing of them
        self._waiting.extendleft(member.jobs.pop(key) for key in reversed(gone))
        return list(result.done)

    def _bury(self) -> None:
        """Jobs of actors that are out of service go back to the others."""
        healthy = self.actors.healthy()
        lost = [actor for actor in self._members if actor not in healthy]
        for actor in lost:
            self._waiting.extendleft(reversed(self._members.pop(actor).jobs.values()))
        self.infra += len(lost)
        self._deaths += len(lost)
        if self._deaths > DEATHS:
            raise PartError(f"rollout actors died {self._deaths} times without finishing a job")
        if lost or (self._waiting and not healthy):
            self.actors.revive()

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for actor, member in self._members.items():
            still = now - member.since if member.jobs else 0.0
            self.watchdog.look(f"rollout actor {actor} ({member.where})", still, partial(self.actors.stack, actor))
            if member.jobs and now - member.since > self.deadline:
                self._replace(actor, member)
        if self._waiting and not any(m.jobs for m in self._members.values()) and now - self._since > self.deadline:
            raise PartError(f"no rollout actor came back within {self.deadline:g} s")

    def _replace(self, actor: int, member: Member) -> None:
        """Take the jobs of an actor that is late away from it, and its process too."""
        jobs = ", ".join(map(str, member.jobs.values()))
        doing = f"; last seen doing {member.doing}" if member.doing else ""
        told = f"rollout actor {actor} did not finish {jobs} within {self.deadline:g} s{doing}"
        if self._late & member.jobs.keys():
            raise PartError(f"{told}, nor did another one before it")
        self.watchdog.tell(f"{told}: it is ended, and another one does it")
        self._late |= member.jobs.keys()
        self._waiting.extendleft(reversed(member.jobs.values()))
        member.jobs.clear()
        self._since = time.monotonic()
        self.actors.end(actor)
