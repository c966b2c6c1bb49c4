"""Which remembered episodes answer a query: late fusion, guards against leaks and near-duplicates, diversity (paper 6.2).

Similarity s = `text` cos of the text keys + `pixels` cos of the pixel keys. It is one inner product, of the joined keys, when
those of the query carry the weights: a single index finds the exact order, whatever the weights are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pixelis.memory.remembered import Keys, Remembered
from pixelis.memory.task import AnswerType

POOL = 2
"""Diversity chooses among this many times as many as are asked for: more would trade too much likeness for it."""


@dataclass(frozen=True, slots=True)
class RecallSettings:
    """Raises: ValueError for a value out of its range."""

    text: float = 0.4
    """Weight of the likeness of the questions."""
    pixels: float = 0.6
    """Weight of the likeness of the pictures."""
    count: int = 8
    """Neighbours asked for."""
    least: float = 0.5
    """Episodes less similar are dropped."""
    duplicate: float = 0.995
    """Two are near-duplicates when both cosines reach this: such are the query itself, and one found beside the other."""
    diversity: float = 0.3
    """What likeness to those already chosen takes off (maximal marginal relevance)."""
    seconds: float = 5.0
    """Shards that have not answered by then are left out."""

    def __post_init__(self) -> None:
        if min(self.text, self.pixels) < 0 or self.text + self.pixels <= 0:
            raise ValueError(f"weights must not be negative, and one of them above 0: {self}")
        if self.count < 1 or self.seconds <= 0:
            raise ValueError(f"count = {self.count} and seconds = {self.seconds:g} must be above 0")
        for name in ("duplicate", "diversity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} is not between 0 and 1")

    def weighed(self, keys: Keys) -> np.ndarray:
        """The query's joined keys [t + p] whose inner product with an episode's is their similarity."""
        return np.concatenate([np.float32(self.text) * keys.text, np.float32(self.pixels) * keys.pixels])


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A question about media, as it is looked for. `media`: sha256 of its own sources, which no hit may share. `before`: only
    what weights of an earlier step have led to is looked for; None: whatever there is.

    Example: Query(keys, "What is the code on the red plate?", "text", (sha,))
    """

    keys: Keys
    question: str
    kind: AnswerType
    media: tuple[str, ...] = ()
    before: int | None = None

    @property
    def topic(self) -> str:
        """What an answer must be about to answer this."""
        return topic(self.kind, self.question)


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """A remembered episode, how similar it is, and what that is made of. `key`: its joined keys."""

    item: Remembered
    similarity: float
    text: float
    pixels: float
    key: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one shard found: the most similar first."""

    hits: tuple[Hit, ...] = ()
    own: int = 0
    """Rows left out because they are the query's own: a medium of its, or its very keys."""
    foreign: int = 0
    """Rows whose keys other weights made: they were not compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a query found, as it was chosen. `away`: the shards that did not answer, each with why.

    Example: found.hits[0].item.answer, found.partial
    """

    hits: tuple[Hit, ...] = ()
    own: int = 0
    foreign: int = 0
    away: dict[str, str] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        """Whether a shard is missing from it."""
        return bool(self.away)


def topic(kind: AnswerType, question: str) -> str:
    """Questions whose answers can be compared have the same: those of one kind; a choice's letter means its own question's.

    Example:
        >>> topic("number", "How many dots?") == topic("number", "How many plates?")
        True
    """
    return f"{kind} {' '.join(question.casefold().split())}" if kind == "choice" else kind


def alike(one: np.ndarray, others: np.ndarray, width: int, bound: float) -> np.ndarray:
    """Which of `others` [n, t + p] are near-duplicates of `one` [t + p], bool [n]; `width` is t."""
    return np.asarray((others[:, :width] @ one[:width] >= bound) & (others[:, width:] @ one[width:] >= bound))


def distinct(hits: Sequence[Hit], query: Query, settings: RecallSettings) -> list[Hit]:
    """The hits, the most similar first, without near-duplicates of one that comes before; ties by id."""
    kept: list[Hit] = []
    for hit in sorted(hits, key=lambda one: (-one.similarity, one.item.id)):
        others = np.array([one.key for one in kept]).reshape(len(kept), len(hit.key))
        if not alike(hit.key, others, len(query.keys.text), settings.duplicate).any():
            kept.append(hit)
    return kept


def merge(parts: Sequence[Part], query: Query, settings: RecallSettings, away: dict[str, str]) -> Found:
    """What all shards found together: without near-duplicates, as many as are asked for, by relevance and diversity."""
    found = distinct([hit for part in parts for hit in part.hits], query, settings)
    hits = diverse(found[: POOL * settings.count], query, settings)
    return Found(tuple(hits), sum(part.own for part in parts), sum(part.foreign for part in parts), away)


def diverse(hits: Sequence[Hit], query: Query, settings: RecallSettings) -> list[Hit]:
    """Maximal marginal relevance: next comes what is most similar to the query and least to those chosen (Carbonell 1998)."""
    if not hits:
        return []
    keys = np.array([hit.key for hit in hits])
    scale = np.full(keys.shape[1], settings.pixels, np.float32)
    scale[: len(query.keys.text)] = settings.text
    between = (keys * scale) @ keys.T
    relevance = (1 - settings.diversity) * np.array([hit.similarity for hit in hits])
    chosen: list[int] = []
    near = np.full(len(hits), -np.inf)
    while len(chosen) < min(settings.count, len(hits)):
        worth = relevance - settings.diversity * np.where(np.isinf(near), 0.0, near)
        worth[chosen] = -np.inf
        chosen.append(int(worth.argmax()))
        near = np.maximum(near, between[chosen[-1]])
    return [hits[i] for i in chosen]
