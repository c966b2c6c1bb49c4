"""What infrastructure failures do to what is learned: RFT with 0, 5 and 30 % of all tool calls failing, three seeds.

Usage: python bench/infra.py [POLICY [STEPS]]   (a policy folder, checkpoint or run; default: what `make demo` left, 40 steps)

A failing call is tried again first, then its episode from the same seed; what cannot be completed is left out. Chain lengths
are those of completed episodes of the start policy, compared by the two-sample Kolmogorov-Smirnov test with those of the same
questions without failures; learning is `configs/rft.toml`, shortened, in one process a cell and two cells at a time.
"""

import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from figures import keep, row, spread
from flaky import FlakyToolbox
from scipy.stats import ks_2samp

from pixelis.actors.engine import TransformersEngine
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutWorker
from pixelis.actors.score import by_family
from pixelis.actors.tasks import TaskSource
from pixelis.cluster.config import RunConfig, load
from pixelis.cluster.policy import open_policy
from pixelis.learners.learner import Learner
from pixelis.memory.model import Model
from pixelis.memory.trajectory import Group
from pixelis.tools.media import MediaStore

ROOT = Path(__file__).resolve().parent.parent
RATES = (0.0, 0.05, 0.3)
SEEDS = (0, 1, 2)
STEPS = 40
HELD_OUT = 300
"""Questions a family."""
COMPARED = 128
"""Groups whose chain lengths are compared."""


@dataclass
class Cell:
    """What came of one seed at one rate."""

    rate: float
    seed: int
    success: float
    groups: int
    """Completed, of those asked."""
    episodes_lost: int
    calls_again: int
    episodes_again: int
    chains: list[int]
    chains_trained: list[int]


def learn(rate: float, seed: int, policy: str, steps: int) -> Cell:
    """One cell."""
    torch.set_num_threads(1)
    config = load(ROOT / "configs" / "rft.toml", [f"seed={seed}", f"start={policy}", f"stop.steps={steps}"])
    model, store = open_policy(policy), MediaStore(None)
    toolbox = FlakyToolbox(store, rate, seed)
    worker = workers(config, model, store, toolbox)
    chains = [n for group in worker.sample(range(1 << 30, (1 << 30) + COMPARED)) for n in lengths(group)]
    toolbox.retried = worker.repeated = 0
    learner = Learner(model, store, replace(config.learner, decay=steps * 4 // 5), (0, 0), steps)
    lost, whole, trained = 0, 0, list[int]()
    for groups in sampled(worker, learner, steps, config.rollout.groups):
        lost += sum(t.status == "infra" for group in groups for t in group.trajectories)
        whole += sum(any(t.status != "infra" for t in group.trajectories) for group in groups)
        trained += [n for group in groups for n in lengths(group)]
    again = toolbox.retried, worker.repeated
    outcomes, _ = workers(config, model, store, FlakyToolbox(store, 0.0, 0), held_out=True).evaluate(range(2 * HELD_OUT))
    return Cell(rate, seed, by_family(outcomes)["all"]["success"], whole, lost, *again, chains, trained)


def workers(config: RunConfig, model: Model, store: MediaStore, toolbox: FlakyToolbox, held_out: bool = False) -> RolloutWorker:
    """Rollouts of the phase's questions, or of as many held-out ones of every family."""
    renderer, families = Renderer(model), config.tasks.families
    asked = TaskSource(tuple(dict.fromkeys(families)), "heldout", store) if held_out else TaskSource(families, "rft", store)
    engine = TransformersEngine(model, store, renderer.stop)
    return RolloutWorker(asked, toolbox, renderer, engine, config.rollout, config.seed)


def sampled(worker: RolloutWorker, learner: Learner, steps: int, groups: int) -> Iterator[list[Group]]:
    """The groups of every step, each of which the policy then learns from."""
    for step in range(steps):
        learner.model.net.eval()
        found = worker.sample(range(step * groups, (step + 1) * groups))
        yield found
        learner.update(found)
    learner.model.net.eval()


def lengths(group: Group) -> list[int]:
    """Chain lengths of a group's completed episodes."""
    return [t.chain_length for t in group.trajectories if t.status != "infra"]


def main() -> None:
    """All cells, and the table."""
    policy = str(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo/policy/sft").resolve())
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else STEPS
    if not Path(policy).exists():
        sys.exit(f"{policy} is not there: `make demo` trains it, or name another policy that calls tools")
    wanted = [(rate, seed) for seed in SEEDS for rate in RATES]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        running = {cell: pool.submit(learn, *cell, policy, steps) for cell in wanted}
        cells: dict[tuple[float, int], Cell] = {}
        for cell, future in running.items():
            cells[cell] = future.result(timeout=7200)
            done = cells[cell]
            print(f"{done.rate:.0%} failing, seed {done.seed}: held-out {done.success:.3f}, {done.groups} groups", flush=True)
    figures: dict[str, object] = {"policy": policy, "steps": steps, "heldout_n": 2 * HELD_OUT}
    for rate in RATES:
        some = [cells[rate, seed] for seed in SEEDS]
        tests = [ks_2samp(c.chains, cells[0.0, c.seed].chains).pvalue for c in some]
        success, name = spread([c.success for c in some]), f"{rate:.0%} failing"
        apart = statistics.mean(c.success - cells[0.0, c.seed].success for c in some)
        row(f"{name}: held-out success", success)
        row(f"{name}: minus without, mean of seeds", spread([apart]), bar="within 0.03")
        row(f"{name}: groups completed", spread([float(c.groups) for c in some]))
        row(f"{name}: episodes lost", spread([float(c.episodes_lost) for c in some]))
        row(f"{name}: calls tried again", spread([float(c.calls_again) for c in some]))
        row(f"{name}: KS p-value of chain lengths", spread([float(p) for p in tests]), bar="> 0.05")
        figures[name] = {
            "success": [c.success for c in some], "minus_without": apart, "groups": [c.groups for c in some],
            "episodes_lost": [c.episodes_lost for c in some], "calls_again": [c.calls_again for c in some],
            "episodes_again": [c.episodes_again for c in some], "ks_p": [float(p) for p in tests],
            "chain_mean": [statistics.mean(c.chains) for c in some],
            "chain_mean_while_learning": [statistics.mean(c.chains_trained) for c in some],
        }  # fmt: skip
    keep("infra", figures)


if __name__ == "__main__":
    main()
