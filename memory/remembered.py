"""What test-time training remembers of an episode that passed its gate, the keys it is found by, and both as Arrow (paper 6.2).

There is no field for a gold label, none for pixels: media are named by their hash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from pixelis.memory.codec import CodecError
from pixelis.memory.look import Look
from pixelis.memory.task import AnswerType
from pixelis.memory.trajectory import Version

FORMAT = "1"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("kind", pa.string()),
        ("answer", pa.string()),
        ("media", pa.list_(pa.string())),
        ("ops", pa.list_(pa.string())),
        ("looks", pa.string()),
        ("invalid", pa.int32()),
        ("tokens", pa.string()),
        ("scores", pa.map_(pa.string(), pa.float64())),
        ("gate", pa.string()),
        ("epoch", pa.int64()),
        ("step", pa.int64()),
        ("vision", pa.string()),
        ("reader", pa.string()),
        ("text_key", pa.list_(pa.float32())),
        ("pixel_key", pa.list_(pa.float32())),
    ],
    metadata={"pixelis.remembered": FORMAT},
)
KEYS = ("text_key", "pixel_key")
Space = tuple[str, str]
"""(vision, reader): keys of different spaces cannot be compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """What an episode is found by: float32 unit vectors of its question [t] and of its pixels [p].

    `vision` and `reader` are the sha256 of the vision weights and of what reads the text: keys of others are not comparable.

    Raises: ValueError for a key that is no vector, or has no direction.

    Example: Keys(np.ones(4), np.ones(8), "9f..", "3c..").text  # each 0.5
    """

    text: np.ndarray
    pixels: np.ndarray
    vision: str
    reader: str

    def __post_init__(self) -> None:
        for name in ("text", "pixels"):
            object.__setattr__(self, name, _unit(getattr(self, name), name))

    @property
    def space(self) -> Space:
        """What they can be compared with."""
        return self.vision, self.reader

    @property
    def joined(self) -> np.ndarray:
        """Text, then pixels: float32 [t + p]."""
        return np.concatenate([self.text, self.pixels])


@dataclass(frozen=True, slots=True)
class Remembered:
    """An accepted episode: the exemplar of its question.

    Raises: ValueError for an answer type that is none, a medium that is no sha256, or a score that is no number.

    Example: Remembered("r0/t3/1", "Which letter?", "text", "K", (sha,), (Look("OCR", text="K"),), gate="accepted")
    """

    id: str
    question: str
    kind: AnswerType
    answer: str
    """The one that the vote gave, never a key's."""
    media: tuple[str, ...]
    """sha256 of its source media."""
    looks: tuple[Look, ...] = ()
    """Its calls in order, and where they looked: operations and footprint."""
    invalid: int = 0
    """Its invalid steps."""
    tokens: str = ""
    """sha256 of what was sampled."""
    scores: dict[str, float] = field(default_factory=dict)
    """By component, as the vote gave them."""
    gate: str = ""
    """How the gate decided."""
    version: Version = (0, 0)
    """Oldest weights that sampled it."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(AnswerType):
            raise ValueError(f"{self.id}: answer type {self.kind!r} is not one of {get_args(AnswerType)}")
        for sha in self.media:
            if not is_sha(sha):
                raise ValueError(f"{self.id}: medium {sha[:80]!r} is no sha256")
        if not all(map(math.isfinite, self.scores.values())):
            raise ValueError(f"{self.id}: a score is no number: {self.scores}")

    @property
    def ops(self) -> tuple[str, ...]:
        """The operations called, in order."""
        return tuple(look.op for look in self.looks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "ops": list(self.ops)}


Row = tuple[Remembered, Keys]


def to_table(rows: Sequence[Row]) -> pa.Table:
    """One row per episode."""
    raw = [_row(item, keys) for item, keys in rows]
    return pa.Table.from_arrays([pa.array([row[f.name] for row in raw], f.type) for f in SCHEMA], schema=SCHEMA)


def from_table(table: pa.Table) -> list[Remembered]:
    """The episodes of a table, without their keys."""
    return [_item(row) for row in table.drop_columns(list(KEYS)).to_pylist()]


def keys_of(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The text keys [n, t] and the pixel keys [n, p] of a table whose rows are of one space. CodecError when widths differ."""
    return _matrix(table, "text_key"), _matrix(table, "pixel_key")


def encode(table: pa.Table) -> bytes:
    """An Arrow IPC stream; `decode` gives the table back."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def decode(data: bytes) -> pa.Table:
    """Inverse of `encode`. CodecError when `data` is something else, or of another format."""
    try:
        table = pa.ipc.open_stream(data).read_all()
    except (pa.ArrowInvalid, OSError) as e:
        raise CodecError(f"not an Arrow stream of remembered episodes ({len(data)} bytes): {e}") from e
    found = (table.schema.metadata or {}).get(b"pixelis.remembered", b"none").decode()
    if found != FORMAT or not table.schema.equals(SCHEMA):
        raise CodecError(f"remembered episodes of format {found}; this version reads format {FORMAT}")
    return table.combine_chunks()


def is_sha(text: str) -> bool:
    """Whether a text is a sha256 as it is written here.

    Example:
        >>> is_sha("9f" * 32), is_sha("photo.jpg")
        (True, False)
    """
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _row(item: Remembered, keys: Keys) -> dict[str, Any]:
    return {
        "id": item.id,
        "question": item.question,
        "kind": item.kind,
        "answer": item.answer,
        "media": list(item.media),
        "ops": list(item.ops),
        "looks": json.dumps([asdict(look) for look in item.looks]),
        "invalid": item.invalid,
        "tokens": item.tokens,
        "scores": list(item.scores.items()),
        "gate": item.gate,
        "epoch": item.version[0],
        "step": item.version[1],
        "vision": keys.vision,
        "reader": keys.reader,
        "text_key": keys.text,
        "pixel_key": keys.pixels,
    }


def _item(row: dict[str, Any]) -> Remembered:
    return Remembered(
        row["id"], row["question"], row["kind"], row["answer"], tuple(row["media"]),
        tuple(map(Look.from_dict, json.loads(row["looks"]))), row["invalid"], row["tokens"], dict(row["scores"]), row["gate"],
        (row["epoch"], row["step"]),
    )  # fmt: skip


def _matrix(table: pa.Table, name: str) -> np.ndarray:
    flat = table[name].combine_chunks()
    widths = np.unique(np.diff(flat.offsets.to_numpy()))
    if len(widths) > 1:
        raise CodecError(f"{name} of {' and '.join(map(str, widths))} numbers among rows of one space")
    return flat.flatten().to_numpy().reshape(len(table), -1)


def _unit(key: np.ndarray, name: str) -> np.ndarray:
    vector = np.asarray(key, np.float32)
    length = float(np.linalg.norm(vector)) if vector.ndim == 1 else math.nan
    if not 0 < length < math.inf:
        raise ValueError(f"a {name} key of shape {vector.shape} and length {length:g} has no direction")
    return vector / np.float32(length)
