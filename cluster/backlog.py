"""Jobs that a thread does one after another, so that who gives them need not wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from pixelis.cluster.job import Job, Published, Receipt, Report
from pixelis.cluster.part import where


class Backlog:
    """Work goes on in the background; `poll` gives more and takes what is done.

    A job is done under the newest weights published when it begins, never under two.

    Example:
        >>> backlog = Backlog(lambda job, published: Receipt(job.key))
        >>> [receipt.key for receipt in backlog.poll([Job("sample", (0,), "rft", seq=3)], None, 5.0).done]
        [('sample', 3)]
    """

    def __init__(self, work: Callable[[Job, Published | None], Receipt]) -> None:
        self._work = work
        self._jobs: deque[Job] = deque()
        self._doing: Job | None = None
        self._done: list[Receipt] = []
        self._published: Published | None = None
        self._error: Exception | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="backlog", daemon=True).start()

    def poll(self, jobs: Sequence[Job], published: Published | None, seconds: float) -> Report:
        """Add jobs, wait up to `seconds` until any is done, and tell how things stand. Raises what a job raised."""
        with self._changed:
            self._jobs.extend(jobs)
            self._published = published or self._published
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done or self._error or not self._held, seconds)
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            done, self._done = self._done, []
            return Report(tuple(done), tuple(job.key for job in self._held), str(self._doing or "nothing"), where())

    @property
    def _held(self) -> list[Job]:
        return [*([self._doing] if self._doing else []), *self._jobs]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                self._doing, published = self._jobs.popleft(), self._published
            try:
                receipt = self._work(self._doing, published)
            except Exception as error:  # told to whoever polls next, with its traceback
                self._settle(None, error)
            else:
                self._settle(receipt, None)

    def _settle(self, receipt: Receipt | None, error: Exception | None) -> None:
        with self._changed:
            self._doing, self._error = None, self._error or error
            self._done += [receipt] if receipt else []
            self._changed.notify_all()
