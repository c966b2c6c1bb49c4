"""The backlog: jobs go on while nobody waits, each under weights that do not change; what a job raises is told."""

import threading

import pytest

from pixelis.cluster.backlog import Backlog
from pixelis.cluster.job import Job, Published, Receipt

JOBS = [Job("sample", (i,), "rft", seq=i) for i in range(3)]


def test_looking_returns_in_time_while_work_goes_on() -> None:
    go = threading.Event()

    def work(job: Job, published: Published | None) -> Receipt:
        go.wait(30)
        return Receipt(job.key)

    backlog = Backlog(work)
    report = backlog.poll(JOBS, None, 0.01)
    assert report.done == () and report.held == tuple(job.key for job in JOBS)
    assert report.doing in ("nothing", "sample of 1 questions of rft")
    go.set()
    found: list[Receipt] = []
    while len(found) < 3:
        found += backlog.poll([], None, 5).done
    assert [receipt.key for receipt in found] == [job.key for job in JOBS]
    assert backlog.poll([], None, 5).held == ()


def test_a_job_begins_with_the_newest_weights() -> None:
    seen: list[Published | None] = []
    gates = [threading.Event(), threading.Event()]

    def work(job: Job, published: Published | None) -> Receipt:
        seen.append(published)
        gates[len(seen) - 1].wait(30)
        return Receipt(job.key)

    backlog = Backlog(work)
    backlog.poll(JOBS[:2], Published((0, 1)), 0.2)
    backlog.poll([], Published((0, 2)), 0.0)
    gates[0].set()
    backlog.poll([], None, 5)
    gates[1].set()
    backlog.poll([], None, 5)
    assert [p.version for p in seen if p] == [(0, 1), (0, 2)]


def test_what_a_job_raises_is_raised_once_and_the_next_job_is_done() -> None:
    def work(job: Job, published: Published | None) -> Receipt:
        if job.seq == 0:
            raise KeyError("no such scene")
        return Receipt(job.key)

    backlog = Backlog(work)
    with pytest.raises(KeyError, match="no such scene"):
        backlog.poll(JOBS[:2], None, 5)
    assert [receipt.key for receipt in backlog.poll([], None, 5).done] == [JOBS[1].key]
