"""Experiments whose arms go on from starts that may be lost and made again: on another machine perhaps not to the bit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from pixelis.cluster.cells import Experiment


class Seeded(Protocol):
    """A cell that is a dataclass with a seed, as `cells.Cell` otherwise."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """Its run's folder."""
        ...

    @property
    def trained(self) -> bool:
        """Whether its run is here, to its end."""
        ...

    @property
    def seed(self) -> int:
        """Of a start (a cell that goes on from none): how often it had been made before."""
        ...


S = TypeVar("S", bound=Seeded)


class Origins(Experiment[S]):
    """Machines round differently, so that a start that is made again by the same command can be another policy. Each that was
    has a file of its own, and each arm is compared with its own.

    Example:
        >>> Rft().origin(Cell("early", "sft"))                              # doctest: +SKIP
        1
    """

    @abstractmethod
    def items(self, cell: S) -> dict[str, Any]:
        """What came of each question, JSON-able; `told` of a start has it as its `items`."""

    def makings(self, start: S) -> list[S]:
        """All that one start has been, so far as there are files of them; itself before there is any."""
        known = next(again for again in count() if self.read(replace(start, seed=again)) is None)
        return [replace(start, seed=again) for again in range(max(1, known))]

    def origin(self, start: S) -> S:
        """Which of them the one here is: one with the same items, or else the next."""
        known = [(one, kept) for one in self.makings(start) if (kept := self.read(one)) is not None]
        same = (one for one, kept in known if kept["items"] == self.items(one))
        return next(same, replace(start, seed=len(known)))

    def all_makings(self, starts: Sequence[S]) -> list[S]:
        """Those of several starts."""
        return [one for start in starts for one in self.makings(start)]

    def file(self, cell: S) -> Path:
        """What is kept of a cell."""
        own = super().file(cell)
        return own.with_stem(f"{own.stem}-{cell.seed}") if self.start(cell) is None and cell.seed else own

    def keep(self, cell: S) -> None:
        """Write what a finished cell came to, a start as that which it is."""
        super().keep(self.origin(cell) if self.start(cell) is None else cell)
