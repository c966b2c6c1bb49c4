"""The rollout actors as one crew: jobs go out, receipts come back, a dead actor's job goes to another."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pixelis.cluster.job import Job, Published, Receipt
from pixelis.cluster.part import PartError

PATIENCE = 1.0
"""Seconds between looks at actors that do not answer."""
DEATHS = 5
"""Dead actors in one round of jobs that are too many to be bad luck."""


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

    def send(self, actor: int, job: Job, published: Published | None) -> None: ...

    def fetch(self, seconds: float) -> list[tuple[int, Receipt | Bug]]: ...

    def revive(self) -> None: ...


class Crew:
    """Hands jobs to actors, one at a time each.

    Example:
        >>> crew.start([Job("sample", (0, 1), "rft")], published)          # doctest: +SKIP
        >>> [receipt] = crew.finish()                                      # doctest: +SKIP
    """

    def __init__(self, actors: Actors, deadline: float) -> None:
        self.actors, self.deadline = actors, deadline
        self.infra = 0
        """Rollout actors that died so far."""
        self._waiting: deque[Job] = deque()
        self._sent: dict[int, tuple[Job, float]] = {}
        self._done: dict[int, Receipt] = {}
        self._published: Published | None = None
        self._order: list[int] = []

    def start(self, jobs: Sequence[Job], published: Published | None) -> None:
        """Give out jobs without waiting; `finish` must be called before the next `start`."""
        assert not self._waiting and not self._sent, "the last round of jobs is not finished"
        self._waiting = deque(jobs)
        self._order = [job.seq for job in jobs]
        self._done, self._published = {}, published
        self._give()

    def finish(self) -> list[Receipt]:
        """Wait for every job; receipts in the order of the jobs. PartError when an actor is late or the crew dies."""
        deaths, since = 0, time.monotonic()
        while self._waiting or self._sent:
            for actor, result in self.actors.fetch(PATIENCE):
                self._take(actor, result)
                since = time.monotonic()
            lost = [actor for actor in self._sent if actor not in self.actors.healthy()]
            for actor in lost:
                self._waiting.append(self._sent.pop(actor)[0])
            deaths += len(lost)
            self.infra += len(lost)
            if deaths > DEATHS:
                raise PartError(f"rollout actors died {deaths} times in one step; the last job was {self._waiting[-1].kind}")
            if lost or not self.actors.healthy():
                self.actors.revive()
            self._check_deadlines(since)
            self._give()
        return [self._done[seq] for seq in self._order]

    def run(self, jobs: Sequence[Job], published: Published | None) -> list[Receipt]:
        """`start` and `finish`."""
        self.start(jobs, published)
        return self.finish()

    def _give(self) -> None:
        for actor in self.actors.healthy():
            if actor not in self._sent and self._waiting:
                job = self._waiting.popleft()
                self._sent[actor] = (job, time.monotonic())
                self.actors.send(actor, job, self._published)

    def _take(self, actor: int, result: Receipt | Bug) -> None:
        job, _ = self._sent.pop(actor)
        if isinstance(result, Bug):
            if result.user is not None:
                raise result.user
            raise PartError(f"rollout actor {actor} failed in {job.kind}: {result.message}\n{result.traceback}")
        self._done[job.seq] = result

    def _check_deadlines(self, since: float) -> None:
        now = time.monotonic()
        for actor, (job, sent) in self._sent.items():
            if now - sent > self.deadline:
                late = f"{job.kind} of {len(job.indices)} questions of {job.split}"
                raise PartError(f"rollout actor {actor} did not finish {late} within {self.deadline:g} s")
        if self._waiting and not self._sent and now - since > self.deadline:
            raise PartError(f"no rollout actor came back within {self.deadline:g} s")
