"""The crew: every job answered once, in order, whoever dies; bugs and lateness end the run and name the part."""

from collections import deque

import pytest

from pixelis.cluster.crew import Bug, Crew
from pixelis.cluster.job import Job, Published, Receipt
from pixelis.cluster.part import PartError

JOBS = [Job("sample", (i,), "rft", "run", i) for i in range(7)]


class FakeActors:
    """Answers at once; actors named in `dying` die with their first job and come back when revived."""

    def __init__(self, count: int, dying: tuple[int, ...] = (), silent: bool = False, bug: Bug | None = None) -> None:
        self.up, self.dead = set(range(1, count + 1)), set[int]()
        self.dying, self.silent, self.bug = set(dying), silent, bug
        self.queue: deque[tuple[int, Receipt | Bug]] = deque()
        self.done: list[int] = []

    def healthy(self) -> list[int]:
        return sorted(self.up)

    def send(self, actor: int, job: Job, published: Published | None) -> None:
        if actor in self.dying:
            self.dying.discard(actor)
            self.up.discard(actor)
            self.dead.add(actor)
        elif not self.silent:
            self.done.append(job.seq)
            self.queue.append((actor, self.bug or Receipt(job.seq, groups=1)))

    def fetch(self, seconds: float) -> list[tuple[int, Receipt | Bug]]:
        return [self.queue.popleft()] if self.queue else []

    def revive(self) -> None:
        self.up |= self.dead
        self.dead = set()


def test_receipts_come_in_the_order_of_the_jobs() -> None:
    assert [r.seq for r in Crew(FakeActors(3), 5).run(JOBS, None)] == list(range(7))


@pytest.mark.parametrize("dying", [(1,), (1, 2)])
def test_a_dead_actors_job_is_done_by_another_and_counted(dying: tuple[int, ...]) -> None:
    actors = FakeActors(2, dying)
    crew = Crew(actors, 5)
    assert [r.seq for r in crew.run(JOBS, None)] == list(range(7))
    assert sorted(actors.done) == list(range(7))
    assert crew.infra == len(dying)


def test_a_bug_ends_the_run_with_its_traceback() -> None:
    with pytest.raises(PartError, match=r"rollout actor 1 failed in sample: ValueError: no\n  File somewhere"):
        Crew(FakeActors(1, bug=Bug("ValueError: no", "  File somewhere")), 5).run(JOBS, None)


def test_what_the_user_caused_comes_through_as_itself() -> None:
    with pytest.raises(FileNotFoundError):
        Crew(FakeActors(1, bug=Bug("", "", FileNotFoundError("scene.jpg"))), 5).run(JOBS, None)


def test_an_actor_that_never_answers_is_named() -> None:
    with pytest.raises(PartError, match="rollout actor 1 did not finish sample of 1 questions of rft within 0 s"):
        Crew(FakeActors(1, silent=True), 0).run(JOBS, None)


def test_actors_that_keep_dying_end_the_run() -> None:
    class Doomed(FakeActors):
        def revive(self) -> None:
            self.dying = {1}
            super().revive()

    with pytest.raises(PartError, match="died 6 times"):
        Crew(Doomed(1, (1,)), 5).run(JOBS, None)
