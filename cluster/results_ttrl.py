"""`make results-ttrl`: what test-time training is worth under shifts, what each of its guards is, and how long it lasts.

Each cell is a run of its own, of some minutes on one core (`cluster/cells.py`). `none` of a stream renders it, for all seeds,
and says what the start policy and the tools make of it.
"""

from __future__ import annotations

import json
import math
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pixelis.actors.ceiling import ceiling
from pixelis.actors.shift import Shift
from pixelis.actors.stream import marks, read_answers, read_keys
from pixelis.actors.world import NO_SHIFT
from pixelis.cluster import results_rft, ttrl_page
from pixelis.cluster.adaptation import JOURNAL
from pixelis.cluster.config import CONFIGS, RunConfig, load
from pixelis.cluster.evaluate import Questions, evaluate
from pixelis.cluster.origins import Origins
from pixelis.cluster.results_rft import HERE, LONE
from pixelis.cluster.run import RUNS, train
from pixelis.cluster.stream import render
from pixelis.cluster.track import read_summary
from pixelis.learners.loss import k3_to
from pixelis.learners.probe import probed
from pixelis.memory.journal import Frozen, read
from pixelis.memory.log import replace_file

FAMILIES = ("code", "clip")
GRID = (2e-5, 4e-5, 8e-5, 1.6e-4)
"""Learning rates of the spike, and one beyond: development runs gained most at 1e-4 (docs/decisions.md)."""
LR = 8e-5
"""Of everything else, until the whole spike has been run."""
MULTIPLES = (1, 2, 4, 8)
"""Of LR, for the margin of stability."""
UNSEEN, CLEAN, CEILING = 500, 1000, 250
"""Held-out questions a family: under the shift, without one, and for the tools."""
FIRST = 1000
"""Of them: those before it have been used to choose settings (docs/decisions.md)."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What is adapted to. Example: Stream("lighting:0.5", 2400)"""

    shift: str
    n: int
    """Questions."""
    rounds: int = 1
    """Times that they are asked: more than one is a folder that is revisited."""

    @property
    def last(self) -> Shift:
        """The shift that it ends with: that of the unseen questions."""
        return Shift.parse(self.shift.split(",")[-1])


STREAMS = {
    "lighting": Stream("lighting:0.5", 2400),
    "motion": Stream("motion:0.5", 2400),
    "switch": Stream("lighting:0.5,motion:0.5", 2400),
    "folder": Stream("lighting:0.5", 300, rounds=8),
    "endurance": Stream("motion:0.5", 16000),
}
ARMS: dict[str, tuple[str, ...]] = {
    "full": (),
    "answer_only": (
        "learner.ttrl.vote.answer=1", "learner.ttrl.vote.behaviour=0", "learner.ttrl.vote.fidelity=0",
        "learner.ttrl.vote.length=0", "learner.ttrl.vote.grounding=0", "learner.ttrl.vote.copies=0",
        "learner.ttrl.vote.neighbours=0", "learner.ttrl.gate.fidelity=0",
    ),
    "no_kl": ("learner.grpo.beta=0", "learner.corridor.high=0"),
    "no_ema": ('learner.ttrl.anchor="start"',),
    "no_abstain": ("learner.ttrl.gate.abstain=false",),
    "unsafe": (
        "learner.grpo.beta=0", "learner.corridor.high=0", "learner.ttrl.gate.abstain=false", "learner.ttrl.canary.every=0",
    ),
    "lora": ("learner.lora.rank=16", "learner.train_vision=false"),
}  # fmt: skip
"""What changes `configs/ttrl.toml`; `none` does not learn."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run. Example: Cell("lighting", "full", 4e-5, seed=2)"""

    stream: str
    arm: str
    lr: float = 0.0
    seed: int = 0
    """Of `none`: how many other start policies it was told of before, on machines that are gone (`cluster/origins.py`)."""

    @property
    def name(self) -> str:
        """Its run folder."""
        return f"results-ttrl-{self.stream}-{self.arm}" + (f"-{self.lr:g}-{self.seed}" if self.arm != "none" else "")

    @property
    def root(self) -> Path:
        """Where it is."""
        return RUNS / self.name

    @property
    def trained(self) -> bool:
        """Whether its run is here, to its end; of `none` the streams."""
        return all((self.root / part).exists() for part in ("clean.json", "unseen.json"))

    def __str__(self) -> str:
        return f"{self.arm} on {self.stream}" + (f", lr {self.lr:g}, seed {self.seed}" if self.arm != "none" else "")


def grids() -> list[tuple[str, str, tuple[float, ...], int]]:
    """(stream, arm, learning rates, seeds) of all that learn, the most telling first."""
    both = [(stream, arm, GRID, 3) for stream in ("lighting", "motion") for arm in ("full", "answer_only")]
    parts = [(stream, arm, (LR,), 3) for stream in ("lighting", "motion") for arm in ("no_kl", "no_ema", "no_abstain")]
    switch = [("switch", arm, (LR,), 3) for arm in ("full", "answer_only", "no_kl", "no_ema", "no_abstain")]
    margin = [("motion", arm, tuple(LR * times for times in MULTIPLES), 1) for arm in ("full", "unsafe")]
    last = [("lighting", "lora", GRID, 3), ("folder", "full", (LR,), 3)]
    return [*both, *parts, *switch, *margin, *last, *(("endurance", arm, (LR,), 2) for arm in ("full", "unsafe"))]


class Ttrl(Origins[Cell]):
    """What test-time training is worth under shifts. The same command goes on where it stopped."""

    module = "pixelis.cluster.results_ttrl"
    out = Path("docs/results/ttrl.json")

    def cells(self) -> list[Cell]:
        """`none` of each stream, then seed by seed every arm."""
        every = [Cell(stream, arm, lr, seed) for stream, arm, lrs, seeds in grids() for seed in range(seeds) for lr in lrs]
        starts = self.all_makings([Cell(stream, "none") for stream in STREAMS])
        return [*starts, *sorted(dict.fromkeys(every), key=lambda cell: cell.seed)]

    def start(self, cell: Cell) -> Cell | None:
        """What has rendered its stream."""
        return None if cell.arm == "none" else Cell(cell.stream, "none")

    def prepare(self) -> None:
        """The policy that all go on from."""
        results_rft.started()

    def train(self, cell: Cell) -> None:
        """Render or adapt; then unseen questions under the shift, and clean ones."""
        stream = STREAMS[cell.stream]
        policy = results_rft.started()
        if cell.arm == "none":
            for seed in range(1 + max(one.seed for one in self.cells() if one.stream == cell.stream)):
                if not _key(cell.stream, seed).exists():
                    shutil.rmtree(_questions(cell.stream, seed).parent, ignore_errors=True)  # it was interrupted
                    drawn = secrets.randbits(32)  # of no use to whoever adapts, whose seed is another one
                    folder, key = _questions(cell.stream, seed).parent, _key(cell.stream, seed)
                    render(stream.shift, folder, key, FAMILIES, stream.n, drawn)
        else:
            policy = train(self.config(cell), resume=True) / "policy" / "ttrl"
        for name, n, shift in (("unseen", UNSEEN, stream.last), ("clean", CLEAN, NO_SHIFT)):
            asked = Questions(n, "heldout", FAMILIES, shift, first=FIRST)
            found = evaluate(policy, cell.root / name, asked, int)
            told = json.dumps([int(one.success) for one in found.outcomes])
            replace_file(cell.root / f"{name}.json", told.encode())

    def page(self, kept: dict[Cell, dict[str, Any]]) -> Path:
        """Tables, plots, and what became of the hypotheses."""
        return ttrl_page.write(self.out, [{**one, "row": one["rows"][0]} for one in kept.values()])

    def config(self, cell: Cell) -> RunConfig:
        """Of an arm."""
        stream = STREAMS[cell.stream]
        own = [
            f"name={cell.name}", f"seed={cell.seed}", f"learner.lr={cell.lr!r}", "eval.n=0", f"tasks.rounds={stream.rounds}",
            f"tasks.file={_questions(cell.stream, cell.seed)}",
        ]  # fmt: skip
        made = load(CONFIGS / "ttrl.toml", [*own, *HERE, *LONE, *ARMS[cell.arm]])
        whole = replace(made.stop, steps=math.ceil(stream.rounds * stream.n / made.rollout.groups))
        return replace(made, start=str(results_rft.started()), stop=whole)

    def items(self, cell: Cell) -> dict[str, Any]:
        """A digit for what came of each question: unseen and clean ones, and of what learned those it served."""
        items = {name: _digits(_marks(cell, name)) for name in ("unseen", "clean")}
        if cell.arm == "none":
            return items
        once = read_keys(_key(cell.stream, cell.seed))
        rounds = range(2, STREAMS[cell.stream].rounds + 1)
        again = [replace(key, id=f"{key.id}@{number}") for number in rounds for key in once]
        right, sure = marks([*once, *again], read_answers(cell.root / "answers.jsonl"))
        return {**items, "served": _digits(right), "sure": _digits(sure)}

    def told(self, cell: Cell) -> dict[str, Any]:
        """Its row, which start policy it went on from, and what came of each question."""
        unseen, clean = _marks(cell, "unseen"), _marks(cell, "clean")
        last = STREAMS[cell.stream].last
        row: dict[str, Any] = {
            "arm": cell.arm, "stream": cell.stream, "severity": last.severity, "seed": cell.seed, "lr": cell.lr,
            "n": len(unseen), "updates": 0, "success_unseen": float(np.mean(unseen)), "success_clean": float(np.mean(clean)),
        }  # fmt: skip
        if cell.arm == "none":
            found = [ceiling(family, "heldout", CEILING, last) for family in FAMILIES]
            quiet = dict.fromkeys(("kl_median", "kl_p95", "under", "inside", "over", "abstain_rate"))
            row |= {"ceiling": float(np.mean(found)), **quiet, "rollbacks": 0}
            return {"rows": [row], "items": self.items(cell), "origin": cell.seed, "start": str(results_rft.started())}
        origin = self.origin(Cell(cell.stream, "none"))
        base = self.read(origin)
        assert base, "it is needed"
        config = self.config(cell)
        if config.start != base["start"]:
            raise ValueError(f"{cell} went on from {config.start}, and `none` of its stream is of {base['start']}")
        row |= {"ceiling": base["rows"][0]["ceiling"], **drift(cell.root, config)}
        cpu_s = read_summary(cell.root)["phases"]["ttrl"]["cpu_s"]
        return {"rows": [row], "items": self.items(cell), "origin": origin.seed, "cpu_s": cpu_s}


def drift(root: Path, config: RunConfig) -> dict[str, Any]:
    """How far the kept updates of a run were from its reference, by the edges of `configs/ttrl.toml` whatever its own are."""
    edges = load(CONFIGS / "ttrl.toml").learner.corridor
    anchor = config.learner.ttrl.anchor
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line.get("skipped") == 0.0]
    kl = np.array([line[f"{k3_to(anchor)}_token_mean"] for line in kept] or [math.nan])
    means = np.array([kl[max(0, n - edges.window) : n].mean() for n in range(1, len(kl) + 1)])  # of the first, what there is
    probe = [line[probed(anchor)] for line in kept if probed(anchor) in line]

    def asked(line: dict[str, float]) -> float:
        return line["groups"] - line.get("frozen", 0.0)

    return {
        "updates": len(kept),
        "kl_median": float(np.median(kl)), "kl_p95": float(np.quantile(kl, 0.95)),
        "under": float((kl < edges.low).mean()), "inside": float(((kl >= edges.low) & (kl <= edges.high)).mean()),
        "over": float((kl > edges.high).mean()), "over_window": float((means > edges.high).mean()),
        "probe_max": max(probe, default=None),
        "abstain_rate": sum(line.get("abstained", 0.0) for line in lines) / max(1.0, sum(asked(line) for line in lines)),
        "rollbacks": sum(isinstance(line.entry, Frozen) for line in read(root / JOURNAL)),  # which each of them ends with
    }  # fmt: skip


def _questions(stream: str, seed: int) -> Path:
    return Cell(stream, "none").root / f"stream-{seed}" / "tasks.jsonl"


def _key(stream: str, seed: int) -> Path:
    return RUNS / f"results-ttrl-{stream}-{seed}.key.jsonl"


def _marks(cell: Cell, name: str) -> list[int]:
    marked: list[int] = json.loads((cell.root / f"{name}.json").read_text())
    return marked


def _digits(values: Sequence[Any]) -> str:
    return "".join(str(int(value)) for value in values)


if __name__ == "__main__":
    Ttrl().main()
