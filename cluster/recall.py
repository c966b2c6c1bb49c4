"""`pixelis memory`: what a run remembers of accepted episodes, counted, searched, verified, written out, and forgotten."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pixelis.cluster.errors import UsageError
from pixelis.cluster.progress import Bar
from pixelis.memory.episodes import EpisodeShard
from pixelis.memory.log import sync
from pixelis.memory.recall import PATIENCE, EpisodeMemory, Here, folders
from pixelis.memory.remembered import SCHEMA, from_table, is_sha
from pixelis.memory.select import Found, RecallSettings
from pixelis.memory.task import AnswerType, Task
from pixelis.tools.media import MediaStore

FORMATS = (".jsonl", ".arrow")


def memory_of(path: Path) -> Path:
    """The memory's folder that a run, or the folder itself, means. UsageError when there is none."""
    for root in (path / "memory", path):
        if folders(root):
            return root
    raise UsageError(f"{path}: no episode memory here; name a run that has one, like runs/ttrl, or its memory folder")


@contextmanager
def opened(root: Path) -> Iterator[list[EpisodeShard]]:
    """All shards of a memory. LogError when one is damaged, or while a run has them open."""
    paths = folders(root)
    with ExitStack() as stack, Bar("memory", len(paths), "shards read", Console(stderr=True)) as bar:
        shards = []
        for number, path in enumerate(paths):
            shards.append(EpisodeShard(path))
            stack.callback(shards[-1].close)
            bar.to(number + 1)
        yield shards


def stats(path: Path, as_json: bool) -> None:
    """Prints what each shard holds, and in all."""
    root = memory_of(path)
    with opened(root) as shards:
        told = [shard.stats() for shard in shards]
    if as_json:
        print(json.dumps({str(n): one for n, one in enumerate(told)}))
        return
    names = ("rows", "records", "bytes", "index_bytes", "media", "forgotten")
    table = Table("shard", *names)
    for number, one in enumerate(told):
        table.add_row(str(number), *(str(one[name]) for name in names))
    table.add_row("all", *(str(sum(one[name] for one in told)) for name in names))
    console = Console()
    console.print(table)
    spaces: dict[tuple[str, str, int, int], int] = {}
    for space in (space for one in told for space in one["spaces"]):
        key = (space["vision"], space["reader"], space["text"], space["pixels"])
        spaces[key] = spaces.get(key, 0) + space["rows"]
    for (vision, reader, text, pixels), rows in spaces.items():
        told_of = f"{rows} rows with keys of {text} + {pixels} numbers, made by vision {vision[:12]} and text {reader[:12]}"
        console.print(told_of, highlight=False)


def search(path: Path, file: Path, question: str, kind: AnswerType, count: int, policy: Path | None, as_json: bool) -> None:
    """Prints the episodes that would be a question's neighbours."""
    from pixelis.cluster.memory import read_card
    from pixelis.cluster.part import quiet
    from pixelis.cluster.policy import open_policy
    from pixelis.memory.encoder import EncoderSettings, encoders

    root, store = memory_of(path), MediaStore()
    sha = store.add_file(file)
    store.info(sha)  # bad bytes: before a policy is loaded
    made_by, settings = read_card(root) if policy is None else (policy, EncoderSettings())
    quiet()
    with opened(root) as shards, ExitStack() as stack:
        handles = [Here(shard) for shard in shards]
        for handle in handles:
            stack.callback(handle.rest)
        told = encoders(open_policy(made_by), store, settings)
        memory = EpisodeMemory(handles, *told, RecallSettings(count=count, seconds=PATIENCE))
        found = memory.recall(Task("search", question, (sha,), kind))
    _print(found, as_json)


def verify(path: Path) -> bool:
    """Reads every record and asks every index; prints what is wrong, and whether nothing is."""
    root = memory_of(path)
    rows = wrong = 0
    with opened(root) as shards:
        for number, shard in enumerate(shards):
            told = shard.stats()
            with Bar(f"shard {number}", told["records"], "records", Console(stderr=True)) as bar:
                for line in shard.verify(step=bar.to):
                    print(f"shard {number}: {line}")
                    wrong += 1
            rows += told["rows"]
    print(f"{len(shards)} shards, {rows} episodes: " + (f"{wrong} things WRONG" if wrong else "all sound"))
    return not wrong


def export(path: Path, out: Path) -> int:
    """Writes all episodes, without media; an Arrow file has their keys too. Returns how many.

    Raises: UsageError for a file that is neither .jsonl nor .arrow.
    """
    if out.suffix not in FORMATS:
        raise UsageError(f"{out}: name a file that ends in {' or '.join(FORMATS)}")
    temporary, rows = out.with_name(f".{out.name}.tmp"), 0
    try:
        with opened(memory_of(path)) as shards:
            tables = (table for shard in shards for table in shard.tables())
            rows = (_as_lines if out.suffix == ".jsonl" else _as_arrow)(tables, temporary)
        sync(temporary)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def forget(path: Path, what: list[str]) -> int:
    """Forgets all episodes on some media, each given as a file or a sha256; returns how many there were."""
    store = MediaStore()
    hashes = [one if is_sha(one) else store.add_file(one) for one in what]
    with opened(memory_of(path)) as shards:
        return sum(shard.forget(hashes) for shard in shards)


def _as_lines(tables: Iterator[pa.Table], path: Path) -> int:
    rows = 0
    with path.open("w", encoding="utf-8") as file:
        for table in tables:
            for item, vision in zip(from_table(table), table["vision"].to_pylist(), strict=True):
                file.write(json.dumps({**item.to_dict(), "vision": vision}, ensure_ascii=False) + "\n")
                rows += 1
    return rows


def _as_arrow(tables: Iterator[pa.Table], path: Path) -> int:
    rows = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for table in tables:
            writer.write_table(table)
            rows += len(table)
    return rows


def _print(found: Found, as_json: bool) -> None:
    if as_json:
        told: list[dict[str, Any]] = [
            {"similarity": hit.similarity, "text": hit.text, "pixels": hit.pixels, **hit.item.to_dict()} for hit in found.hits
        ]
        print(json.dumps({"hits": told, "own": found.own, "foreign": found.foreign, "away": found.away}, ensure_ascii=False))
        return
    table = Table("s", "text", "pixels", "answer", "calls", "question", "weights", "episode")
    for hit in found.hits:
        numbers = (f"{value:.3f}" for value in (hit.similarity, hit.text, hit.pixels))
        item = hit.item
        words = (item.answer, " ".join(item.ops) or "-", item.question, f"{item.version[0]}.{item.version[1]}", item.id)
        table.add_row(*numbers, *map(Text, words))
    console = Console()
    console.print(table)
    if found.own:
        console.print(f"{found.own} left out: of this very medium, or with its very keys")
    if found.foreign:
        console.print(f"{found.foreign} not compared: other weights made their keys (--policy names the policy)")
    for name, why in found.away.items():
        console.print(f"PARTIAL: {name}: {why}")
