"""The loop of every phase: sample -> durable -> update -> publish.

SFT and RFT differ only in who acts and how the learner draws. In SFT the teacher recites the next scenes while the
learner trains on those that are stored; in RFT the policy must have acted before the learner can step.
"""

from __future__ import annotations

import time
from typing import Any

from pixelis.cluster.config import RunConfig
from pixelis.cluster.crew import Crew
from pixelis.cluster.job import Job, Kind, Published, Receipt, total
from pixelis.cluster.learner_group import LearnerGroup


class Loop:
    """One phase: a crew of rollout actors, a learner, and how far they are.

    Example:
        >>> while loop.step < config.stop.steps:                           # doctest: +SKIP
        ...     figures = loop.round()
    """

    def __init__(self, config: RunConfig, crew: Crew, learners: LearnerGroup) -> None:
        self.config, self.crew, self.learners = config, crew, learners
        self.step = 0
        """Optimizer steps tried so far."""
        self.asked = 0
        """Questions (scenes) given out so far."""
        self.stored = 0
        """Groups in the replay shard."""
        self.infra = 0
        """Episodes that ended by infrastructure."""
        self.published = Published((0, 0))
        self._last = Receipt(-1)

    def round(self) -> list[dict[str, float]]:
        """One round; the figures of each optimizer step, the last with those of the rollouts."""
        start = time.monotonic()
        reciting = self.config.phase == "sft"
        if not reciting or not self.stored:
            self._last = self._count(self.crew.run(self.jobs(), self.published))
        jobs = self.jobs() if reciting else []
        self.crew.start(jobs, self.published)
        steps = self._steps()
        pending = self.learners.begin_update(self.stored, self.step, steps)
        if reciting:
            self._last = self._count(self.crew.finish())
        figures = self.learners.ask(pending)
        self.step += steps
        if not reciting:
            self.publish()
        return self._numbered(figures, self._last, time.monotonic() - start)

    def jobs(self) -> list[Job]:
        """The next questions, split evenly over the actors; none when the phase has no more."""
        settings, tasks = self.config.rollout, self.config.tasks
        count = min(settings.groups, sum(tasks.scenes.values()) - self.asked) if tasks.scenes else settings.groups
        indices = range(self.asked, self.asked + count)
        kind: Kind = "recite" if self.config.phase == "sft" else "sample"
        epoch = 0 if kind == "recite" else self.published.version[0]  # a teacher recites the same after a resume
        producer = f"{self.config.name}/{self.config.phase}/{epoch}"
        parts = [tuple(indices[i :: settings.actors]) for i in range(settings.actors)]
        first = self.asked
        self.asked += count
        return [Job(kind, part, tasks.split, producer, first + i) for i, part in enumerate(parts) if part]

    def publish(self) -> None:
        """Offer the learner's weights to the rollout actors."""
        self.published = self.learners.publish()

    def state(self) -> dict[str, Any]:
        """How far the phase is, for a checkpoint."""
        return {"step": self.step, "asked": self.asked, "stored": self.stored, "infra": self.infra}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.step, self.asked, self.stored, self.infra = (state[k] for k in ("step", "asked", "stored", "infra"))

    def _count(self, receipts: list[Receipt]) -> Receipt:
        receipt = total(receipts)
        self.stored += receipt.groups
        self.infra += int(receipt.sums.get("infra", 0))
        return receipt

    def _steps(self) -> int:
        if self.config.replay.mode == "once":
            return 1
        return min(self.config.replay.steps_per_call, self.config.stop.steps - self.step)

    def _numbered(self, figures: list[dict[str, float]], receipt: Receipt, seconds: float) -> list[dict[str, float]]:
        """Figures with their step, and what the rollouts of the round were like."""
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
            "seconds": seconds,
        }
        if self.config.phase != "sft":
            out[-1] |= {"reward": receipt.mean("reward"), "answer": receipt.mean("answer")}
        return out
