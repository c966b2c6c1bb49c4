"""Experiments that take hours: cells side by side, each a run that leaves a file, and passed over when that is there."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pixelis.actors.world import FAMILIES, SPLITS, make_scene
from pixelis.cluster.run import RUNS
from pixelis.memory.log import replace_file

TRIES = 3
"""Times that a cell is begun before it is given up."""
PAUSE = 60.0
"""Seconds before one that failed is begun again: a Ray that does not come up in time on a busy machine fails at once."""


class Cell(Protocol):
    """One run of an experiment; prints as people would call it."""

    @property
    def name(self) -> str:
        """Its run's folder: `results-` with the name of the experiment, then its own."""
        ...

    @property
    def trained(self) -> bool:
        """Whether its run is here, to its end."""
        ...


C = TypeVar("C", bound=Cell)


class Running(Protocol):
    """A cell that is being run (a process)."""

    def poll(self) -> int | None:
        """None while it goes on, 0 when it is finished, another number when it failed."""
        ...


class Experiment(ABC, Generic[C]):
    """Cells, what each needs, and what they came to together.

    Example:
        >>> Rft().run(beside=2)                                             # doctest: +SKIP
        PosixPath('docs/results/rft.md')
    """

    module: str
    """Whose command line this is."""
    out: Path
    """All rows, as JSON: beside it the page, and a folder with a file for each cell."""

    @abstractmethod
    def cells(self) -> list[C]:
        """All of them, in the order in which they are begun."""

    def start(self, cell: C) -> C | None:
        """The cell whose policy this one begins with: its run must be here, not its file alone."""
        return None

    def needed(self, cell: C) -> list[C]:
        """What must be finished before a cell can begin."""
        start = self.start(cell)
        return [] if start is None else [start]

    @abstractmethod
    def train(self, cell: C) -> None:
        """Run one, in this process, from where it was interrupted."""

    @abstractmethod
    def told(self, cell: C) -> dict[str, Any]:
        """What a finished cell came to, JSON-able: its `rows`, and whatever the page is made of."""

    @abstractmethod
    def page(self, kept: dict[C, dict[str, Any]]) -> Path:
        """Write the page of what is kept of the cells so far."""

    def prepare(self) -> None:  # most experiments need nothing
        """Make what all cells need, before the first of them begins."""

    def keep(self, cell: C) -> None:
        """Write what a finished cell came to into its file; one that was made again, for others, keeps what is there."""
        path = self.file(cell)
        if self.read(cell) is not None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps({"world": world(), **self.told(cell)}, indent=0) + "\n").encode())

    def read(self, cell: C) -> dict[str, Any] | None:
        """What is kept of a cell; None before it is finished, or when it was asked of another world: that restarts all."""
        path = self.file(cell)
        kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return kept if kept.get("world") == world() else None

    def gather(self) -> Path:
        """Write all rows so far, and the page, which is returned."""
        kept = {cell: told for cell in self.cells() if (told := self.read(cell)) is not None}
        lines = [json.dumps(row) for one in kept.values() for row in one["rows"]]
        self.out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.out, ("[\n" + ",\n".join(lines) + "\n]\n").encode())
        return self.page(kept)

    def file(self, cell: C) -> Path:
        """What is kept of a cell."""
        return self.out.with_suffix("") / f"{cell.name.removeprefix(f'results-{self.out.stem}-')}.json"

    def log(self, cell: C) -> Path:
        """What its process says."""
        return RUNS / f"{cell.name}.log"

    def todo(self) -> list[C]:
        """Cells without a file, and starts of those whose policy is not here, in their order."""
        left = [cell for cell in self.cells() if self.read(cell) is None]
        starts = [self.start(cell) for cell in left]
        return [cell for cell in self.cells() if cell in left or (cell in starts and not cell.trained)]

    def begin(self, cell: C) -> Running:
        """A process that trains a cell."""
        RUNS.mkdir(exist_ok=True)
        print(f"begins: {cell}; tail -f {self.log(cell)}", flush=True)
        command = [sys.executable, "-u", "-m", self.module, "--cell", cell.name]
        with self.log(cell).open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def run(self, beside: int = 1, begin: Callable[[C], Running] | None = None) -> Path:
        """Run what is not finished, `beside` cells at a time; returns the page.

        A cell that fails goes on from its checkpoint, a few times. SystemExit when that is of no use, naming its log, after
        those beside it have ended: what is finished stays finished.
        """
        self.prepare()
        waiting, since, begin = self.todo(), time.monotonic(), begin or self.begin
        running: dict[C, Running] = {}
        failed = Counter[C]()
        ended = 0
        while running or (waiting and not _hopeless(failed)):
            ready = [cell for cell in waiting if not any(one in waiting or one in running for one in self.needed(cell))]
            for cell in [] if _hopeless(failed) else ready[: beside - len(running)]:
                waiting.remove(cell)
                running[cell] = begin(cell)
            done = {cell: code for cell, one in running.items() if (code := one.poll()) is not None}
            for cell, code in done.items():
                del running[cell]
                if code:
                    failed[cell] += 1
                    waiting.insert(0, cell)
                    print(f"failed: {cell}; see {self.log(cell)}", flush=True)
                    time.sleep(PAUSE)
                    continue
                self.keep(cell)
                self.gather()
                ended += 1
                left = len(waiting) + len(running)
                minutes = (time.monotonic() - since) / ended * left / 60
                print(f"done: {cell}; {left} cells left, about {minutes:.0f} min", flush=True)
            if not done:
                time.sleep(0.5)
        if _hopeless(failed):
            [cell] = _hopeless(failed)[:1]
            raise SystemExit(f"{cell} failed {TRIES} times: see {self.log(cell)}; the same command goes on when that is mended")
        return self.gather()

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """The command line of `make results-...`."""
        parser = argparse.ArgumentParser(prog=self.module, description=self.__doc__)
        parser.add_argument("--beside", type=int, default=os.cpu_count() or 1, help="cells at a time; each takes 4 GB")
        names = {cell.name: cell for cell in self.cells()}
        parser.add_argument("--cell", help="train this one alone, in this process", choices=list(names))
        asked = parser.parse_args(arguments)
        if asked.cell:
            self.train(names[asked.cell])
        else:
            print(self.run(beside=asked.beside))


@cache
def world() -> str:
    """A hash of what PixelWorld asks, and of what stands where, in its first scenes; not of pixels, which machines may round
    differently."""
    scenes = [make_scene(family, split, 0) for family in FAMILIES for split in SPLITS]
    told = [(one.question, one.answer, one.size, [[asdict(item) for item in items] for items in one.frames]) for one in scenes]
    return hashlib.sha256(json.dumps(told, default=int).encode()).hexdigest()[:16]


def _hopeless(failed: Counter[C]) -> list[C]:
    return [cell for cell, times in failed.items() if times >= TRIES]
