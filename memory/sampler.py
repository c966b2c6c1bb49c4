"""Drawing by priority within strata: a tree of sums for each stratum, many draws at once, the same for the same seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Key = tuple[int, int]
"""Where a group stands in a shard: (record, which of the record's groups)."""


FAN = 64
"""Children of a node of the tree: a million leaves are four levels, each looked at for all draws at once."""


class SumTree:
    """Weights of numbered leaves, drawn in proportion. A node's sums are made anew of its children's, so that no rounding
    adds up with use.

    Example:
        >>> tree = SumTree()
        >>> tree.set(np.array([0, 1]), np.array([1.0, 3.0]))
        >>> tree.total, tree.find(np.array([0.5, 1.5])).tolist()
        (4.0, [0, 1])
    """

    def __init__(self) -> None:
        self._weights = np.zeros(FAN)
        self._levels = [np.zeros((1, FAN))]
        """The root first: running sums of the children of each node, [nodes, FAN]; the last level is over the leaves."""

    @property
    def total(self) -> float:
        """Of all weights."""
        return float(self._levels[0][0, -1])

    def set(self, leaves: np.ndarray, weights: np.ndarray) -> None:
        """(n,) leaves get (n,) weights, the last one where a leaf is named twice."""
        if not len(leaves):
            return
        while leaves.max() >= len(self._weights):
            self._grow()
        self._weights[leaves] = weights
        below, nodes = self._weights, np.unique(leaves // FAN)
        for level in reversed(self._levels):
            level[nodes] = below.reshape(-1, FAN)[nodes].cumsum(axis=1)
            below, nodes = level[:, -1], np.unique(nodes // FAN)

    def get(self, leaves: np.ndarray) -> np.ndarray:
        """(n,) weights of (n,) leaves."""
        return self._weights[leaves]

    def find(self, points: np.ndarray) -> np.ndarray:
        """(n,) leaves at (n,) points of the line 0..total on which each leaf covers its weight; never one without weight."""
        nodes, points = np.zeros(len(points), np.int64), points[:, None]
        for level in self._levels:
            sums = level[nodes]
            points = np.minimum(points, np.nextafter(sums[:, -1:], 0))  # a sum of sums may round to less than its parts
            turns = (sums <= points).sum(axis=1)
            before = np.where(turns > 0, sums[np.arange(len(sums)), turns - 1], 0.0)
            nodes, points = nodes * FAN + turns, points - before[:, None]
        return nodes

    def _grow(self) -> None:
        """FAN times as many leaves: what there is becomes the first child of a new root."""
        self._weights = np.concatenate([self._weights, np.zeros((FAN - 1) * len(self._weights))])
        self._levels = [np.concatenate([level, np.zeros(((FAN - 1) * len(level), FAN))]) for level in self._levels]
        self._levels.insert(0, np.full((1, FAN), self.total))


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
