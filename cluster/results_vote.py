"""`make results-vote`: what each term of the vote is worth where nothing is learned: eight streams, half of them adversarial.

Each cell is a stream: its rollouts are stored once, and every arm is computed on them (`cluster/cells.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pixelis.actors.stream import Key, read_keys
from pixelis.cluster import results_rft, rollouts, vote_page
from pixelis.cluster.attack import Attack
from pixelis.cluster.cells import Experiment
from pixelis.cluster.config import CONFIGS, load
from pixelis.cluster.rollouts import Recorder, sureness
from pixelis.cluster.run import RUNS
from pixelis.cluster.stream import render
from pixelis.cluster.vote_page import BASELINE, Counted, area
from pixelis.learners.arm import ARMS, VoteSettings, arm
from pixelis.learners.gate import GateSettings, judge
from pixelis.learners.remember import neighbours, remembered
from pixelis.learners.risk import aurc, paired, selected
from pixelis.learners.verdict import Verdict, recount
from pixelis.learners.vote import Ballot, Neighbour, vote
from pixelis.memory.encoder import encoders
from pixelis.memory.episodes import EpisodeShard
from pixelis.memory.log import replace_file
from pixelis.memory.recall import EpisodeMemory, Here
from pixelis.memory.remembered import Keys
from pixelis.memory.select import Query
from pixelis.memory.task import Task
from pixelis.tools.measure import agrees

FAMILIES = ("code", "clip")
SEED = 100
"""Of the streams; the development stream, on which settings were chosen, has another (docs/decisions.md)."""
N = 2000
"""Questions of a stream."""
SINGLE = ("greedy", "tool_free")
"""Arms that do not vote; a wrong answer's confidence is the mean probability of the answer's tokens."""


HONEST = Attack()


@dataclass(frozen=True, slots=True)
class Stream:
    """What is asked, and who meddles. Example: Stream("lighting:0.5", Attack(neighbours=0.2), of="lighting")"""

    shift: str
    attack: Attack = HONEST
    of: str = ""
    """The stream whose rollouts it takes; "" for rollouts of its own."""


STREAMS = {
    "clean": Stream("lighting:0"),
    "lighting": Stream("lighting:0.5"),
    "motion": Stream("motion:0.5"),
    "noise": Stream("noise:0.5"),
    "overlay": Stream("overlay:0.5"),
    "wrong_20": Stream("lighting:0.5", Attack(neighbours=0.2), of="lighting"),
    "wrong_40": Stream("lighting:0.5", Attack(neighbours=0.4), of="lighting"),
    "copied": Stream("lighting:0.5", Attack(copied=0.5), of="lighting"),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One stream. Example: Cell("wrong_20")"""

    stream: str

    @property
    def name(self) -> str:
        """Its run folder."""
        return f"results-vote-{self.stream}"

    @property
    def root(self) -> Path:
        """Where it is."""
        return RUNS / self.name

    @property
    def trained(self) -> bool:
        """Whether all of it is played and counted here."""
        return (self.root / COUNTED).exists()

    def __str__(self) -> str:
        return f"votes under {self.stream}"


COUNTED = "counted.json"


class Votes(Experiment[Cell]):
    """What each term of the vote is worth: eight streams of 2 000 questions. The same command goes on where it stopped."""

    module = "pixelis.cluster.results_vote"
    out = Path("docs/results/vote.json")

    def cells(self) -> list[Cell]:
        """Those with rollouts of their own first."""
        return [Cell(name) for name in sorted(STREAMS, key=lambda name: bool(STREAMS[name].of))]

    def start(self, cell: Cell) -> Cell | None:
        """The stream whose rollouts it takes."""
        return Cell(STREAMS[cell.stream].of) if STREAMS[cell.stream].of else None

    def prepare(self) -> None:
        """The policy that answers."""
        results_rft.started()

    def train(self, cell: Cell) -> None:
        """Play what is not stored of its rollouts, then hold the votes."""
        played = self.start(cell) or cell
        questions, key = played.root / "stream" / "tasks.jsonl", _key(played)
        if not key.exists():
            shutil.rmtree(questions.parent, ignore_errors=True)  # it was interrupted
            render(STREAMS[played.stream].shift, questions.parent, key, FAMILIES, N, SEED)
        recorder = Recorder(results_rft.started(), played.root, questions, N)
        recorder.record(lambda done: print(f"{done}/{N} questions played", flush=True))
        counted = count(recorder, read_keys(key), cell.root, STREAMS[cell.stream].attack, self.settings())
        replace_file(cell.root / COUNTED, json.dumps({name: one.pack() for name, one in counted.items()}).encode())

    def told(self, cell: Cell) -> dict[str, Any]:
        """Its rows, what came of each question, and each arm's paired difference from hard majority."""
        items = json.loads((cell.root / COUNTED).read_text())
        counted = {name: Counted.unpack(packed) for name, packed in items.items()}
        return {"rows": rows(cell.stream, counted), "compared": compared(counted), "items": items}

    def page(self, kept: dict[Cell, dict[str, Any]]) -> Path:
        """Tables, curves, and what became of the hypotheses."""
        return vote_page.write(self.out, {cell.stream: one for cell, one in kept.items()})

    def settings(self) -> tuple[VoteSettings, GateSettings]:
        """Those of test-time training."""
        ttrl = load(CONFIGS / "ttrl.toml").learner.ttrl
        return ttrl.vote, ttrl.gate


def count(
    recorder: Recorder, keys: Sequence[Key], root: Path, attack: Attack, settings: tuple[VoteSettings, GateSettings]
) -> dict[str, Counted]:
    """Every arm on stored rollouts, question by question in the order of the stream.

    Neighbours are the episodes of questions before it that the gate accepted from `full`'s verdict, honest ones: what meddles
    with them, or with the rollouts, does it on the way to the vote, the same for all arms.
    """
    (terms, gate), n = settings, recorder.n
    played = {way: rollouts.read(recorder.root, way, n) for way in rollouts.WAYS}
    gold = {key.id: key for key in keys}
    told: dict[str, list[tuple[float, bool, bool]]] = {name: [] for name in (*ARMS, *SINGLE)}
    others: list[str] = []
    with _remembering(recorder, root) as memory:
        for number in range(n):
            task = recorder.task(number)
            rng = np.random.default_rng([SEED, number])
            ballots = attack.rollouts([Ballot.of(t) for t in played["sampled"][task.id]], gold[task.id].answer, rng)
            [made] = memory.keys([task.question], [task.media])
            found = neighbours(memory.search([Query(made, task.question, task.answer_type, task.media)])[0])
            near = attack.neighbours_of(found, ballots, gold[task.id].answer, others, rng)
            verdicts = verdicts_of(ballots, near, task, terms)
            for name, verdict in verdicts.items():
                told[name].append((verdict.support, _right(verdict.answer, gold[task.id]), judge(verdict, gate).accepted))
            for name in SINGLE:
                [one] = played[name][task.id]
                told[name].append((sureness(one), _right(one.answer, gold[task.id]), one.answer is not None))
            _remember(memory, task, ballots, verdicts["full"], gate, made)
            others.append(gold[task.id].answer)
    return {name: Counted(*map(np.array, zip(*some, strict=True))) for name, some in told.items()}


def verdicts_of(ballots: Sequence[Ballot], near: Sequence[Neighbour], task: Task, settings: VoteSettings) -> dict[str, Verdict]:
    """The verdict of every arm on the same rollouts and neighbours."""
    full = vote(ballots, near, task.answer_type, settings)
    found = {}
    for name in ARMS:
        changed = arm(name, settings)
        same = (changed.copies, changed.neighbours) == (settings.copies, settings.neighbours)
        found[name] = recount(full, changed) if same else vote(ballots, near, task.answer_type, changed)
    return found


def rows(stream: str, counted: Mapping[str, Counted]) -> list[dict[str, Any]]:
    """A row for each arm."""
    found = []
    for name, one in counted.items():
        coverage, wrong = selected(one.selected, one.right)
        found.append(
            {
                "arm": name, "stream": stream, "n": len(one.right), "accuracy": float(one.right.mean()),
                "aurc": aurc(one.confidence, one.right), "aurc_70_95": area(one.confidence, one.right),
                "coverage": coverage, "err_at_sel": wrong,
            }
        )  # fmt: skip
    return found


def compared(counted: Mapping[str, Counted]) -> dict[str, dict[str, Any]]:
    """Areas between 70 and 95 % of coverage: voting arms' less hard majority's, `full`'s less each other's, paired."""
    pairs = [(name, BASELINE) for name in ARMS if name != BASELINE]
    pairs += [("full", name) for name in ARMS if name not in ("full", BASELINE)]
    sides = {name: (one.confidence, one.right) for name, one in counted.items()}
    return {f"{a} - {b}": asdict(paired(sides[a], sides[b], area)) for a, b in pairs}


def _right(answer: str | None, key: Key) -> bool:
    return answer is not None and agrees(answer, key.answer, key.answer_type)


def _key(cell: Cell) -> Path:
    return RUNS / f"{cell.name}.key.jsonl"


@contextmanager
def _remembering(recorder: Recorder, root: Path) -> Iterator[EpisodeMemory]:
    """An empty episode memory in the run's folder, its keys made by the policy's own towers."""
    folder, runner = root / "memory", recorder.runner
    shutil.rmtree(folder, ignore_errors=True)
    settings, shard = recorder.config.memory, Here(EpisodeShard(folder / "0"))
    try:
        yield EpisodeMemory([shard], *encoders(runner.engine.model, runner.store, settings.encoder), settings.recall)
    finally:
        shard.close()


def _remember(
    memory: EpisodeMemory, task: Task, ballots: Sequence[Ballot], verdict: Verdict, gate: GateSettings, keys: Keys
) -> None:
    decision = judge(verdict, gate)
    if decision.accepted:
        memory.add([(remembered(task, ballots, verdict, decision, (0, 0)), keys)])


if __name__ == "__main__":
    Votes().main()
