"""Tools served to many callers at once: bounded queues, batches by op, absolute deadlines, a memo."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pixelis.tools.call import Failure
from pixelis.tools.limits import MediaLimits
from pixelis.tools.local import BATCH, work
from pixelis.tools.media import MediaStore
from pixelis.tools.memo import COUNT, Memo
from pixelis.tools.tool import Answer, Ask, Tool


class Busy(Exception):
    """The queue is full: nothing was taken, ask elsewhere or later."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How much a server takes on."""

    batch: int = BATCH
    """Most asks that a model is given at once."""
    queue: int = 256
    """Most asks that wait for one op; more are refused at once."""
    memo: int = COUNT
    """Findings that are remembered; 0 for none, and then what is asked twice at once is computed twice, too."""
    media_bytes: int = 512 << 20
    """Media kept; those used longest ago go first."""


@dataclass(slots=True)
class Waiting:
    """An ask in a queue. `until` is monotonic."""

    ask: Ask
    until: float
    answer: asyncio.Future[Answer]


@dataclass(slots=True)
class Line:
    """The queue of one op, and the one thread that uses its model."""

    tool: Tool
    thread: ThreadPoolExecutor
    waiting: deque[Waiting] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    until: float | None = None
    """While its model works: the latest deadline in the batch."""


class Server:
    """Answers asks on one event loop; each op has a coroutine that owns its model, whose work is done in a thread.

    A batch is what waits when the model is free: nobody waits for a batch to fill.

    Example:
        >>> server = Server({"ZOOM": Zoom()})                              # doctest: +SKIP
        >>> server.add(sha, data)                                          # doctest: +SKIP
        >>> [answer] = await server.ask([(ask, time.time() + 10)])         # doctest: +SKIP
    """

    def __init__(
        self, tools: Mapping[str, Tool], settings: ServerSettings | None = None, limits: MediaLimits | None = None
    ) -> None:
        self.tools = dict(tools)
        self.settings = settings or ServerSettings()
        self.store = MediaStore(limits=limits)
        self.memo = Memo(self.settings.memo)
        self.counts: Counter[str] = Counter()
        """Of asks by what came of them: ok, policy, tool, infra, and memo, joined, expired, busy."""
        self.batches: Counter[int] = Counter()
        """How many batches had how many asks."""
        self._media: OrderedDict[str, int] = OrderedDict()
        self._lines: dict[str, Line] = {}
        self._flying: dict[str, asyncio.Future[Answer]] = {}
        self._workers: set[asyncio.Task[None]] = set()

    @property
    def ids(self) -> dict[str, str]:
        """The tools' ids by op."""
        return {op: tool.id for op, tool in self.tools.items()}

    def add(self, sha: str, data: bytes) -> None:
        """Keep a medium's bytes, forgetting those used longest ago beyond the limit."""
        if sha not in self._media:
            self.store.put(data)
            self._media[sha] = len(data)
        self._media.move_to_end(sha)
        while sum(self._media.values()) > self.settings.media_bytes and len(self._media) > 1:
            self.store.forget(self._media.popitem(last=False)[0])

    def has(self, sha: str) -> bool:
        """Whether a medium is kept."""
        return sha in self._media

    async def ask(self, asked: Sequence[tuple[Ask, float]]) -> list[Answer]:
        """Answers in order; each ask comes with its deadline as `time.time()`. Raises Busy at once when a queue is full."""
        new: dict[str, int] = Counter(ask.op for ask, _ in asked if not self._flies(ask) and self.memo.get(ask) is None)
        for op, count in new.items():
            if len(self._line(op).waiting) + count > self.settings.queue:
                self.counts["busy"] += len(asked)
                raise Busy(f"{op}: {len(self._line(op).waiting)} asks wait")
        now, wall = time.monotonic(), time.time()
        return list(await asyncio.gather(*[self._answer(ask, now + until - wall) for ask, until in asked]))

    async def probe(self) -> None:
        """Returns when every model's thread is free to work: a hung one never is."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*[loop.run_in_executor(line.thread, bool) for line in self._lines.values()])

    @property
    def depth(self) -> int:
        """Asks that wait."""
        return sum(len(line.waiting) for line in self._lines.values())

    @property
    def working(self) -> bool:
        """Whether a model works."""
        return any(line.until is not None for line in self._lines.values())

    @property
    def overdue(self) -> float:
        """Seconds by which the work of any model is beyond all its deadlines; 0 for none."""
        now = time.monotonic()
        return max((now - line.until for line in self._lines.values() if line.until is not None), default=0.0)

    async def _answer(self, ask: Ask, until: float) -> Answer:
        known = self.memo.get(ask)
        if known is not None:
            self.counts["memo"] += 1
            return Answer(known)
        if self._flies(ask):
            self.counts["joined"] += 1
            return Answer((await asyncio.shield(self._flying[ask.key])).found)
        waiting = Waiting(ask, until, asyncio.get_running_loop().create_future())
        line = self._line(ask.op)
        line.waiting.append(waiting)
        line.arrived.set()
        self._flying[ask.key] = waiting.answer
        try:
            return await asyncio.shield(waiting.answer)
        finally:
            self._flying.pop(ask.key, None)

    def _flies(self, ask: Ask) -> bool:
        """Whether the same is being computed."""
        return self.settings.memo > 0 and ask.key in self._flying

    def _line(self, op: str) -> Line:
        if op not in self._lines:
            self._lines[op] = Line(self.tools[op], ThreadPoolExecutor(1, thread_name_prefix=op))
            worker = asyncio.get_running_loop().create_task(self._work(self._lines[op]))
            self._workers.add(worker)  # the loop itself holds tasks weakly
        return self._lines[op]

    async def _work(self, line: Line) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await line.arrived.wait()
            batch = self._batch(line)
            if not line.waiting:
                line.arrived.clear()
            if not batch:
                continue
            line.until = max(one.until for one in batch)
            self.batches[len(batch)] += 1
            asked = [(one.ask, one.until) for one in batch]
            try:
                answers = await loop.run_in_executor(line.thread, work, line.tool, self.store, asked, 0.0)
            except Exception as error:  # a bug in a tool: whoever asked gets it, the server goes on
                for one in batch:
                    one.answer.set_exception(error)
                continue
            finally:
                line.until = None
            for one, answer in zip(batch, answers, strict=True):
                self._settle(one, answer)

    def _batch(self, line: Line) -> list[Waiting]:
        """The next asks of a queue; those whose deadline has passed are answered instead."""
        batch: list[Waiting] = []
        now = time.monotonic()
        while line.waiting and len(batch) < self.settings.batch:
            one = line.waiting.popleft()
            if one.until > now:
                batch.append(one)
                continue
            self.counts["expired"] += 1
            self._settle(one, Answer(Failure("infra", "timeout", f"{one.ask.op} waited beyond its deadline")))
        return batch

    def _settle(self, one: Waiting, answer: Answer) -> None:
        self.memo.put(one.ask, answer.found)
        self.counts[answer.found.cls if isinstance(answer.found, Failure) else "ok"] += 1
        one.answer.set_result(answer)
