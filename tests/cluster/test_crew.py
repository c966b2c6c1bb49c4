"""The crew: every job answered once, in order, whoever dies; bugs end the run, an actor that is late only its own."""

import time
from collections import deque

import pytest

from pixelis.cluster.crew import Bug, Crew
from pixelis.cluster.job import Job, Published, Receipt, Report
from pixelis.cluster.part import PartError

JOBS = [Job("sample", (i,), "rft", "run", i) for i in range(7)]


class FakeActors:
    """Does a job a look; actors named in `dying` die with their first job and come back when revived."""

    def __init__(self, count: int, dying: tuple[int, ...] = (), silent: bool = False, bug: Bug | None = None) -> None:
        self.up, self.dead = set(range(1, count + 1)), set[int]()
        self.dying, self.silent, self.bug = set(dying), silent, bug
        self.queue: deque[tuple[int, Report | Bug]] = deque()
        self.held: dict[int, list[Job]] = {actor: [] for actor in self.up}
        self.done: list[int] = []

    def healthy(self) -> list[int]:
        return sorted(self.up)

    def send(self, actor: int, jobs: tuple[Job, ...], published: Published | None) -> None:
        self.held[actor] += jobs
        if actor in self.dying:
            self.dying.discard(actor)
            self.up.discard(actor)
            self.dead.add(actor)
            self.held[actor] = []
        elif self.bug:
            self.queue.append((actor, self.bug))
        elif not self.silent:
            done = [self.held[actor].pop(0)] if self.held[actor] else []
            self.done += [job.seq for job in done]
            receipts = tuple(Receipt(job.key, groups=1) for job in done)
            self.queue.append((actor, Report(receipts, tuple(job.key for job in self.held[actor]), "the last thing")))

    def fetch(self, seconds: float) -> list[tuple[int, Report | Bug]]:
        return [self.queue.popleft()] if self.queue else []

    def revive(self) -> None:
        self.up |= self.dead
        self.dead = set()

    def end(self, actor: int) -> None:
        self.up.discard(actor)
        self.dead.add(actor)
        self.held[actor] = []

    def stack(self, actor: int) -> str:
        return f"the stack of {actor}"


def seqs(receipts: list[Receipt]) -> list[int]:
    return [receipt.key[1] for receipt in receipts]


def test_receipts_come_in_the_order_of_the_jobs() -> None:
    assert seqs(Crew(FakeActors(3), 5).run(JOBS, None)) == list(range(7))


@pytest.mark.parametrize("dying", [(1,), (1, 2)])
def test_a_dead_actors_job_is_done_by_another_and_counted(dying: tuple[int, ...]) -> None:
    actors = FakeActors(2, dying)
    crew = Crew(actors, 5)
    assert seqs(crew.run(JOBS, None)) == list(range(7))
    assert sorted(actors.done) == list(range(7))
    assert crew.infra == len(dying)


def test_a_bug_ends_the_run_with_its_traceback() -> None:
    with pytest.raises(PartError, match=r"rollout actor 1 failed: ValueError: no\n  File somewhere"):
        Crew(FakeActors(1, bug=Bug("ValueError: no", "  File somewhere")), 5).run(JOBS, None)


def test_what_the_user_caused_comes_through_as_itself() -> None:
    with pytest.raises(FileNotFoundError):
        Crew(FakeActors(1, bug=Bug("", "", FileNotFoundError("scene.jpg"))), 5).run(JOBS, None)


def test_a_job_that_no_actor_finishes_ends_the_run() -> None:
    told = "rollout actor 1 did not finish sample of 1 questions of rft within 0.05 s, nor did another one before it"
    with pytest.raises(PartError, match=told):
        Crew(FakeActors(1, silent=True), 0.05).run(JOBS[:1], None)


def test_the_jobs_of_an_actor_that_hangs_are_done_by_another(capsys: pytest.CaptureFixture[str]) -> None:
    ended = set[int]()

    class Hanging(FakeActors):
        def send(self, actor: int, jobs: tuple[Job, ...], published: Published | None) -> None:
            self.silent = actor == 1 and not self.dead and 1 not in ended
            super().send(actor, jobs, published)

        def end(self, actor: int) -> None:
            ended.add(actor)
            super().end(actor)

    actors = Hanging(2)
    crew = Crew(actors, 0.2)
    assert seqs(crew.run(JOBS, None)) == list(range(7))
    assert sorted(actors.done) == list(range(7))
    assert ended == {1} and crew.infra == 1
    assert "rollout actor 1 did not finish" in capsys.readouterr().err


def test_actors_that_keep_dying_end_the_run() -> None:
    class Doomed(FakeActors):
        def revive(self) -> None:
            self.dying = {1}
            super().revive()

    with pytest.raises(PartError, match="died 6 times"):
        Crew(Doomed(1, (1,)), 5).run(JOBS, None)


def test_an_actor_that_was_restarted_unnoticed_gets_its_jobs_again() -> None:
    """It answers, and knows nothing of what it was given before."""

    class Forgetful(FakeActors):
        def send(self, actor: int, jobs: tuple[Job, ...], published: Published | None) -> None:
            super().send(actor, jobs, published)
            if self.done == [0]:
                self.held[actor] = []
                self.done.append(-1)
                self.queue[-1] = actor, Report(self.queue[-1][1].done)

    crew = Crew(Forgetful(1), 5)
    assert seqs(crew.run(JOBS, None)) == list(range(7))
    assert crew.infra == 0


def test_receipts_of_other_jobs_are_kept() -> None:
    crew = Crew(FakeActors(2), 5)
    crew.give(JOBS)
    assert seqs(crew.run([Job("evaluate", (0,), "dev", seq=3)], None)) == [3]
    found: list[Receipt] = []
    while not crew.idle:
        found += crew.collect(None, 0)
    assert sorted(seqs(found)) == list(range(7))


def test_work_is_spread_before_it_is_queued() -> None:
    actors = FakeActors(2, silent=True)
    crew = Crew(actors, 5)
    crew.give(JOBS)
    crew.collect(None, 0)
    assert [[job.seq for job in held] for held in actors.held.values()] == [[0, 2], [1, 3]]


def test_the_last_thing_that_a_late_actor_did_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    actors = FakeActors(1)
    crew = Crew(actors, 60)
    crew.give(JOBS[:2])
    crew.collect(None, 0)
    actors.silent, crew.deadline = True, 0.01
    time.sleep(0.02)
    crew.collect(None, 0)
    told = capsys.readouterr().err
    assert "did not finish sample of 1 questions of rft within 0.01 s; last seen doing the last thing" in told


def test_an_actor_that_stands_still_is_named_with_its_stack(capsys: pytest.CaptureFixture[str]) -> None:
    crew = Crew(FakeActors(1, silent=True), 60, watch=0.0)
    crew.give(JOBS[:1])
    crew.collect(None, 0)
    crew.collect(None, 0)
    told = capsys.readouterr().err
    assert told.count("rollout actor 1") == 1 and "has not moved for 0 s\nthe stack of 1" in told
