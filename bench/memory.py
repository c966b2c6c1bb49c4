"""The episode memory at 10k, 100k and 1M keys: search beside raw FAISS and through actors, push with fsync, memory per row.

Keys are 128 + 128 numbers, clustered as episodes about few kinds of questions are. One thread. The searches take turns on
the same queries, so that a busy machine slows all of them; each figure is p50 and p99 of single queries. Raw FAISS is a search
of the flat index alone for eight keys. HNSW and IVF stand beside it with the recall@8 that they reach.

    python bench/memory.py [ROWS ...]          # 10000 100000 1000000 by default: an hour, 6 GB; 10000 alone takes a minute
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from figures import keep

from pixelis.memory.episodes import EpisodeShard
from pixelis.memory.look import WHOLE, Look
from pixelis.memory.recall import EpisodeMemory, Here
from pixelis.memory.remembered import Keys, Remembered, Row
from pixelis.memory.select import Query, RecallSettings

SIZES = (10_000, 100_000, 1_000_000)
TEXT, PIXELS = 128, 128
BATCH = 500
QUERIES = 200
PUSHES = 50
KINDS = 200
"""Kinds of questions and of scenes."""
SETTINGS = RecallSettings(seconds=600.0)


class Unused:
    """Keys are made here, not by an encoder."""

    hash = ""

    def __call__(self, items: Sequence[str], /) -> np.ndarray:
        raise AssertionError("the bench gives keys")


OPEN = """
import sys, time
from pathlib import Path
import faiss
from pixelis.memory.episodes import EpisodeShard
def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before, start = rss(), time.perf_counter()
shard = EpisodeShard(Path(sys.argv[1]))
print(time.perf_counter() - start, (rss() - before) / len(shard))
"""


def opened_apart(root: Path) -> dict[str, float]:
    """Seconds to open a shard, and bytes that a fresh process grows by for each row."""
    told = subprocess.run([sys.executable, "-c", OPEN, str(root)], capture_output=True, text=True, check=True).stdout
    return dict(zip(("open_s", "memory_per_row"), map(float, told.split()), strict=True))


class Maker:
    """Rows and queries whose keys scatter around KINDS centres."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        centres = np.random.default_rng(0).normal(size=(KINDS, TEXT + PIXELS))
        self.centres = centres.astype(np.float32)

    def keys(self) -> Keys:
        """Near some kind of question and some kind of scene."""
        text, pixels = self.rng.integers(0, KINDS, 2)
        noise = 0.6 * self.rng.normal(size=TEXT + PIXELS).astype(np.float32)
        return Keys(self.centres[text, :TEXT] + noise[:TEXT], self.centres[pixels, TEXT:] + noise[TEXT:], "v" * 64, "r" * 64)

    def row(self, number: int, name: str = "e") -> Row:
        """An episode of two calls."""
        sha = f"{number:064x}"
        looks = (Look("ZOOM", (WHOLE,)), Look("OCR", (WHOLE,), text=f"K{number}", sure=0.9))
        question = f"What is the code on plate {number % KINDS}?"
        scores = {"score": 0.9, "agreement": 0.8, "behaviour": 0.9, "fidelity": 1.0, "margin": 0.7}
        id, answer, version = f"{name}/{number}", f"K{number}", (0, number)
        item = Remembered(id, question, "text", answer, (sha,), looks, 0, sha, scores, "accepted", version)
        return item, self.keys()

    def query(self) -> Query:
        """A question whose kind of answer all rows have."""
        return Query(self.keys(), "What is the code?", "text")


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    return {"p50_ms": 1e3 * float(np.percentile(seconds, 50)), "p99_ms": 1e3 * float(np.percentile(seconds, 99))}


def timed(ways: dict[str, Callable[[Query], object]], queries: list[Query]) -> dict[str, dict[str, float]]:
    """Each way on each query in turn, after ten that are not counted."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number, query in enumerate(queries):
        for name, way in ways.items():
            start = time.perf_counter()
            way(query)
            if number >= 10:
                spent[name].append(time.perf_counter() - start)
    return {name: percentiles(seconds) for name, seconds in spent.items()}


def approximate(flat: Any, queries: list[Query]) -> dict[str, dict[str, float]]:
    """What HNSW and IVF would reach of the exact eight, at what cost of time; the index that is shipped is exact."""
    keys, asked = flat.reconstruct_n(0, flat.ntotal), np.array([SETTINGS.weighed(query.keys) for query in queries])
    exact = flat.search(asked, 8)[1]
    cells = int(4 * flat.ntotal**0.5)
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(flat.d), flat.d, cells, faiss.METRIC_INNER_PRODUCT)
    hnsw = faiss.IndexHNSWFlat(flat.d, 32, faiss.METRIC_INNER_PRODUCT)
    hnsw.hnsw.efSearch = 128
    found = {}
    for name, index in (("ivf", ivf), ("hnsw", hnsw)):
        start = time.perf_counter()
        index.train(keys[np.random.default_rng(0).permutation(len(keys))[: 40 * cells]])
        index.add(keys)
        build = time.perf_counter() - start
        probes: tuple[int, ...] = (8, 32, 128) if name == "ivf" else (0,)
        for probe in probes:
            if probe:
                ivf.nprobe = probe
            times, hits = [], 0
            for one, best in zip(asked, exact, strict=True):
                start = time.perf_counter()
                near = index.search(one[None], 8)[1][0]
                times.append(time.perf_counter() - start)
                hits += len(set(near.tolist()) & set(best.tolist()))
            found[f"{name}{probe or ''}"] = {**percentiles(times), "recall": hits / exact.size, "build_s": build}
    return found


def through_actors(root: Path, queries: list[Query], here: EpisodeMemory, shard: EpisodeShard) -> dict[str, Any]:
    """The same search of the same shard, in an actor and in this process in turns; the log is copied, since one may write."""
    import ray

    from pixelis.cluster.memory import start_memory, stop_memory

    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    copy = root / "copy"
    shutil.copytree(root / "0", copy / "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        there = EpisodeMemory(start_memory(copy, 1), Unused(), Unused(), SETTINGS)
        found = timed({"here": lambda q: here.search([q]), "actor": lambda q: there.search([q])}, queries)
        same = all(
            [hit.item.id for hit in a.hits] == [hit.item.id for hit in b.hits]
            for a, b in zip(here.search(queries[:20]), there.search(queries[:20]), strict=True)
        )
        stop_memory(copy)
    finally:
        ray.shutdown()
    return {**found, "same": same, "more_ms": found["actor"]["p50_ms"] - found["here"]["p50_ms"]}


def measure(rows: int, root: Path) -> dict[str, Any]:
    """All figures of one size."""
    maker = Maker(1)
    shard = EpisodeShard(root / "0")
    start = time.perf_counter()
    for first in range(0, rows, BATCH):
        shard.add([maker.row(n) for n in range(first, min(rows, first + BATCH))])
    figures: dict[str, Any] = {"fill_s": time.perf_counter() - start}
    pushes = []
    for number in range(PUSHES):
        row = [maker.row(number, "pushed")]
        start = time.perf_counter()
        shard.add(row)
        pushes.append(time.perf_counter() - start)
    figures["push"] = percentiles(pushes)
    shard.close()
    figures |= opened_apart(root / "0")
    shard = EpisodeShard(root / "0")
    figures["disk_per_row"] = shard.stats()["bytes"] / len(shard)
    [index] = shard._indexes.values()
    handle = Here(shard)
    memory = EpisodeMemory([handle], Unused(), Unused(), SETTINGS)
    queries = [maker.query() for _ in range(QUERIES)]
    ways: dict[str, Callable[[Query], object]] = {
        "raw": lambda q: index.flat.search(SETTINGS.weighed(q.keys)[None], SETTINGS.count),
        "shard": lambda q: shard.search([q], SETTINGS),
        "memory": lambda q: memory.search([q]),
    }
    figures["search"] = timed(ways, queries)
    figures["over_raw"] = figures["search"]["memory"]["p50_ms"] / figures["search"]["raw"]["p50_ms"]
    figures["actors"] = through_actors(root, queries, memory, shard)
    if rows >= 100_000:
        figures["approximate"] = approximate(index.flat, queries)
    handle.close()
    return figures


def main() -> None:
    """Each size in a folder of its own."""
    faiss.omp_set_num_threads(1)
    told: dict[str, Any] = {}
    for rows in map(int, sys.argv[1:]) if sys.argv[1:] else SIZES:
        with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
            one = told[str(rows)] = measure(rows, Path(folder))
        print(f"{rows} rows of {TEXT} + {PIXELS}: filled in {one['fill_s']:.1f} s, opened in {one['open_s']:.1f} s")
        for name, figure in (("push + fsync", one["push"]), *one["search"].items()):
            print(f"  {name:14} p50 {figure['p50_ms']:9.3f} ms   p99 {figure['p99_ms']:9.3f} ms")
        actors = one["actors"]
        print(f"  in actors      p50 {actors['actor']['p50_ms']:9.3f} ms   {actors['more_ms']:+.2f} ms   bar <= +3 ms")
        print(f"  in actors the same hits: {actors['same']}")
        print(f"  over raw FAISS {one['over_raw']:.2f}   bar <= 1.5 from 100 000 rows on")
        print(f"  a row          {one['memory_per_row']:.0f} bytes of memory, {one['disk_per_row']:.0f} on disk")
        for name, figure in one.get("approximate", {}).items():
            recall, build = figure["recall"], figure["build_s"]
            print(f"  {name:14} p50 {figure['p50_ms']:9.3f} ms   recall@8 {recall:.3f}   built in {build:.0f} s")
    keep("memory", told)


if __name__ == "__main__":
    main()
