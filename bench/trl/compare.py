"""`make bench-trl`: pixelis and TRL's GRPOTrainer from the same policy, in turns, until success has been the same.

Usage: python bench/trl/compare.py [--tiny] [--seeds N]   -> docs/results/trl.json and its page (--tiny: runs/trl-tiny/)

For each seed three programs take turns of 15 s on both cores: TRL, and `pixelis train` twice, with and without visual features
kept from one forward to the next. Ours get half of TRL's time, in which they are to come as far. What they
save is evaluated afterwards by the same evaluator. A seed whose file exists is not run again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from math import inf
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from page import write_page
from turns import Program, take_turns

from pixelis.cluster.usage import load, versions
from pixelis.memory.codec import decode
from pixelis.memory.log import Log, replace_file

ROOT, HERE = Path(__file__).resolve().parents[2], Path(__file__).resolve().parent
RIVAL = ROOT / "runs/cache/trl-venv/bin/python"
BATCH = 128
"""Rollouts of an update, on all sides."""
PROOF = "uncached.txt"
"""Where processes write that they keep no features."""
WAYS = ("trl", "pixelis", "pixelis_cached")
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_TOP_PAD_": str(1 << 26)}
"""Freed memory stays: fresh pages for large tensors cost TRL a tenth of its time."""
STILL = {
    f"RAY_{name}": "600000"
    for name in (
        "health_check_timeout_ms", "grpc_keepalive_time_ms", "grpc_keepalive_timeout_ms", "grpc_client_keepalive_time_ms",
        "grpc_client_keepalive_timeout_ms",
    )
} | {"RAY_health_check_period_ms": "60000", "RAY_health_check_initial_delay_ms": "60000"}  # fmt: skip
"""For Ray, which is not to take what is stopped for dead."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done. By way: `seconds` on its clock, and `every`, the updates between weights that are evaluated, on `n`
    held-out questions."""

    seconds: dict[str, float]
    slice: float
    every: dict[str, int]
    n: int
    seeds: int
    out: Path
    work: Path
    start: Path
    sets: tuple[str, ...] = ()
    """What changes ours.toml, to try it."""


WHOLE = Size(
    {"trl": 360.0, "pixelis": 180.0, "pixelis_cached": 180.0}, 15.0, {"trl": 8, "pixelis": 12, "pixelis_cached": 12}, 1000, 3,
    ROOT / "docs/results/trl.json", ROOT / "runs/trl", ROOT / "runs/cache/trl-start",
)  # fmt: skip
TINY = Size(
    dict.fromkeys(WAYS, 20.0), 5.0, dict.fromkeys(WAYS, 2), 32, 1,
    ROOT / "runs/trl-tiny/trl.json", ROOT / "runs/trl-tiny/work", ROOT / "runs/cache/trl-start-tiny",
)  # fmt: skip


def main() -> None:
    """All seeds that have no file yet, then the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--set", action="append", default=[], help="changes ours.toml; what is kept goes to runs/trl-set/ then")
    asked = parser.parse_args()
    size = TINY if asked.tiny else WHOLE
    if asked.set:
        size = replace(size, sets=tuple(asked.set), out=ROOT / "runs/trl-set" / ",".join(asked.set) / "trl.json")
    if not (size.start / "policy.json").is_file():
        tiny = ["--tiny"] if asked.tiny else []
        subprocess.run([sys.executable, str(HERE / "start.py"), str(size.start), *tiny], check=True, cwd=ROOT)
    subprocess.run([str(RIVAL), str(HERE / "trainer.py"), "--config"], check=True, env=environment("trl"))
    for seed in range(asked.seeds or size.seeds):
        path = size.out.with_suffix("") / f"seed-{seed}.json"
        if not path.exists():
            print(f"seed {seed}: {', '.join(f'{seconds:g} s of {way}' for way, seconds in size.seconds.items())}", flush=True)
            told = one_seed(size, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, (json.dumps(told, indent=1) + "\n").encode())
        gather(size)


def one_seed(size: Size, seed: int) -> dict[str, Any]:
    """Runs all ways in turns, then evaluates what they saved."""
    folder = size.work / f"seed-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    programs = [program(way, size, seed, folder) for way in WAYS]
    before = load()
    try:
        take_turns(programs, size.slice, lambda p: collect(p.name, folder))
        check_uncached(programs[WAYS.index("pixelis")], folder)
    finally:
        for one in programs:
            one.end()
    rows = [row for one in programs for row in points(one, folder)]
    asked = [size.start if row["step"] == 0 else ready(row["way"], row["step"], folder, size.start) for row in rows]
    paths = list(dict.fromkeys(asked))
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        found = dict(zip(paths, pool.map(measured, paths, [size.n] * len(paths)), strict=True))
    rows = [{"seed": seed, **row, **found[path]} for row, path in zip(rows, asked, strict=True)]
    return {
        "seed": seed, "n": size.n, "slice": size.slice, "sets": size.sets, "date": date.today().isoformat(),
        "versions": versions() | {"trl": rival_version()}, "load": [before, load()], "rows": rows,
        "speed": {one.name: speed(one) for one in programs}, "parts": {way: parts(folder, way) for way in WAYS[1:]},
        "foreign": {way: foreign(folder, way) for way in WAYS},
    }  # fmt: skip


def program(way: str, size: Size, seed: int, folder: Path) -> Program:
    """The command of a way."""
    if way == "trl":
        out = folder / "trl"
        own = ["--seed", str(seed), "--every", str(size.every[way])]
        words = [str(RIVAL), str(HERE / "trainer.py"), str(size.start), str(out), *own]
        return Program(way, words, environment(way), folder, out / "steps.jsonl", folder / "trl.log", size.seconds[way])
    own = [f"name={way}", f"seed={seed}", f"start={size.start}", f"save_every={size.every[way]}"]
    sets = [word for one in (*own, *size.sets) for word in ("--set", one)]
    words = [sys.executable, "-m", "pixelis.cluster.cli", "train", str(HERE / "ours.toml"), *sets]
    env = environment(way) | ({"PIXELIS_UNCACHED": str(folder / PROOF)} if way == "pixelis" else {})
    return Program(way, words, env, folder, folder / "runs" / way / "metrics.jsonl", folder / f"{way}.log", size.seconds[way])


def environment(way: str) -> dict[str, str]:
    """Two cores for each: two threads of TRL's one process, one of each of ours."""
    own = {"OMP_NUM_THREADS": "2" if way == "trl" else "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    quiet = {
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore",
    }
    path = {"PYTHONPATH": str(HERE / "uncached")} if way == "pixelis" else {}
    return {**os.environ, **KEEP, **STILL, **own, **quiet, **path}


def check_uncached(one: Program, folder: Path) -> None:
    """RuntimeError unless each rollout actor and each learner rank of a run has no room for features."""
    told = set(map(int, (folder / PROOF).read_text().split()))
    titles = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in one.pids()}
    for pid, title in titles.items():
        if title.startswith(("ray::RolloutActor", "ray::LearnerPart")) and pid not in told:
            raise RuntimeError(f"process {pid} ({title.strip(chr(0))}) keeps features")


def collect(way: str, folder: Path) -> None:
    """Keep the checkpoints of ours that will be replaced by newer ones; TRL keeps all of its own."""
    for path in sorted((folder / "runs" / way / "checkpoints/rft").glob("step-*")) if way != "trl" else ():
        kept = folder / "kept" / way / path.name
        if not kept.exists():
            shutil.copytree(path, kept)


def ready(way: str, step: int, folder: Path, start: Path) -> Path:
    """What `pixelis eval` takes: a checkpoint of ours as it is, TRL's weights in the start policy's folder."""
    if way != "trl":
        return folder / "kept" / way / f"step-{step:06d}"
    made = folder / "kept/trl" / f"step-{step:06d}"
    if not made.exists():
        shutil.copytree(start, made)
        shutil.copy(folder / "trl" / f"checkpoint-{step}" / "model.safetensors", made / "model.safetensors")
    return made


def points(one: Program, folder: Path) -> list[dict[str, Any]]:
    """Steps whose weights are there, with what had been spent on them."""
    if one.name == "trl":
        saved = [int(path.parent.name.partition("-")[2]) for path in (folder / "trl").glob("checkpoint-*/trainer_state.json")]
    else:
        saved = [int(path.name.partition("-")[2]) for path in (folder / "kept" / one.name).glob("step-*")]
    when = dict(one.updates())
    clocks, spent = zip(*one.spent, strict=True)
    rows: list[dict[str, Any]] = [{"way": one.name, "step": 0, "rollouts": 0, "wall_s": 0.0, "cpu_s": 0.0}]
    for step in sorted(step for step in saved if when.get(step, inf) <= one.spans[-1][1]):  # none from while it was being ended
        wall = one.ran(when[step])
        cpu = float(np.interp(wall, clocks, spent))
        rows.append({"way": one.name, "step": step, "rollouts": BATCH * step, "wall_s": round(wall, 2), "cpu_s": round(cpu, 2)})
    return rows


def measured(path: Path, n: int) -> dict[str, Any]:
    """Held-out success of what a path means, over so many questions."""
    import torch

    from pixelis.cluster.evaluate import Questions, evaluate

    torch.set_num_threads(1)
    with TemporaryDirectory() as media:
        found = evaluate(path, Path(media), Questions(n, "heldout", ("code",)), lambda done: None)
    figures = found.figures["code"]
    return {"success": figures["success"], "valid": figures["valid"], "calls": figures["chain_length"]}


def speed(one: Program) -> dict[str, float]:
    """Rollouts a second and CPU seconds a rollout, from the first update on."""
    last, (_, cpu) = one.updates()[-1], one.spent[-1]
    done = (last[0] - 1) * BATCH
    return {"rollouts_per_s": done / max(one.ran(last[1]), 1e-9), "cpu_ms_per_rollout": 1000 * cpu / max(done, 1)}


def parts(folder: Path, way: str) -> dict[str, float]:
    """Medians over our updates: seconds in all, waiting for rollouts, in the update and in handing over weights, and what tools
    took in all actors together. Few updates were interrupted, so a median is not."""
    lines = [json.loads(line) for line in (folder / "runs" / way / "metrics.jsonl").read_text().splitlines()[1:]]
    names = ("seconds", "rollout_wait_s", "update_s", "publish_s", "tool_s", "chain_length", "groups_uniform")
    return {name: float(np.median([line[name] for line in lines])) for name in names} if lines else {}


def foreign(folder: Path, way: str) -> float:
    """The share of the rollouts' calls that were no OCR, or asked it for what it has not."""
    if way == "trl":
        lines = [json.loads(line) for line in (folder / "trl/logs.jsonl").read_text().splitlines()]
        return float(np.mean([line["tools/failure_frequency"] for line in lines if "tools/failure_frequency" in line] or [0.0]))
    log = Log(folder / "runs" / way / "replay/rft/log")
    groups = [group for number in range(len(log)) for group in decode(log.read(number))]
    log.close()
    calls = [turn.call for group in groups for t in group.trajectories for turn in t.turns if turn.call is not None]
    known = {"on", "box", "level"}
    return float(np.mean([call.name != "OCR" or not known.issuperset(call.arguments) for call in calls] or [0.0]))


def rival_version() -> str:
    """Of TRL."""
    said = subprocess.run(
        [str(RIVAL), "-c", "from importlib.metadata import version; print(version('trl'))"], capture_output=True
    )
    return said.stdout.decode().strip()


def gather(size: Size) -> None:
    """All seeds so far as one file, and the page."""
    seeds: Sequence[dict[str, Any]] = [json.loads(p.read_text()) for p in sorted(size.out.with_suffix("").glob("seed-*.json"))]
    replace_file(size.out, (json.dumps(seeds, indent=1) + "\n").encode())
    print(f"-> {write_page(size.out, seeds).relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main()
