"""The driver's part in test-time training: answers, the journal, what is remembered, and a canary (paper 6.8, 6.9).

Answers go out before anything is learned from them, and what was decided is durable before it is acted on.

runs/NAME/  answers.jsonl  journal.jsonl  memory/SHARD/
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pixelis.actors.stream import Answer
from pixelis.actors.world import Split
from pixelis.cluster.config import RunConfig
from pixelis.cluster.crew import Crew
from pixelis.cluster.evaluate import Evaluation, gather, jobs
from pixelis.cluster.job import Published, Receipt, Update
from pixelis.cluster.learner_group import LearnerGroup
from pixelis.learners.canary import Canary
from pixelis.learners.collapse import Collapse
from pixelis.memory.codec import encode
from pixelis.memory.journal import Accepted, Discarded, Journal, RolledBack, read
from pixelis.memory.recall import Handle, store
from pixelis.memory.trajectory import Group

ANSWERS = "answers.jsonl"
JOURNAL = "journal.jsonl"
REHEARSED = 256
"""Labelled questions of the source of which those that the start policy gets right are rehearsed (paper 6.8)."""


class Answers:
    """The answers of a run, in the order of the stream: each durable before it is learned from, and never taken back.

    What a run that was interrupted had answered already stays as it was.

    Example:
        >>> answers = Answers(Path("runs/x/answers.jsonl"))                 # doctest: +SKIP
        >>> answers.write([Answer("9f3c", "K7P", confidence=0.8)])          # doctest: +SKIP
    """

    def __init__(self, path: Path) -> None:
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]  # a crash may have torn the last line
        self.given = {json.loads(line)["id"] for line in whole.splitlines()}
        self._file = path.open("ab")
        os.truncate(path, len(whole))

    def write(self, answers: Sequence[Answer]) -> None:
        """Make those durable that were not given before."""
        fresh = [one for one in answers if one.id not in self.given]
        self._file.write("".join(json.dumps(asdict(one)) + "\n" for one in fresh).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.given |= {one.id for one in fresh}

    def close(self) -> None:
        """Nothing is written any more."""
        self._file.close()


class Adaptation:
    """What a loop of the phase `ttrl` does besides rolling out and updating.

    Example:
        >>> adaptation.begin({})                                            # doctest: +SKIP
        >>> adaptation.serve(receipts)                                      # doctest: +SKIP
        >>> adaptation.learned(updates, receipts)                           # doctest: +SKIP
    """

    def __init__(self, config: RunConfig, root: Path, crew: Crew, learners: LearnerGroup, memory: Sequence[Handle]) -> None:
        self.config, self.crew, self.learners, self.memory = config, crew, learners, memory
        settings = config.learner.ttrl
        self.canary, self.collapse = Canary(settings.canary), Collapse(settings.collapse)
        self.journal = Journal(root / JOURNAL)
        self.answers = Answers(root / ANSWERS)
        self.commits = self.rollbacks = self.abstained = 0
        """Updates that were kept, good states put back, and questions that were not learned from."""
        self.news: list[str] = []
        """What people should be told."""
        self._alarmed: set[str] = set()

    def begin(self, state: Mapping[str, Any], published: Published) -> None:
        """Start from `state` (of a checkpoint that the learner has restored; empty for a new phase).

        The journal of a run that goes on says so, where it had come further than the checkpoint.
        """
        if state:
            self.canary.restore(state["canary"])
            self.collapse.restore(state["collapse"])
            self.commits, self.rollbacks, self.abstained = (state[k] for k in ("commits", "rollbacks", "abstained"))
            self._went_back(published)
        elif self.config.learner.ttrl.rehearsal:
            self.learners.rehearse(encode(self._rehearsed(published)))

    def serve(self, receipts: Sequence[Receipt]) -> None:
        """Give out the answers of an iteration."""
        numbered = sorted((pair for r in receipts for pair in zip(r.indices, r.answers, strict=True)), key=lambda pair: pair[0])
        self.answers.write([answer for _, answer in numbered])
        for receipt in receipts:
            for one in receipt.seen:
                self.collapse.see(one)
        for alarm in self.collapse.alarms():
            name = alarm.split()[0]
            self.news += [] if name in self._alarmed else [f"collapse: {alarm}"]
            self._alarmed.add(name)

    def learned(self, updates: Sequence[Update], receipts: Sequence[Receipt]) -> None:
        """Write down what was decided, and remember what was learned from."""
        entries = [entry for update in updates for entry in update.entries]
        for entry in entries:
            self.journal.write(entry)
        kept = {one.task_id for entry in entries if isinstance(entry, Accepted) for one in entry.judgements}
        self.commits += sum(isinstance(entry, Accepted) for entry in entries)
        asked = [pair for r in receipts for pair in zip(r.answers, r.rows, strict=True)]
        self.abstained += sum(answer.abstained for answer, _ in asked)
        rows = [row for answer, row in asked if row is not None and answer.id in kept]
        if self.memory and rows:
            store(self.memory, rows)

    def figures(self) -> dict[str, float]:
        """Of the whole phase so far."""
        told = {
            "commits": self.commits, "rollbacks": self.rollbacks, "answered": len(self.answers.given),
            **{f"stream_{name}": value for name, value in self.collapse.figures().items()},
        }  # fmt: skip
        return {name: float(value) for name, value in told.items()}

    def watch(self, published: Published, epoch: int) -> bool:
        """Look at the canary when that is due; whether good weights were put back, as the first of `epoch`."""
        if not self.canary.due(self.commits):
            return False
        asked = self._source(self.canary.settings.n, "dev", published)
        right = {one.task_id: outcome.success for one, outcome in zip(asked.episodes, asked.outcomes, strict=True)}
        why = self.canary.look(self.commits, right)
        if why is None:
            self.learners.keep_good()
            return False
        for entry in self.learners.roll_back(epoch, why, {"canary": asked.figures["all"]["success"]}):
            self.journal.write(entry)
        self.rollbacks += 1
        self.news.append(f"{why}: the last good weights are put back, and nothing is learned from here on")
        return True

    def state(self) -> dict[str, Any]:
        """JSON-able, for a checkpoint."""
        return {
            "canary": self.canary.state(), "collapse": self.collapse.state(), "commits": self.commits,
            "rollbacks": self.rollbacks, "abstained": self.abstained, "journal": self.journal.head,
        }  # fmt: skip

    def close(self) -> None:
        """Let another process go on."""
        self.journal.close()
        self.answers.close()

    def _source(self, n: int, split: Split, published: Published) -> Evaluation:
        """What becomes of about `n` labelled questions of the source: of PixelWorld, never of the stream."""
        families = len(set(self.config.tasks.families))
        return gather(self.crew.run(jobs(max(1, n // families), families, split), published))

    def _rehearsed(self, published: Published) -> list[Group]:
        """Episodes on questions of the source that the start policy gets right by their key. The teacher's demonstrations would
        bring its long chains back."""
        found = self._source(REHEARSED, "rft", published)
        return [group for group, outcome in zip(found.episodes, found.outcomes, strict=True) if outcome.success]

    def _went_back(self, published: Published) -> None:
        """A line for the weights that the journal had come to after the checkpoint, and that are gone."""
        served = [e for line in read(self.journal.path) if isinstance(e := line.entry, Accepted | Discarded | RolledBack)]
        now = self.learners.hash()
        if served and served[-1].weights_out != now:
            why, step = "the run went on from a checkpoint", published.version[1]
            self.journal.write(RolledBack(why, step, served[-1].weights_out, now))
