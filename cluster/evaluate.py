"""How good a policy is on a split: greedy episodes through the rollout actors, or in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from pixelis.actors.ceiling import ceiling
from pixelis.actors.score import Outcome, by_family
from pixelis.actors.shift import Shift
from pixelis.actors.world import FAMILIES, NO_SHIFT, SPLITS, Split
from pixelis.cluster.config import RolloutConfig, RunConfig, TaskSettings
from pixelis.cluster.errors import UsageError
from pixelis.cluster.job import Job, Receipt
from pixelis.cluster.progress import Bar
from pixelis.learners.learner import LearnerSettings
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
    outcomes: tuple[Outcome, ...] = ()
    """Of each episode, in the order of the questions."""


def jobs(n: int, families: int, split: Split, shift: Shift = NO_SHIFT, first: int = 0) -> list[Job]:
    """Evaluation of `n` questions a family, from the `first` on, in jobs of BATCH episodes."""
    begin, end = first * families, (first + n) * families
    parts = [tuple(range(a, min(end, a + BATCH))) for a in range(begin, end, BATCH)]
    return [Job("evaluate", part, split, seq=i, shift=shift) for i, part in enumerate(parts)]


def gather(receipts: list[Receipt]) -> Evaluation:
    """What the receipts of evaluation jobs say together."""
    outcomes: list[Outcome] = [one for r in receipts for one in r.outcomes]
    episodes = tuple(group for r in receipts if r.episodes for group in decode(r.episodes))
    infra = sum(int(r.sums.get("infra", 0)) for r in receipts)
    return Evaluation(by_family(outcomes), episodes, infra, tuple(outcomes))


def write(path: Path, evaluation: Evaluation) -> None:
    """The evaluated episodes as one Arrow file (`memory.codec`), and as JSON beside it what came of each question: for
    comparisons of policies question by question. Their media are in the run's media folder."""
    replace_file(path, encode(list(evaluation.episodes)))
    outcomes = ",\n".join(json.dumps(asdict(one)) for one in evaluation.outcomes)
    replace_file(path.with_suffix(".json"), f"[\n{outcomes}\n]\n".encode())


def read_outcomes(path: Path) -> list[Outcome]:
    """What `write` left beside the episodes of `path`."""
    told = json.loads(path.with_suffix(".json").read_text())
    return [Outcome(**{**one, "hops": tuple(one["hops"]), "redundant": tuple(one["redundant"])}) for one in told]


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked in an evaluation: `n` questions of each family.

    Example: ``Questions(200, "heldout", ("code", "clip"), Shift("noise", 0.5))``
    """

    n: int
    split: Split
    families: tuple[str, ...]
    shift: Shift = NO_SHIFT
    first: int = 0
    """Scenes of each family that are passed over."""


DEFAULT = RolloutConfig()


def evaluate(
    checkpoint: str | Path, root: Path, asked: Questions, seen: Callable[[int], Any], rollout: RolloutConfig = DEFAULT
) -> Evaluation:
    """Evaluate a policy in this process; `seen` is told how many episodes are done. Media go to `root/media`."""
    return gather(list(_one_by_one(checkpoint, root, asked, seen, rollout)))


def _one_by_one(
    checkpoint: str | Path, root: Path, asked: Questions, seen: Callable[[int], Any], rollout: RolloutConfig
) -> Iterator[Receipt]:
    from pixelis.cluster.runner import Runner

    tasks = TaskSettings(asked.families, asked.split, dict.fromkeys(asked.families, asked.first + asked.n))
    learner = LearnerSettings(loss="grpo")
    config = RunConfig("eval", "rft", start=str(checkpoint), tasks=tasks, rollout=rollout, learner=learner)
    runner, done = Runner(config, root, None), 0
    for job in jobs(asked.n, len(asked.families), asked.split, asked.shift, asked.first):
        yield runner.run(job)
        done += len(job.indices)
        seen(done)


def command(
    checkpoint: Path, suite: str, n: int, split: Split, families: Sequence[str], shift: str | None, as_json: bool
) -> None:
    """`pixelis eval`: a table, or with `as_json` the figures by family; under a shift with the tools' ceiling."""
    from pixelis.cluster.policy import resolve

    if suite.endswith(".jsonl"):
        return _of_file(checkpoint, Path(suite), n, as_json)
    if suite != "pixelworld":
        raise UsageError(f"--suite {suite}: unknown; give pixelworld, or a file of questions that ends in .jsonl")
    if split not in SPLITS:
        raise UsageError(f"--split {split}: unknown; known: {', '.join(SPLITS)}")
    if unknown := [name for name in families if name not in FAMILIES]:
        raise UsageError(f"--family {unknown[0]}: unknown; known: {', '.join(FAMILIES)}")
    asked = Questions(n, split, tuple(dict.fromkeys(families)), Shift.parse(shift) if shift else NO_SHIFT)
    resolve(checkpoint)  # before anything is said
    console = Console(stderr=as_json)
    with TemporaryDirectory() as folder, Bar("eval", n * len(asked.families), "episodes", console) as bar:
        found = evaluate(checkpoint, Path(folder), asked, bar.to)
    ceilings = {name: ceiling(name, split, n, asked.shift) for name in asked.families} if shift else {}
    if as_json:
        told = {"suite": suite, "split": split, "infra": found.infra, "heldout": found.figures}
        under = {"shift": str(asked.shift), "tool_ceiling": {"n": n, **ceilings}}
        print(json.dumps(told | under if shift else told))
        return
    console.print(_table(found, ceilings))
    if shift:
        console.print(f"under {asked.shift}; tools: success of the shortest chain with gold boxes, {n} scenes a family")


def _of_file(checkpoint: Path, path: Path, n: int, as_json: bool) -> None:
    """The first `n` questions of a file: their figures as a table or as JSON."""
    from pixelis.actors.questions import QuestionFile
    from pixelis.actors.render import Renderer
    from pixelis.actors.rollout import RolloutWorker
    from pixelis.cluster.policy import resolve
    from pixelis.cluster.runner import Runner

    resolve(checkpoint)
    console = Console(stderr=as_json)
    with TemporaryDirectory() as folder:
        none = TaskSettings(split="heldout")  # of PixelWorld nothing is asked
        config = RunConfig("eval", "rft", start=str(checkpoint), tasks=none, learner=LearnerSettings(loss="grpo"))
        runner = Runner(config, Path(folder), None)
        source = QuestionFile(path, runner.store)
        worker = RolloutWorker(
            source, runner.toolbox, Renderer(runner.engine.model), runner.engine, config.rollout, config.seed
        )
        outcomes: list[Outcome] = []
        asked = range(min(n, len(source)))
        with Bar("eval", len(asked), "episodes", console) as bar:
            for start in asked[::BATCH]:
                outcomes += worker.evaluate(asked[start : start + BATCH])[0]
                bar.to(min(start + BATCH, len(asked)))
    found = Evaluation(by_family(outcomes), (), len(asked) - len(outcomes))
    if as_json:
        print(json.dumps({"suite": str(path), "infra": found.infra, "heldout": found.figures}))
    else:
        console.print(_table(found, {}))


def _table(found: Evaluation, ceilings: Mapping[str, float]) -> Table:
    columns = ("success", "valid", "chain_length", "rapr", "racpr", "hop_rate", "redundancy", "visfid")
    heads = ("success", "valid", "chain length", "RaPR", "RaCPR", "hops", "redundant", "VisFid")
    table = Table("family", "n", *heads, *(["tools"] if ceilings else []))
    for family, row in found.figures.items():
        own = [f"{ceilings[family]:.3f}" if family in ceilings else ""] if ceilings else []
        table.add_row(family, f"{row['n']}", *(f"{row[k]:.3f}" for k in columns), *own)
    return table
