"""Drawing by priority within strata: a tree of sums for each stratum, many draws at once, the same for the same seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Key = tuple[int, int]
"""Where a group stands in a shard: (record, which of the record's groups)."""


class SumTree:
    """Weights of numbered leaves, drawn in proportion. Inner nodes are sums of two, so that no rounding adds up with use.

    Example:
        >>> tree = SumTree()
        >>> tree.set(np.array([0, 1]), np.array([1.0, 3.0]))
        >>> tree.total, tree.find(np.array([0.5, 1.5])).tolist()
        (4.0, [0, 1])
    """

    def __init__(self, leaves: int = 1024) -> None:
        self._leaves = 1 << max(leaves - 1, 1).bit_length()
        self._sums = np.zeros(2 * self._leaves)
        """Node i has the children 2i and 2i + 1; node 1 is the root, leaf i is node `_leaves + i`."""

    @property
    def total(self) -> float:
        """Of all weights."""
        return float(self._sums[1])

    def set(self, leaves: np.ndarray, weights: np.ndarray) -> None:
        """(n,) leaves get (n,) weights, the last one where a leaf is named twice."""
        if not len(leaves):
            return
        while leaves.max() >= self._leaves:
            self._grow()
        self._sums[self._leaves + leaves] = weights
        self._add_up(np.unique((self._leaves + leaves) >> 1))

    def get(self, leaves: np.ndarray) -> np.ndarray:
        """(n,) weights of (n,) leaves."""
        return self._sums[self._leaves + leaves]

    def find(self, points: np.ndarray) -> np.ndarray:
        """(n,) leaves at (n,) points of the line 0..total on which each leaf covers its weight; never one without weight."""
        points, nodes = points.copy(), np.ones(len(points), np.int64)
        while nodes.size and nodes[0] < self._leaves:
            nodes <<= 1
            left = self._sums[nodes]
            right = (points >= left) & (self._sums[nodes + 1] > 0)
            points -= left * right
            nodes += right
        return nodes - self._leaves

    def _grow(self) -> None:
        old, self._leaves = self._sums[self._leaves :], 2 * self._leaves
        self._sums = np.zeros(2 * self._leaves)
        self._sums[self._leaves : self._leaves + len(old)] = old
        self._add_up(np.arange(self._leaves // 2, self._leaves))

    def _add_up(self, nodes: np.ndarray) -> None:
        """Nodes of one level, and all above them, from their children."""
        while nodes[0]:
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]
            nodes = np.unique(nodes >> 1)


class Stratum:
    """The keys of one kind: (n, 2) of them by slot, and their weights. Slots of removed keys are used again."""

    def __init__(self) -> None:
        self.tree = SumTree()
        self.keys = np.zeros((1024, 2), np.int64)
        self._used, self._free = 0, list[int]()

    def add(self, key: Key) -> int:
        """The slot of a new key, without weight yet."""
        slot = self._free.pop() if self._free else self._used
        self._used = max(self._used, slot + 1)
        if slot == len(self.keys):
            self.keys = np.concatenate([self.keys, np.zeros_like(self.keys)])
        self.keys[slot] = key
        return slot

    def remove(self, slots: list[int]) -> None:
        """Give slots up."""
        self.tree.set(np.array(slots), np.zeros(len(slots)))
        self._free += slots


class Sampler:
    """Keys in strata, with priorities. A draw depends on the seed, on what was added, removed and set, and in which order.

    Example:
        >>> sampler = Sampler()
        >>> sampler.add([(0, 0), (0, 1), (1, 0)], ["code", "clip", "code"])
        >>> sampler.prioritise([(0, 0)], [0.0])
        >>> sampler.draw({"code": 2}, [7])
        [(1, 0), (1, 0)]
    """

    def __init__(self) -> None:
        self._strata: dict[str, Stratum] = {}
        self._slots: dict[Key, tuple[str, int]] = {}

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def weights(self) -> dict[str, float]:
        """The sum of priorities in each stratum."""
        return {name: stratum.tree.total for name, stratum in self._strata.items()}

    def add(self, keys: Sequence[Key], strata: Sequence[str], priority: float = 1.0) -> None:
        """New keys, each with its stratum."""
        for key, name in zip(keys, strata, strict=True):
            self._slots[key] = name, self._strata.setdefault(name, Stratum()).add(key)
        self.prioritise(keys, [priority] * len(keys))

    def prioritise(self, keys: Sequence[Key], priorities: Sequence[float]) -> None:
        """A key is drawn in proportion to its priority, never with 0. ValueError for one below, KeyError for a foreign key."""
        weights = np.asarray(priorities, float)
        if len(weights) != len(keys) or not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError(f"{len(keys)} keys need as many priorities, each a number that is not negative")
        by_stratum: dict[str, tuple[list[int], list[int]]] = {}
        for i, key in enumerate(keys):
            name, slot = self._slots[key]
            slots, places = by_stratum.setdefault(name, ([], []))
            slots.append(slot)
            places.append(i)
        for name, (slots, places) in by_stratum.items():
            self._strata[name].tree.set(np.array(slots), weights[places])

    def remove(self, keys: Sequence[Key]) -> None:
        """Forget keys. KeyError for a foreign one."""
        for key in keys:
            name, slot = self._slots.pop(key)
            self._strata[name].remove([slot])

    def draw(self, batch: Mapping[str, int], seed: Any) -> list[Key]:
        """Keys of each stratum, as many as are asked for, with replacement; `seed` is one of numpy's.

        Raises ValueError naming a stratum in which nothing can be drawn.
        """
        rng = np.random.default_rng(seed)
        return [key for name, count in batch.items() if count for key in self._some(name, count, rng)]

    def _some(self, name: str, count: int, rng: np.random.Generator) -> list[Key]:
        stratum = self._strata.get(name)
        if stratum is None or not stratum.tree.total:
            has = ", ".join(name for name, weight in self.weights.items() if weight) or "nothing"
            raise ValueError(f"no {name} to draw {count} from: there is {has}")
        found = stratum.keys[stratum.tree.find(rng.random(count) * stratum.tree.total)]
        return [(record, group) for record, group in found.tolist()]
