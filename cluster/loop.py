"""The loop of every phase: sample -> durable -> update -> publish.

Questions are taken in the order of their indices, `rollout.groups` to an iteration, whoever is done first. Phases differ
in who acts, in how far the actors may be ahead of the learner, and in how it draws: a teacher has no weights and recites
one iteration ahead; the policy's rollouts may be `rollout.staleness` updates old.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pixelis.cluster.adaptation import Adaptation
from pixelis.cluster.config import Phase, RunConfig
from pixelis.cluster.crew import Crew
from pixelis.cluster.job import Job, Kind, Published, Receipt, Update, total
from pixelis.cluster.learner_group import LearnerGroup
from pixelis.cluster.meters import Meters
from pixelis.cluster.shard import Shards
from pixelis.cluster.source import end
from pixelis.memory.ledger import Began, Ledger, Place, Stepped, Stored, survives
from pixelis.memory.replay import Record, RecordId

CALLS = ("calls_ok", "calls_policy", "calls_tool", "calls_infra")
ACTS: dict[Phase, Kind] = {"sft": "recite", "rft": "sample", "ttrl": "judge"}
"""What rollout actors do in each phase."""
LOOK = 0.1
"""Seconds between looks at the actors while the learner works."""


class Loop:
    """One phase: a crew of rollout actors, a learner, and how far they are.

    Example:
        >>> loop.begin({})                                                 # doctest: +SKIP
        >>> while loop.step < config.stop.steps:                           # doctest: +SKIP
        ...     figures = loop.round()
    """

    def __init__(
        self, config: RunConfig, crew: Crew, learners: LearnerGroup, shards: Shards, ledger: Ledger, meters: Meters,
        adaptation: Adaptation | None = None,
    ) -> None:  # fmt: skip
        self.config, self.crew, self.learners, self.shards = config, crew, learners, shards
        self.ledger, self.meters, self.adaptation = ledger, meters, adaptation
        self.step = 0
        """Optimizer steps tried so far."""
        self.cursor = 0
        """Questions whose groups the learner has been given: it is part of every checkpoint."""
        self.infra = 0
        """Episodes that ended by infrastructure."""
        self.refused = 0
        """Traces that were not learned from."""
        self.news: list[str] = []
        """What was not told yet: why they were not."""
        self.end = end(config.tasks, config.phase)
        self.published = Published((0, 0))
        self.begun = False
        self.went_back = False
        """Whether the last iteration ended with good weights put back: one that is lost now would learn on from before."""
        self._deaths = 0
        self._out: set[int] = set()
        self._stored: dict[int, RecordId] = {}
        self._read: list[RecordId] = []
        self._receipts: dict[RecordId, Receipt] = {}

    def begin(self, state: Mapping[str, Any]) -> None:
        """Start from `state` (of a checkpoint that the learner has restored; empty for a new phase) in a new epoch.

        Stored groups that the learner has not been given are taken over, if their weights are in this lineage.
        """
        self.step, self.cursor, self.infra = (int(state.get(k, 0)) for k in ("step", "cursor", "infra"))
        self.refused = int(state.get("refused", 0))
        self.publish()
        records = {n: r for n, r in self.shards.catalog().items() if not r.evicted}
        gone = {r for e in self.ledger.entries if isinstance(e, Began) for places in e.dropped.values() for r, _ in places}
        ahead = {n: r for n, r in records.items() if n not in gone and r.indices and r.indices[-1] >= self.cursor}
        began = Began(self.published.version, self.step)
        lost = [n for n, r in ahead.items() if not survives(r.version, [*self.ledger.entries, began])]
        split = [n for n, r in ahead.items() if n not in lost and len({self._iteration(i) for i in r.indices}) > 1]
        again = list[RecordId]()
        if self.adaptation:  # their answers may not be out: whatever has not been learned from is asked again
            again = [n for n in ahead if n not in lost and n not in split]
        dropped = {
            "lost weights": _places(lost, records), "iterations of another size": _places(split, records),
            "asked again": _places(again, records),
        }  # fmt: skip
        self.ledger.write(replace(began, dropped={why: places for why, places in dropped.items() if places}))
        kept = [n for n in ahead if n not in lost and n not in split and n not in again]
        self._stored = {index: n for n in kept for index in records[n].indices}
        once = self.config.replay.mode == "once"
        self._read = [n for n, r in records.items() if not once and r.indices and r.indices[-1] < self.cursor]
        self._out, self._receipts, self.begun = set(), {}, True
        if self.adaptation:
            self.adaptation.begin(state.get("adaptation", {}), self.published)
            self._watch(self.adaptation)

    def round(self) -> list[dict[str, float]]:
        """One iteration; the figures of each optimizer step, the last with those of the rollouts."""
        start = time.monotonic()
        self._ask()
        while not self._stored.keys() >= set(self._questions(0)):
            self._settle(self.crew.collect(self.published, 1.0))
        waited = time.monotonic() - start
        records = self._take()
        receipts = [self._receipts.pop(n) for n in records if n in self._receipts]
        if self.adaptation:
            self.adaptation.serve(receipts)
        steps = self._steps()
        pending = self.learners.begin_update([*self._read, *records], self.step, steps)
        self._read = []
        updating, overlapped = self._wait(pending)
        updates: list[Update] = self.learners.ask(pending)
        self.step += steps
        self.ledger.write(*self._entries(updates))
        self._make_room()
        if self.adaptation:
            self.adaptation.learned(updates, receipts)
        before = time.monotonic()
        if self.config.phase != "sft":
            self.publish()
        if self.adaptation:
            self._watch(self.adaptation)
        now = time.monotonic()
        times = {"rollout_wait_s": waited, "update_s": updating, "publish_s": now - before, "seconds": now - start}
        times["overlap"] = overlapped / updating if updating else 0.0
        figures = self._numbered([u.figures for u in updates], total(receipts), times)
        figures[-1] |= self.adaptation.figures() if self.adaptation else {}
        self.meters.show(figures[-1])
        for update in updates:
            self.meters.update(update)
        return figures

    def publish(self) -> None:
        """Offer the learner's weights to the rollout actors."""
        self.published = self.learners.publish()

    def drain(self) -> None:
        """Wait for all that is on its way, so that nothing is stored after this."""
        while not self.crew.idle:
            self._settle(self.crew.collect(self.published, 1.0))

    def state(self) -> dict[str, Any]:
        """How far the phase is, for a checkpoint."""
        told = {"step": self.step, "cursor": self.cursor, "infra": self.infra, "refused": self.refused}
        return {**told, "adaptation": self.adaptation.state()} if self.adaptation else told

    def _watch(self, adaptation: Adaptation) -> None:
        """Look at the canary; weights that were put back are a new epoch's first."""
        self.went_back = adaptation.watch(self.published, self.ledger.epoch(self.learners.epoch + 1))
        if self.went_back:
            self.publish()
            self.ledger.write(Began(self.published.version, self.step))

    def _ask(self) -> None:
        """Give out the questions of this iteration and of as many after it as may be asked with these weights."""
        ahead = 1 if self.config.phase == "sft" else self.config.rollout.staleness
        for iteration in range(ahead + 1):
            missing = [i for i in self._questions(iteration) if i not in self._stored and i not in self._out]
            self.crew.give(self.jobs(missing))
            self._out |= set(missing)

    def jobs(self, questions: Sequence[int]) -> list[Job]:
        """Some questions, split evenly over the actors."""
        kind = ACTS[self.config.phase]
        producer = f"{self.config.name}/{self.config.phase}/{self.published.version[0]}"
        parts = [tuple(questions[i :: self.config.rollout.actors]) for i in range(self.config.rollout.actors)]
        return [Job(kind, part, self.config.tasks.split, producer, part[0]) for part in parts if part]

    def _questions(self, iteration: int) -> range:
        """The questions of an iteration, 0 being the next one; none when the phase has no more."""
        groups = self.config.rollout.groups
        first = self.cursor + iteration * groups
        return range(first, first + groups if self.end is None else min(first + groups, self.end))

    def _iteration(self, question: int) -> int:
        return (question - self.cursor) // self.config.rollout.groups

    def _settle(self, receipts: Sequence[Receipt]) -> None:
        """Remember what is stored now."""
        self.ledger.write(*(Stored(r.record) for r in receipts if r.record is not None))
        for receipt in receipts:
            assert receipt.record is not None
            self.meters.rollouts(receipt)
            self._receipts[receipt.record] = receipt
            self._stored |= dict.fromkeys(receipt.indices, receipt.record)
            self._out -= set(receipt.indices)
            self.infra += int(receipt.sums.get("infra", 0))
            self.refused += len(receipt.refused)
            self.news += receipt.refused
        self.meters.count("deaths", self.crew.infra - self._deaths, part="rollout actor")
        self._deaths = self.crew.infra

    def _make_room(self) -> None:
        """Give up what the learner has had and nobody will ask for again, if the config sets a bound."""
        settings = self.config.replay
        if settings.keep_bytes or settings.keep_steps:
            oldest = self.step - settings.keep_steps if settings.keep_steps else 0
            self.shards.evict(settings.keep_bytes, oldest, self.cursor)

    def _take(self) -> list[RecordId]:
        """The records of this iteration; the cursor moves past it."""
        questions = self._questions(0)
        records = sorted({self._stored.pop(i) for i in questions})
        self.cursor += len(questions)
        return records

    def _wait(self, pending: Any) -> tuple[float, float]:
        """Look after the actors until the learner is done: seconds that it took, and those in which actors worked too."""
        start = last = time.monotonic()
        both = 0.0
        while not self.learners.done(pending, LOOK, start):
            busy = not self.crew.idle
            if busy:
                self._settle(self.crew.collect(self.published, 0.0))
            now = time.monotonic()
            both, last = both + (now - last) * busy, now
        return time.monotonic() - start, both

    def _steps(self) -> int:
        if self.config.replay.mode == "once":
            return 1
        return min(self.config.replay.steps_per_call, self.config.stop.steps - self.step)

    def _entries(self, updates: Sequence[Update]) -> list[Stepped]:
        first = self.step - len(updates) + 1
        epoch = self.published.version[0]
        return [Stepped(epoch, first + i, u.trained, u.dropped, u.stood_in) for i, u in enumerate(updates)]

    def _numbered(
        self, figures: list[dict[str, float]], receipt: Receipt, times: Mapping[str, float]
    ) -> list[dict[str, float]]:
        """Figures with their step, and what the rollouts of the iteration were like."""
        first = self.step - len(figures)
        out = [{**one, "step": float(first + i + 1)} for i, one in enumerate(figures)]
        sums = receipt.sums
        steps = sums.get("steps", 0.0)
        out[-1] |= {
            "rollouts": sums.get("n", 0.0),
            "infra": float(self.infra),
            "actors_died": float(self.crew.infra),
            "valid": sums.get("valid", 0.0) / steps if steps else 1.0,
            "chain_length": receipt.mean("steps"),
            **{name: sums.get(name, 0.0) for name in ("tool_s", "call_retries", *CALLS)},
            **times,
        }
        if self.config.tasks.traces:
            out[-1]["refused"] = float(self.refused)
        if self.config.phase != "sft":
            out[-1]["reward"] = receipt.mean("reward")
        if self.config.phase == "rft":
            out[-1]["answer"] = receipt.mean("answer")
        if self.config.phase == "ttrl":
            out[-1]["recall_partial"] = sums.get("recall_partial", 0.0)
        return out


def _places(numbers: Sequence[RecordId], records: Mapping[RecordId, Record]) -> tuple[Place, ...]:
    """Every trajectory of some records."""
    return tuple((n, k) for n in numbers for k in range(records[n].trajectories))
