"""Groups as Arrow: one row per trajectory, readable by any Arrow library, no pickle.

Columns: `tokens` is observed + sampled of every turn in order; `bounds` holds, per turn, where its observed and its
sampled tokens end in it; `logprobs` and `roles` (a letter each) belong to the sampled tokens only. Calls and results are
JSON text.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from pixelis.memory.trajectory import Group, Trajectory, Turn
from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.frame import View

FORMAT = "2"

_VIEW = pa.struct([("source", pa.string()), ("rect", pa.list_(pa.int32(), 4)), ("frame", pa.int32())])

SCHEMA = pa.schema(
    [
        ("group", pa.int32()),
        ("task_id", pa.string()),
        ("id", pa.string()),
        ("family", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("status", pa.string()),
        ("rewards", pa.map_(pa.string(), pa.float64())),
        ("media", pa.list_(pa.string())),
        ("seed", pa.uint64()),
        ("tokens", pa.list_(pa.int32())),
        ("bounds", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("roles", pa.string()),
        ("epoch", pa.list_(pa.int64())),
        ("step", pa.list_(pa.int64())),
        ("views", pa.list_(pa.list_(_VIEW))),
        ("call", pa.list_(pa.string())),
        ("result", pa.list_(pa.string())),
        ("error", pa.list_(pa.string())),
    ],
    metadata={"pixelis.groups": FORMAT},
)


class CodecError(ValueError):
    """The bytes are not groups of this format."""


def encode(groups: list[Group]) -> bytes:
    """An Arrow IPC stream with one row per trajectory; `decode` gives equal groups back."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(to_table(groups))
    return sink.getvalue().to_pybytes()


def decode(data: bytes | memoryview) -> list[Group]:
    """Inverse of `encode`. Raises CodecError when `data` is no Arrow stream, or one of another format version."""
    return from_table(table_of(data))


def table_of(data: bytes | memoryview) -> pa.Table:
    """What `encode` wrote, without a copy. Raises CodecError as `decode` does."""
    try:
        table = pa.ipc.open_stream(data).read_all()
    except (pa.ArrowInvalid, OSError) as e:
        raise CodecError(f"not an Arrow stream of groups ({len(data)} bytes): {e}") from e
    found = (table.schema.metadata or {}).get(b"pixelis.groups", b"none").decode()
    if found != FORMAT:
        raise CodecError(f"groups of format {found}; this version reads format {FORMAT}")
    if not table.schema.equals(SCHEMA):
        raise CodecError(f"groups of format {FORMAT} with unexpected columns {table.schema.names}")
    return table


def to_table(groups: Sequence[Group]) -> pa.Table:
    """One row per trajectory."""
    rows = [_row(i, t) for i, group in enumerate(groups) for t in group.trajectories]
    return pa.Table.from_arrays([pa.array([row[f.name] for row in rows], f.type) for f in SCHEMA], schema=SCHEMA)


def from_table(table: pa.Table) -> list[Group]:
    """Inverse of `to_table`."""
    arrays = {name: _lists(table[name]) for name in ("tokens", "bounds", "logprobs")}
    rows = table.drop_columns(list(arrays)).to_pylist()
    members: dict[int, list[Trajectory]] = {}
    for i, row in enumerate(rows):
        row |= {name: column[i] for name, column in arrays.items()}
        members.setdefault(row["group"], []).append(_trajectory(row))
    return [Group(ts[0].task_id, tuple(ts)) for ts in members.values()]


def _lists(column: pa.ChunkedArray) -> list[np.ndarray]:
    """One numpy array per row, without a Python object per token."""
    flat = column.combine_chunks()
    values, offsets = flat.values.to_numpy(), flat.offsets.to_numpy()
    return [values[a:b] for a, b in pairwise(offsets)]


def _row(group: int, t: Trajectory) -> dict[str, Any]:
    turns = t.turns
    texts = [_texts(turn) for turn in turns]
    sizes = [n for turn in turns for n in (len(turn.observed), len(turn.sampled))]
    return {
        "group": group,
        "task_id": t.task_id,
        "id": t.id,
        "family": t.family,
        "question": t.question,
        "answer": t.answer,
        "status": t.status,
        "rewards": list(t.rewards.items()),
        "media": list(t.media),
        "seed": t.seed,
        "tokens": t.tokens,
        "bounds": np.cumsum(sizes, dtype=np.int32),
        "logprobs": t.logprobs[t.mask],
        "roles": "".join(turn.roles for turn in turns),
        "epoch": [turn.version[0] for turn in turns],
        "step": [turn.version[1] for turn in turns],
        "views": [[{"source": v.source, "rect": v.rect, "frame": v.frame} for v in turn.views] for turn in turns],
        "call": [turn.get("call") for turn in texts],
        "result": [turn.get("result") for turn in texts],
        "error": [turn.error for turn in turns],
    }


def _texts(turn: Turn) -> dict[str, str]:
    """Call and result as JSON in plain ASCII: what a policy wrote need not be sound Unicode."""
    raw = turn.to_dict()
    return {k: json.dumps(raw[k]) for k in ("call", "result") if k in raw}


def _trajectory(row: dict[str, Any]) -> Trajectory:
    return Trajectory(
        id=row["id"],
        task_id=row["task_id"],
        question=row["question"],
        media=tuple(row["media"]),
        turns=_turns(row),
        answer=row["answer"],
        status=row["status"],
        rewards=dict(row["rewards"]),
        family=row["family"],
        seed=row["seed"],
    )


def _turns(row: dict[str, Any]) -> tuple[Turn, ...]:
    """Cut the token arrays at `bounds`; log-probs and roles advance with the sampled tokens only."""
    tokens, start, p = row["tokens"].tolist(), 0, 0
    logprobs, bounds = row["logprobs"].tolist(), row["bounds"].tolist()
    out = []
    for i, (seen, end) in enumerate(zip(bounds[::2], bounds[1::2], strict=True)):
        call, result = row["call"][i], row["result"][i]
        out.append(
            Turn(
                observed=tuple(tokens[start:seen]),
                sampled=tuple(tokens[seen:end]),
                logprobs=tuple(logprobs[p : p + end - seen]),
                views=tuple(View(v["source"], tuple(v["rect"]), v["frame"]) for v in row["views"][i]),
                call=None if call is None else ToolCall(**json.loads(call)),
                result=None if result is None else ToolResult.from_dict(json.loads(result)),
                version=(row["epoch"][i], row["step"][i]),
                error=row["error"][i],
                roles=row["roles"][p : p + end - seen],
            )
        )
        start, p = end, p + end - seen
    return tuple(out)
