"""A load test of one call: many callers at a server of this process, nothing remembered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pixelis.tools.call import Failure, ToolCall
from pixelis.tools.handle import Workspace
from pixelis.tools.local import Local
from pixelis.tools.media import MediaStore
from pixelis.tools.server import Server, ServerSettings
from pixelis.tools.tool import Ask

DEADLINE = 120.0


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it: milliseconds of each call, seconds in all, sizes of batches, calls by what came of them.

    Example: Load((12.1, 11.8), 0.0121, {2: 1}, {"ok": 2}).rate == 165.3
    """

    ms: tuple[float, ...]
    seconds: float
    batches: dict[int, int]
    ends: dict[str, int]

    @property
    def rate(self) -> float:
        """Calls a second."""
        return round(len(self.ms) / self.seconds, 1)

    def percentile(self, share: float) -> float:
        """Milliseconds within which `share` (0..1) of the calls were done: the nearest rank."""
        ordered = sorted(self.ms)
        return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]

    def __str__(self) -> str:
        p50, p95, p99 = (self.percentile(share) for share in (0.5, 0.95, 0.99))
        sizes = ", ".join(f"{count} of {size}" for size, count in sorted(self.batches.items()))
        ends = ", ".join(f"{count} {end}" for end, count in self.ends.items())
        return (
            f"{len(self.ms)} calls in {self.seconds:.2f} s: {self.rate:g} calls/s\n"
            f"latency p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms\nbatches: {sizes}\nended: {ends}"
        )


def load(
    local: Local, path: str | Path, call: ToolCall, repeat: int, concurrency: int, seen: Callable[[int], object] = bool
) -> Load:
    """One call of some tools `repeat` times by `concurrency` callers, after one that is not counted (models are loaded by it).

    `seen` is told how many are done. Raises ToolFailure when the call is the caller's mistake, OSError and MediaError like
    `inspect.run_file`.
    """
    store = MediaStore()
    workspace = Workspace(store, store.add_file(path))
    ask = Ask.of(workspace, call, local.ids)
    server = Server(local.tools, ServerSettings(memo=0))
    server.add(workspace.source, store.get(workspace.source))
    return asyncio.run(_loaded(server, ask, repeat, concurrency, seen))


async def _loaded(server: Server, ask: Ask, repeat: int, concurrency: int, seen: Callable[[int], object]) -> Load:
    await server.ask([(ask, time.time() + DEADLINE)])
    server.batches.clear()
    left, ms, ends = iter(range(repeat)), list[float](), Counter[str]()

    async def caller() -> None:
        for _ in left:
            start = time.perf_counter()
            [answer] = await server.ask([(ask, time.time() + DEADLINE)])
            ms.append(1000 * (time.perf_counter() - start))
            ends[answer.found.code if isinstance(answer.found, Failure) else "ok"] += 1
            seen(len(ms))

    start = time.perf_counter()
    await asyncio.gather(*[caller() for _ in range(min(repeat, concurrency))])
    return Load(tuple(ms), time.perf_counter() - start, dict(server.batches), dict(ends))
