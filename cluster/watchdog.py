"""Whatever does not move is named, with its process and what it is doing, long before a deadline ends the run."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable


def tell(text: str) -> None:
    """To whoever looks at the run."""
    print(f"\npixelis: {text}", file=sys.stderr, flush=True)


class Watchdog:
    """Tells of each part once while it stands still.

    Example:
        >>> dog = Watchdog(60.0, print)
        >>> dog.look("learner rank 1", 61.5, lambda: "in all_reduce")
        learner rank 1 has not moved for 62 s
        in all_reduce
        >>> dog.look("learner rank 1", 63.0, lambda: "in all_reduce")
    """

    def __init__(self, seconds: float, tell: Callable[[str], object] = tell) -> None:
        self.seconds, self.tell = seconds, tell
        self._told: set[str] = set()

    def look(self, part: str, still: float, doing: Callable[[], str]) -> None:
        """`still`: seconds since the part moved; `doing` is asked for its stack when that is too long."""
        if still < self.seconds:
            self._told.discard(part)
        elif part not in self._told:
            self._told.add(part)
            self.tell(f"{part} has not moved for {still:.0f} s\n{doing()}")


def stacks() -> str:
    """What every thread of this process is doing."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames().items()
    told = [f"thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}" for number, frame in frames]
    return f"process {os.getpid()}\n" + "\n".join(told)
