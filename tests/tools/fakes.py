"""Tools whose work is a known number of seconds, and asks for them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pixelis.tools.call import ToolCall, ToolFailure
from pixelis.tools.handle import Workspace
from pixelis.tools.local import classical
from pixelis.tools.media import MediaStore
from pixelis.tools.server import Server, ServerSettings
from pixelis.tools.tool import Ask, Outcome
from tests.fakes_media import plate, png


class Fixed:
    """Says which box it was asked about, after `once` seconds and `each` for every ask. `fails`: box -> failure instead."""

    id = "fixed@1"

    def __init__(self, once: float = 0.004, each: float = 0.0005, fails: dict[int, Exception] | None = None) -> None:
        self.once, self.each, self.fails = once, each, fails or {}
        self.batches: list[list[int]] = []

    def run(self, workspace: Workspace, args: Any, until: float) -> Outcome:
        raise AssertionError("a batch tool is asked in batches")

    def batch(self, asked: Sequence[tuple[Workspace, Any]], until: float) -> list[Outcome | ToolFailure]:
        numbers = [args.box[2] for _, args in asked]
        self.batches.append(numbers)
        time.sleep(self.once + self.each * len(asked))
        for number in numbers:
            if isinstance(self.fails.get(number), Exception) and not isinstance(self.fails[number], ToolFailure):
                raise self.fails[number]
        return [self.fails.get(number, Outcome({"n": number})) for number in numbers]  # type: ignore[misc]


def fixed(memo: int = 0, batch: int = 16, **settings: Any) -> Server:
    """The server of a replica."""
    return Server({"OCR": Fixed(**settings)}, ServerSettings(memo=memo, batch=batch))


def real() -> Server:
    """A replica with the classical tools."""
    return Server(classical())


def unmakeable() -> Server:
    """Tools whose weights are not there."""
    raise OSError("no such weights")


def asks(numbers: Sequence[int], store: MediaStore, op: str = "OCR", picture: str = "K7P") -> list[Ask]:
    """One ask for each number, which is in its box."""
    workspace = Workspace(store, store.put(png(plate(picture))))
    ids = {op: "fixed@1"}
    return [Ask.of(workspace, ToolCall(op, {"on": "img0", "box": [0, 0, number, 1000]}), ids) for number in numbers]
