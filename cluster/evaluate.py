"""How good a policy is on a split: greedy episodes through the rollout actors, or in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from pixelis.actors.score import Outcome, by_family
from pixelis.actors.world import Split
from pixelis.cluster.config import ReplaySettings, RunConfig, TaskSettings
from pixelis.cluster.errors import UsageError
from pixelis.cluster.job import Job, Receipt
from pixelis.cluster.progress import Bar
from pixelis.memory.codec import decode, encode
from pixelis.memory.log import replace_file
from pixelis.memory.trajectory import Group

BATCH = 128
"""Episodes that one job decodes together."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures by family and for `all`, and the episodes they come from."""

    figures: dict[str, dict[str, float]]
    episodes: tuple[Group, ...]
    infra: int
    """Episodes left out because infrastructure ended them."""


def jobs(n: int, families: int, split: Split) -> list[Job]:
    """Evaluation of `n` questions a family, in jobs of BATCH episodes."""
    total = n * families
    starts = range(0, total, BATCH)
    return [Job("evaluate", tuple(range(a, min(total, a + BATCH))), split, seq=i) for i, a in enumerate(starts)]


def gather(receipts: list[Receipt]) -> Evaluation:
    """What the receipts of evaluation jobs say together."""
    outcomes: list[Outcome] = [one for r in receipts for one in r.outcomes]
    episodes = tuple(group for r in receipts if r.episodes for group in decode(r.episodes))
    infra = sum(int(r.sums.get("infra", 0)) for r in receipts)
    return Evaluation(by_family(outcomes), episodes, infra)


def write(path: Path, evaluation: Evaluation) -> None:
    """The evaluated episodes as one Arrow file (`memory.codec`); their media are in the run's media folder."""
    replace_file(path, encode(list(evaluation.episodes)))


def evaluate(
    checkpoint: str | Path, root: Path, n: int, split: Split, families: tuple[str, ...], seen: Callable[[int], Any]
) -> Evaluation:
    """Evaluate a policy in this process; `seen` is told how many episodes are done. Media go to `root/media`."""
    return gather(list(_one_by_one(checkpoint, root, n, split, families, seen)))


def _one_by_one(
    checkpoint: str | Path, root: Path, n: int, split: Split, families: tuple[str, ...], seen: Callable[[int], Any]
) -> Iterator[Receipt]:
    from pixelis.cluster.runner import Runner

    tasks = TaskSettings(families, split)
    config = RunConfig("eval", "sft", start=str(checkpoint), tasks=tasks, replay=ReplaySettings("epochs"))
    runner, done = Runner(config, root, None), 0
    for job in jobs(n, len(families), split):
        yield runner.run(job)
        done += len(job.indices)
        seen(done)


def command(checkpoint: Path, suite: str, n: int, split: Split, as_json: bool) -> None:
    """`pixelis eval`: a table, or with `as_json` the figures by family."""
    from pixelis.actors.world import FAMILIES, SPLITS
    from pixelis.cluster.policy import resolve

    if suite != "pixelworld":
        raise UsageError(f"--suite {suite}: unknown; known: pixelworld")
    if split not in SPLITS:
        raise UsageError(f"--split {split}: unknown; known: {', '.join(SPLITS)}")
    resolve(checkpoint)  # before anything is said
    families = tuple(FAMILIES)
    console = Console(stderr=as_json)
    with TemporaryDirectory() as folder, Bar("eval", n * len(families), "episodes", console) as bar:
        found = evaluate(checkpoint, Path(folder), n, split, families, bar.to)
    if as_json:
        print(json.dumps({"suite": suite, "split": split, "infra": found.infra, "heldout": found.figures}))
        return
    table = Table("family", "n", "success", "valid", "chain length", "RaPR", "VisFid")
    for family, row in found.figures.items():
        shares = [f"{row[k]:.3f}" for k in ("success", "valid", "chain_length", "rapr", "visfid")]
        table.add_row(family, f"{row['n']}", *shares)
    console.print(table)
