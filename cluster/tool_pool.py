"""A pool of tool actors as a toolbox's backend: asks go out together, media once, answers come back by their deadline."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, ActorUnavailableError

from pixelis.cluster.part import PartError
from pixelis.cluster.tool_actor import RayReplica
from pixelis.tools.client import Client
from pixelis.tools.media import MediaStore
from pixelis.tools.tool import Answer, Ask

T = TypeVar("T")
NEWS = 5.0
"""Longest wait for news of the membership, in seconds."""
KEPT_BYTES = 256 << 20
"""Media that stay in the object store for a client; those used longest ago go first."""


class Parcels:
    """Media as object-store references: each is put there once, and Ray copies it to a node once."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self.limit = limit
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def of(self, store: MediaStore, ask: Ask) -> dict[str, Any]:
        """Hash -> reference of what an ask looks at."""
        return {sha: self._ref(store, sha) for sha in ask.media}

    def clear(self) -> None:
        """Let all of it go."""
        self._kept.clear()

    def _ref(self, store: MediaStore, sha: str) -> Any:
        if sha not in self._kept:
            data = np.frombuffer(store.get(sha), np.uint8)
            self._kept[sha] = ray.put(data), data.nbytes
            while sum(size for _, size in self._kept.values()) > self.limit and len(self._kept) > 1:
                self._kept.popitem(last=False)
        self._kept.move_to_end(sha)
        return self._kept[sha][0]


class ToolPool:
    """A keeper's replicas, or a Serve deployment, as one process sees them. Its event loop runs in a thread of its own.

    Example:
        >>> toolbox = Toolbox(store, ToolPool(keeper, deadline=60.0))          # doctest: +SKIP
    """

    def __init__(self, source: Any, deadline: float) -> None:
        self.source, self.deadline = source, deadline
        self.client = Client()
        self._parcels = Parcels()
        self._loop = asyncio.new_event_loop()
        self._broken: BaseException | None = None
        threading.Thread(target=self._loop.run_forever, name="tool pool", daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._follow(), self._loop)

    @cached_property
    def ids(self) -> Mapping[str, str]:
        """The tools' ids by op, as a replica tells them. PartError when none answers within the deadline."""
        until = time.monotonic() + self.deadline
        asking = asyncio.run_coroutine_threadsafe(self.client.ids(), self._loop)
        try:
            while time.monotonic() < until:
                self._check()
                with suppress(TimeoutError):
                    return asking.result(0.2)
        finally:
            asking.cancel()
        raise PartError(f"no replica of the tools was ready within {self.deadline:g} s")

    def run(self, store: MediaStore, asks: Sequence[Ask], seconds: float) -> list[Answer]:
        """All asks at once."""
        self._check()
        until = time.time() + seconds
        work = [self.client.ask(ask, self._parcels.of(store, ask), until) for ask in asks]
        return self.do(_gathered(work), seconds + NEWS)

    def do(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """The result of a coroutine on the pool's event loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def _check(self) -> None:
        if self._broken is not None:
            raise PartError(f"the tools cannot be reached: {self._broken}")

    async def _follow(self) -> None:
        """Keep the client's replicas those of the keeper; a keeper that Ray restarts is asked again when it is back."""
        if not isinstance(self.source, ActorHandle):
            from pixelis.cluster.serve import ServeReplica

            return self.client.update([ServeReplica(self.source)])
        version = -1
        while self._broken is None and ray.is_initialized():  # once it is shut down, a call would start another Ray
            try:
                version, members = await self.source.members.remote(version, NEWS)
            except ActorUnavailableError:
                version = -1
                await asyncio.sleep(0.5)
            except (ActorDiedError, RuntimeError) as error:
                self._broken = error
            else:
                self.client.update([RayReplica(name, actor) for name, actor in members.items()])


async def _gathered(work: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    return list(await asyncio.gather(*work))
