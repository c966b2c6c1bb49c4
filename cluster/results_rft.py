"""`make results-rft`: what Curiosity-Coherence RFT is worth, and each part of it, from an early and from a converged start.

Each cell is a run of its own under `runs/`, of some minutes on one core, and leaves a file in `docs/results/rft/`; it is passed
over when that file is there, and continued when it was interrupted. As many go on side by side as the machine has cores. After
each, the page and all rows so far are written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pixelis.actors.score import Outcome, figures
from pixelis.actors.world import FAMILIES
from pixelis.cluster.config import CONFIGS, RunConfig, load
from pixelis.cluster.evaluate import read_outcomes
from pixelis.cluster.results import equal_steps
from pixelis.cluster.results_page import write_page
from pixelis.cluster.run import RUNS, train
from pixelis.cluster.track import read_summary
from pixelis.learners.loss import K3
from pixelis.memory.log import replace_file

HERE = ("tools.where=here", "tracking=")  # no tool pool: a cell starts sooner, and none of them is about tools
LONE = ("rollout.actors=1", "learner.ranks=1")
"""An arm acts and learns in turns: shared by two processes each, every turn ends with one waiting for the other."""
STARTS: dict[str, tuple[str, ...]] = {
    "early": ("tasks.scenes={code=400,clip=800}", "stop.steps=1150", "learner.decay=250"),
    "converged": (),
}
"""What changes `configs/sft.toml` for the policy that the arms start from."""
ARMS: dict[str, tuple[str, ...]] = {
    "task": (
        "learner.intrinsic.curiosity=0", "learner.intrinsic.coherence=0",
        "rollout.reward.invalid=0", "rollout.reward.length=0", "rollout.reward.duplicate=0",
    ),
    "full": (),
    "no_curiosity": ("learner.intrinsic.curiosity=0",),
    "no_coherence": ("learner.intrinsic.coherence=0",),
    "no_efficiency": ("rollout.reward.invalid=0", "rollout.reward.length=0", "rollout.reward.duplicate=0"),
    "usage_bonus": ("learner.intrinsic.usage=0.5",),
}  # fmt: skip
"""What changes `configs/rft.toml`; `sft_more` is imitation continued for as many CPU-seconds as `full` of its seed took."""
SEEDS = {
    ("early", "task"): 5, ("early", "full"): 5, ("early", "no_curiosity"): 5, ("early", "no_coherence"): 5,
    ("early", "sft_more"): 3, ("early", "no_efficiency"): 3, ("early", "usage_bonus"): 3,
    ("converged", "task"): 3, ("converged", "full"): 3,
}  # fmt: skip
N = 1000
"""Held-out questions a family."""
OUT = Path("docs/results/rft.json")
TRIES = 3
"""Times that a cell is begun before it is given up."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run. Example: Cell("early", "full", 2)"""

    start: str
    arm: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Its run folder."""
        return f"results-rft-{self.start}" + ("" if self.arm == "sft" else f"-{self.arm}-{self.seed}")

    @property
    def phase(self) -> str:
        """The phase that it runs."""
        return "sft" if self.arm in ("sft", "sft_more") else "rft"

    @property
    def root(self) -> Path:
        """Where it is."""
        return RUNS / self.name

    @property
    def log(self) -> Path:
        """What its process says."""
        return RUNS / f"{self.name}.log"

    @property
    def trained(self) -> bool:
        """Whether its run is here, to its end."""
        return self.phase in read_summary(self.root)["phases"]

    def __str__(self) -> str:
        return f"{self.arm} from {self.start}, seed {self.seed}"


class Running(Protocol):
    """A cell that is being run (a process)."""

    def poll(self) -> int | None:
        """None while it goes on, 0 when it is finished, another number when it failed."""
        ...


def cells() -> list[Cell]:
    """All of them: the starts, then seed by seed every arm, `full` before the arm that may cost as much."""
    order = sorted(SEEDS, key=lambda key: [*ARMS, "sft_more"].index(key[1]))
    rest = [Cell(start, arm, seed) for seed in range(max(SEEDS.values())) for start, arm in order if seed < SEEDS[start, arm]]
    return [*(Cell(start, "sft") for start in STARTS), *rest]


def started(cell: Cell) -> Running:
    """A process that trains a cell."""
    RUNS.mkdir(exist_ok=True)
    print(f"begins: {cell}; tail -f {cell.log}", flush=True)
    command = [sys.executable, "-u", "-m", "pixelis.cluster.results_rft", "--cell", cell.name]
    with cell.log.open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def run(out: Path = OUT, beside: int = 1, begin: Callable[[Cell], Running] = started) -> Path:
    """Run what is not finished, `beside` cells at a time; returns the page.

    A cell that fails goes on from its checkpoint, a few times. SystemExit when that is of no use, naming its log, after those
    beside it have ended: what is finished stays finished.
    """
    waiting, since = todo(out), time.monotonic()
    running: dict[Cell, Running] = {}
    failed = Counter[Cell]()
    ended = 0
    while running or (waiting and not _hopeless(failed)):
        ready = [cell for cell in waiting if not any(one in waiting or one in running for one in needed(cell))]
        for cell in [] if _hopeless(failed) else ready[: beside - len(running)]:
            waiting.remove(cell)
            running[cell] = begin(cell)
        done = {cell: code for cell, one in running.items() if (code := one.poll()) is not None}
        for cell, code in done.items():
            del running[cell]
            if code:
                failed[cell] += 1
                waiting.insert(0, cell)
                print(f"failed: {cell}; see {cell.log}", flush=True)
                continue
            if not _file(out, cell).exists():  # a start made again keeps the figures that its arms were compared with
                keep(out, cell)
            gather(out)
            ended += 1
            left = len(waiting) + len(running)
            minutes = (time.monotonic() - since) / ended * left / 60
            print(f"done: {cell}; {left} cells left, about {minutes:.0f} min", flush=True)
        if not done:
            time.sleep(0.5)
    if _hopeless(failed):
        [cell] = _hopeless(failed)[:1]
        raise SystemExit(f"{cell} failed {TRIES} times: see {cell.log}; the same command goes on when that is mended")
    return gather(out)


def _hopeless(failed: Counter[Cell]) -> list[Cell]:
    return [cell for cell, times in failed.items() if times >= TRIES]


def todo(out: Path) -> list[Cell]:
    """Cells without a file, and starts whose policy is not here and one of those needs, in their order."""
    left = [cell for cell in cells() if not _file(out, cell).exists()]
    starts = {cell.start for cell in left}
    return [c for c in cells() if c in left or (c.arm == "sft" and c.start in starts and not c.trained)]


def needed(cell: Cell) -> list[Cell]:
    """What must be finished before a cell can begin."""
    if cell.arm == "sft":
        return []
    return [Cell(cell.start, "sft"), *([Cell(cell.start, "full", cell.seed)] if cell.arm == "sft_more" else [])]


def keep(out: Path, cell: Cell) -> None:
    """What a finished cell came to, as a file of its own: its rows, and what came of each question."""
    path = _file(out, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"rows": rows(cell), "items": {**_key(cell), **packed(_outcomes(cell))}}
    replace_file(path, (json.dumps(told, indent=0) + "\n").encode())


def gather(out: Path) -> Path:
    """All rows so far, and the page."""
    kept = [json.loads(path.read_text()) for cell in cells() if (path := _file(out, cell)).exists()]
    lines = [json.dumps(row) for one in kept for row in one["rows"]]
    replace_file(out, ("[\n" + ",\n".join(lines) + "\n]\n").encode())
    return write_page(out, [row for one in kept for row in one["rows"]], [one["items"] for one in kept])


def config(cell: Cell, out: Path = OUT) -> RunConfig:
    """The config of one cell; all but starts need theirs finished, `sft_more` its seed's `full` too."""
    own = [f"name={cell.name}", f"seed={cell.seed}", f"eval.n={N}", *HERE]
    begun = Cell(cell.start, "sft").root
    if cell.phase == "rft":
        made = load(CONFIGS / "rft.toml", [*own, *LONE, *ARMS[cell.arm]])
        return replace(made, start=str(begun / "policy" / "sft"))
    made = load(CONFIGS / "sft.toml", [*own, *STARTS[cell.start], *(() if cell.arm == "sft" else LONE)])
    if cell.arm == "sft":
        return made
    [full, *_] = json.loads(_file(out, Cell(cell.start, "full", cell.seed)).read_text())["rows"]
    stop = replace(made.stop, steps=equal_steps(begun, full["cpu_s"]), gate=0.0)
    lone = replace(made.replay, mixture=made.replay.mixture[-1:])
    return replace(made, start=str(begun / "policy" / "sft"), stop=stop, replay=lone)


def rows(cell: Cell) -> list[dict[str, Any]]:
    """The rows of a finished cell: held-out questions of all families, then of each."""
    outcomes, phase = _outcomes(cell), read_summary(cell.root)["phases"][cell.phase]
    kl = _kl(cell.root) if cell.phase == "rft" else None
    parts: dict[str, Sequence[Outcome]] = {"heldout": outcomes}
    families = dict.fromkeys(o.family for o in outcomes)
    parts |= {f"heldout/{name}": [o for o in outcomes if o.family == name] for name in families}
    return [
        {**_key(cell), "split": split, **_figures(some), "kl": kl, "cpu_s": phase["cpu_s"]} for split, some in parts.items()
    ]


def packed(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """What came of each question, a base-36 digit for each: small enough to keep in the repository.

    Example:
        >>> packed([Outcome("code", True, steps=3, valid=3, calls=3, fidelity=0.5, hops=(True, False))])["hops"]
        '1'
    """
    columns: dict[str, list[int]] = {
        "family": [list(FAMILIES).index(o.family) for o in outcomes],
        "success": [int(o.success) for o in outcomes],
        "steps": [o.steps for o in outcomes],
        "valid": [o.valid for o in outcomes],
        "used": [int(o.calls > 0) for o in outcomes],
        "hops": [sum(o.hops) for o in outcomes],
        "pairs": [len(o.hops) for o in outcomes],
        "again": [sum(o.redundant) for o in outcomes],
        "calls": [len(o.redundant) for o in outcomes],
        "fidelity": [35 if o.fidelity is None else round(34 * o.fidelity) for o in outcomes],
    }
    return {name: "".join(np.base_repr(min(35, value), 36) for value in column) for name, column in columns.items()}


def _file(out: Path, cell: Cell) -> Path:
    return out.with_suffix("") / f"{cell.name.removeprefix('results-rft-')}.json"


def _key(cell: Cell) -> dict[str, Any]:
    return {"arm": cell.arm, "start": cell.start, "seed": cell.seed}


def _outcomes(cell: Cell) -> list[Outcome]:
    return read_outcomes(cell.root / f"heldout-{cell.phase}.arrow")


def _figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Those of any evaluation, and the calls beyond each family's shortest sufficient chain."""
    found = figures(outcomes)
    least = float(np.mean([FAMILIES[o.family].shortest_calls for o in outcomes]))
    names = ("n", "success", "valid", "chain_length", "rapr", "racpr", "visfid", "hop_rate", "redundancy")
    return {name: getattr(found, name) for name in names} | {"excess_calls": found.chain_length - least}


def _kl(root: Path) -> float:
    """Mean over the last 16 updates, as the corridor reads it."""
    lines: list[Mapping[str, Any]] = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return float(np.mean([line[f"{K3}_token_mean"] for line in lines if f"{K3}_token_mean" in line][-16:]))


def main() -> None:
    """The command line of `make results-rft`."""
    parser = argparse.ArgumentParser(prog="results_rft", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--beside", type=int, default=os.cpu_count() or 1, help="cells at a time; each takes 4 GB")
    parser.add_argument("--cell", help="train this one alone, in this process", choices=[cell.name for cell in cells()])
    asked = parser.parse_args()
    if asked.cell:
        train(config(next(cell for cell in cells() if cell.name == asked.cell)), resume=True)
    else:
        print(run(beside=asked.beside))


if __name__ == "__main__":
    main()
