"""`make results-rft`: what Curiosity-Coherence RFT is worth, and each part of it, from an early and from a converged start.

Each cell is a run of its own, of some minutes on one core (`cluster/cells.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pixelis.actors.score import Outcome, figures
from pixelis.actors.world import FAMILIES
from pixelis.cluster.config import CONFIGS, RunConfig, load
from pixelis.cluster.evaluate import read_outcomes
from pixelis.cluster.origins import Origins
from pixelis.cluster.results import equal_steps
from pixelis.cluster.results_page import write_page
from pixelis.cluster.run import RUNS, train
from pixelis.cluster.track import read_summary
from pixelis.learners.loss import K3

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
SEEDS: dict[tuple[str, str], tuple[int, ...]] = {
    **{("early", arm): (0, 1, 2, 3, 4) for arm in ("task", "full", "no_curiosity", "no_coherence")},
    ("early", "no_efficiency"): (0, 1, 2),
    **{("early", arm): (0, 2, 3) for arm in ("sft_more", "usage_bonus")},  # whose `full` went on from the same start
    **{("converged", arm): (0, 1, 2) for arm in ("task", "full")},
}
N = 1000
"""Held-out questions a family."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run. Example: Cell("early", "full", 2)"""

    start: str
    arm: str
    seed: int = 0
    """Of `sft`: how often it had been trained before, by the same command on machines that are gone (`cluster/origins.py`)."""

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
    def trained(self) -> bool:
        """Whether its run is here, to its end."""
        return self.phase in read_summary(self.root)["phases"]

    def __str__(self) -> str:
        return f"{self.arm} from {self.start}, seed {self.seed}"


class Rft(Origins[Cell]):
    """What CC-RFT and its parts are worth: 37 cells. The same command goes on where it stopped."""

    module = "pixelis.cluster.results_rft"
    out = Path("docs/results/rft.json")

    def cells(self) -> list[Cell]:
        """The starts, then seed by seed every arm, `full` before the arm that may cost as much."""
        order = sorted(SEEDS, key=lambda key: [*ARMS, "sft_more"].index(key[1]))
        rest = [Cell(start, arm, seed) for seed in range(5) for start, arm in order if seed in SEEDS[start, arm]]
        return [*self.all_makings([Cell(start, "sft") for start in STARTS]), *rest]

    def start(self, cell: Cell) -> Cell | None:
        """The imitation that an arm goes on from."""
        return None if cell.arm == "sft" else Cell(cell.start, "sft")

    def needed(self, cell: Cell) -> list[Cell]:
        """`sft_more` costs what `full` of its seed did."""
        return [*super().needed(cell), *([Cell(cell.start, "full", cell.seed)] if cell.arm == "sft_more" else [])]

    def train(self, cell: Cell) -> None:
        """Its phase, and the held-out questions."""
        train(self.config(cell), resume=True)

    def told(self, cell: Cell) -> dict[str, Any]:
        """Its rows, and what came of each question."""
        return {"rows": rows(cell), "items": self.items(cell)}

    def items(self, cell: Cell) -> dict[str, Any]:
        """Which it is, the start that it went on from, and what came of each question."""
        origin = cell if cell.arm == "sft" else self.origin(Cell(cell.start, "sft"))
        return {**_key(cell), "origin": origin.seed, **packed(_outcomes(cell))}

    def page(self, kept: dict[Cell, dict[str, Any]]) -> Path:
        """Tables, plots, and what became of the hypotheses."""
        return write_page(
            self.out, [row for one in kept.values() for row in one["rows"]], [one["items"] for one in kept.values()]
        )

    def config(self, cell: Cell) -> RunConfig:
        """The config of one cell; all but starts need theirs finished, `sft_more` its seed's `full` too."""
        seed = 0 if cell.arm == "sft" else cell.seed
        own = [f"name={cell.name}", f"seed={seed}", f"eval.n={N}", *HERE]
        begun = Cell(cell.start, "sft").root
        if cell.phase == "rft":
            made = load(CONFIGS / "rft.toml", [*own, *LONE, *ARMS[cell.arm]])
            return replace(made, start=str(begun / "policy" / "sft"))
        made = load(CONFIGS / "sft.toml", [*own, *STARTS[cell.start], *(() if cell.arm == "sft" else LONE)])
        if cell.arm == "sft":
            return made
        full = self.read(Cell(cell.start, "full", cell.seed))
        assert full, "it is needed"
        stop = replace(made.stop, steps=equal_steps(begun, full["rows"][0]["cpu_s"]), gate=0.0)
        lone = replace(made.replay, mixture=made.replay.mixture[-1:])
        return replace(made, start=str(begun / "policy" / "sft"), stop=stop, replay=lone)


def started() -> Path:
    """The policy that test-time training goes on from: `full` of the early start, of the first seed whose run is here; without
    any, seed 0 is trained."""
    every = [Cell("early", "full", seed) for seed in SEEDS["early", "full"]]
    full = next((cell for cell in every if cell.trained), every[0])
    for cell in (Cell("early", "sft"), full) if not full.trained else ():
        if not cell.trained:
            Rft().train(cell)
    return full.root / "policy" / full.phase


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


if __name__ == "__main__":
    Rft().main()
