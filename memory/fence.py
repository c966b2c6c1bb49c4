"""A fence around a folder: the last writer that claimed it may write, earlier ones no more, even if they still live.

A writer that is cut off the network goes on living while another one is started in its place. Every claim raises the
number in the file `epoch`; a write is made under a lock that is held for no longer, and only by who holds that number.
So an older writer can neither write nor, between its look at the number and its write, be overtaken.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pixelis.memory.log import LogError, replace_file

PATIENCE = 30.0
"""Seconds to wait for a write of another process to end."""


class Fenced(LogError):
    """Another writer has claimed the folder since: this one may write no more."""


class Fence:
    """The right to write in a folder, claimed by making this.

    Raises: LogError when the file `epoch` holds no number, or another process does not end its write.

    Example:
        >>> fence = Fence(Path("replay"))                                  # doctest: +SKIP
        >>> with fence.held():                                             # doctest: +SKIP
        ...     file.write(record)
    """

    def __init__(self, root: Path, patience: float = PATIENCE) -> None:
        self.root, self.patience = root, patience
        root.mkdir(parents=True, exist_ok=True)
        self._path = root / "epoch"
        with self._alone():
            self.epoch = self.current() + 1
            replace_file(self._path, b"%d\n" % self.epoch)

    @contextmanager
    def held(self) -> Iterator[None]:
        """While a write is made: nobody else writes, nor claims the folder. Fenced when somebody has."""
        with self._alone():
            if (now := self.current()) != self.epoch:
                raise Fenced(f"{self.root}: this writer has epoch {self.epoch}, another one has claimed epoch {now} since")
            yield

    def current(self) -> int:
        """The epoch of the last claim; 0 before the first."""
        try:
            return int(self._path.read_bytes())
        except FileNotFoundError:
            return 0
        except ValueError as e:
            raise LogError(f"{self._path}: holds no number") from e

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A lock of this moment; a process that dies lets go of it."""
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            until = time.monotonic() + self.patience
            while not _lock(fd):
                if time.monotonic() > until:
                    raise LogError(f"{self.root}: another process has been writing here for {self.patience:g} s")
                time.sleep(0.01)
            yield
        finally:
            os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
