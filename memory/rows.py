"""Columns of stored groups, gathered for many groups at once without decoding any: for samplers that want arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pixelis.memory.codec import table_of
from pixelis.memory.sampler import Key

Buffer = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Column:
    """Ragged rows as one array: row i is `values[offsets[i]:offsets[i + 1]]`.

    Example: Column(np.array([5, 6, 7]), np.array([0, 1, 3]))
    """

    values: np.ndarray
    offsets: np.ndarray
    """(rows + 1,) int64."""


class Rows:
    """Reads columns where they lie; where that is, is remembered for each record that was asked for.

    `read` gives the encoded groups of a record; what it returned is kept alive, so it had better be a view of a file.

    Example:
        >>> Rows(lambda number: segments.read(log.span(number))).gather([(7, 0), (3, 2)])["tokens"].values  # doctest: +SKIP
    """

    def __init__(self, read: Callable[[int], Buffer], names: Sequence[str] = ("tokens", "logprobs")) -> None:
        self._read, self.names = read, tuple(names)
        self._known: dict[int, tuple[list[int], list[tuple[np.ndarray, list[int]]]]] = {}

    def gather(self, keys: Sequence[Key]) -> dict[str, Column]:
        """Every trajectory of some groups (record, which of its groups), in their order. IndexError for a foreign group."""
        found = [(self._record(number), group) for number, group in keys]
        rows = [(columns, row) for (starts, columns), group in found for row in range(starts[group], starts[group + 1])]
        out: dict[str, Column] = {}
        for i, name in enumerate(self.names):
            views = [columns[i][0][columns[i][1][row] : columns[i][1][row + 1]] for columns, row in rows]
            offsets = np.zeros(len(views) + 1, np.int64)
            np.cumsum([len(view) for view in views], out=offsets[1:])
            out[name] = Column(np.concatenate(views) if views else np.zeros(0), offsets)
        return out

    def forget(self, numbers: Sequence[int]) -> None:
        """Let go of records."""
        for number in numbers:
            self._known.pop(number, None)

    def _record(self, number: int) -> tuple[list[int], list[tuple[np.ndarray, list[int]]]]:
        """(the first row of each group, and the end; values and offsets of each column)."""
        if number not in self._known:
            table = table_of(self._read(number)).combine_chunks()
            groups = table["group"].to_numpy()
            starts = np.searchsorted(groups, np.arange(int(groups[-1]) + 2 if len(groups) else 1)).tolist()
            flat = [table[name].chunk(0) for name in self.names] if len(groups) else []
            self._known[number] = starts, [(one.values.to_numpy(), one.offsets.to_pylist()) for one in flat]
        return self._known[number]
