"""Pixel TTRL: what the third phase adds to the learner (paper 6.6 to 6.8). Who learns from what, and what is kept for later.

Nothing here or in what it uses knows of an answer key; labelled data of the *source* come in as a rehearsal set alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pyarrow as pa
from torch import Tensor

from pixelis.learners.arm import VoteSettings
from pixelis.learners.canary import CanarySettings
from pixelis.learners.collapse import CollapseSettings
from pixelis.learners.corridor import CorridorSettings
from pixelis.learners.drift import Drift
from pixelis.learners.effort import EffortSettings
from pixelis.learners.ema import Ema, EmaSettings
from pixelis.learners.exemplars import Recall, alone, due, single
from pixelis.learners.gate import GateSettings
from pixelis.learners.judged import Judged
from pixelis.learners.loss import Anchor
from pixelis.learners.questions import Questions
from pixelis.memory.journal import Accepted, Discarded, Update
from pixelis.memory.trajectory import Trajectory

State = tuple[dict[str, dict[str, Tensor]], dict[str, Any], dict[str, pa.Table]]
"""Of a checkpoint: tensors, JSON, and tables."""


@dataclass(frozen=True, slots=True)
class TtrlSettings:
    """How a policy learns from its own rollouts where there is no key.

    `vote`, `gate`, `effort`, `canary` and `collapse` are for whoever serves answers: the learner is given what they led to.

    Raises: ValueError for a negative weight, or shares that leave nothing for the questions themselves.
    """

    gradient: float = 1.0
    """Weight of the policy gradient; 0: exemplars alone."""
    exemplar: float = 0.5
    """Weight of the likelihood of exemplars; 0: the policy gradient alone."""
    alike: float = 0.02
    """A group whose rewards deviate by less has no contrast: its advantages are 0. Its exemplar is imitated all the same."""
    replay: float = 0.25
    """Share of a batch that is exemplars of earlier questions."""
    rehearsal: float = 0.1
    """Share of a batch that is labelled demonstrations of the source, when there are any."""
    kept: int = 512
    """Exemplars that can be replayed, the newest."""
    age: int = 5000
    """Updates after which an exemplar is not replayed any more."""
    anchor: Anchor = "ema"
    """What the KL is measured to: the moving average, or the policy that the phase started from."""
    ema: EmaSettings = field(default_factory=EmaSettings)
    vote: VoteSettings = field(default_factory=VoteSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    effort: EffortSettings = field(default_factory=EffortSettings)
    canary: CanarySettings = field(default_factory=CanarySettings)
    collapse: CollapseSettings = field(default_factory=CollapseSettings)

    def __post_init__(self) -> None:
        for name in ("gradient", "exemplar", "alike", "replay", "rehearsal", "kept", "age"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} is below 0")
        if self.fresh <= 0:
            raise ValueError(f"replay = {self.replay} and rehearsal = {self.rehearsal} leave no room for new questions")

    @property
    def fresh(self) -> float:
        """Share of a batch that is new questions."""
        return 1.0 - self.replay - self.rehearsal


@dataclass(frozen=True, slots=True)
class Good:
    """A whole state of the learner that may be put back."""

    state: State
    step: int
    """Updates that its weights have had."""

    @classmethod
    def of(cls, state: State, step: int) -> Good:
        """A copy of it."""
        tensors, told, tables = state
        cloned = {part: {name: t.detach().clone() for name, t in named.items()} for part, named in tensors.items()}
        return cls((cloned, copy.deepcopy(told), dict(tables)), step)


class Ttrl:
    """What the learner of the third phase has besides weights: the average, what was accepted, what can be put back."""

    def __init__(self, settings: TtrlSettings, corridor: CorridorSettings, weights: Mapping[str, Tensor]) -> None:
        self.settings, self.corridor = settings, corridor
        self.ema = Ema(weights, settings.ema) if settings.anchor == "ema" else None
        self.recall = Recall(settings.kept, settings.age)
        self.rehearsal: tuple[Trajectory, ...] = ()
        self.drift = Drift(corridor)
        self.frozen = False
        self.good: Good | None = None

    def questions(self, judged: Sequence[Judged], step: int) -> Questions:
        """Those that may be learned from, with what is imitated beside them. Nothing at all when there is none."""
        accepted = {n: one for n, one in enumerate(judged) if one.decision.accepted and not self.frozen}
        if not accepted:
            return Questions({})
        s = self.settings
        again = self.recall.draw(len(due(s.replay, s.fresh, len(accepted), step)), step)
        turns = due(s.rehearsal, s.fresh, len(accepted), step)
        shown = [self.rehearsal[i % len(self.rehearsal)] for i in turns] if self.rehearsal else []
        return Questions(accepted, tuple(again), tuple(shown))

    def commit(self, questions: Questions, weights: Mapping[str, Tensor], kl: float, after: float, step: int) -> bool:
        """Take note of an update that was kept; whether the average moved: it stays while the policy is above the corridor.

        `kl`: of its rollouts, before the step; `after` it.
        """
        self.recall.add(step, questions.exemplars)
        self.drift.add(kl)
        if self.ema is None or 0 < self.corridor.high < after:
            return False
        self.ema.update(weights)
        return True

    def state(self) -> State:
        """What goes back with the weights when they are put back."""
        weights, updates = self.ema.state() if self.ema else ({}, 0)
        kept, tables = self.recall.state()
        return ({"ema": weights} if weights else {}), {"updates": updates, "recall": kept}, tables

    def restore(
        self, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], tables: Mapping[str, pa.Table]
    ) -> None:
        """Inverse of `state`."""
        if self.ema:
            self.ema.restore(tensors["ema"], state["updates"])
        self.recall.restore(state["recall"], tables)

    def beside(self) -> State:
        """What stays as it is when weights are put back: the rehearsal set, the record of the KL, and the good state itself."""
        told: dict[str, Any] = {"frozen": self.frozen, "drift": self.drift.state()}
        tables = alone("rehearsal", self.rehearsal)
        if self.good is None:
            return {}, told, tables
        tensors, state, kept = self.good.state
        told["good"] = {"state": state, "step": self.good.step}
        return _renamed(tensors, GOOD), told, tables | _renamed(kept, GOOD)

    def restore_beside(
        self, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], tables: Mapping[str, pa.Table]
    ) -> None:
        """Inverse of `beside`."""
        self.frozen = state["frozen"]
        self.drift.restore(state["drift"])
        self.rehearsal = tuple(single(tables, "rehearsal"))
        self.good = None
        if "good" in state:
            mine = {name.removeprefix(GOOD): dict(named) for name, named in tensors.items() if name.startswith(GOOD)}
            kept = {name.removeprefix(GOOD): table for name, table in tables.items() if name.startswith(GOOD)}
            self.good = Good.of((mine, state["good"]["state"], kept), state["good"]["step"])


GOOD = "good-"
"""What parts of the good state have before their names in a checkpoint."""


def tried(draft: Update, kept: bool, figures: Mapping[str, float], **told: Any) -> Accepted | Discarded:
    """The journal's entry of an update that was tried: `draft` with what came of it."""
    sound = {name: float(value) for name, value in figures.items() if math.isfinite(value)}
    whole = replace(draft, figures=sound, **told)
    made = {field.name: _number(getattr(whole, field.name)) for field in fields(Update)}
    return Accepted(**made) if kept else Discarded(**made)


def _number(value: Any) -> Any:
    """JSON has no word for what is no number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _renamed(parts: Mapping[str, Any], before: str) -> dict[str, Any]:
    return {f"{before}{name}": part for name, part in parts.items()}
