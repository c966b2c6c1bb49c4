"""One rank of the learner: groups in, one optimizer step, weights out. SFT and RFT differ only in the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pixelis.learners.advantage import advantages
from pixelis.learners.batch import by_length, collate
from pixelis.learners.loss import TOLD, GrpoSettings, grpo, imitation
from pixelis.learners.optimizer import make_optimizer
from pixelis.learners.ranks import Ranks
from pixelis.learners.reference import Reference, logprobs
from pixelis.memory.model import FeatureCache, Features, Model
from pixelis.memory.trajectory import Group, Trajectory, Version
from pixelis.memory.weights import FlatWeights
from pixelis.tools.frame import View
from pixelis.tools.media import MediaStore


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """How a phase turns groups into a step."""

    loss: Literal["imitation", "grpo"] = "imitation"
    ranks: int = 1
    """Processes that share each batch."""
    lr: float = 1.5e-3
    matrix_lr: float = 0.0
    """Muon's learning rate for hidden matrices; 0 leaves them to AdamW."""
    warmup: int = 50
    """Steps over which the rates rise to their full height."""
    decay: int = 0
    """Steps over which they fall to zero at the end of the phase."""
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest gradient norm."""
    train_vision: bool = False
    micro_tokens: int = 1200
    """Padded tokens in one forward."""
    advantage_floor: float = 0.1
    """Added to the standard deviation of a group's rewards."""
    grpo: GrpoSettings = field(default_factory=GrpoSettings)


@dataclass(frozen=True, slots=True)
class Sample:
    """A trajectory with the credit it carries in this step."""

    trajectory: Trajectory
    advantage: float
    place: tuple[int, int] = (0, 0)
    """Its group in the batch, and which of the group's trajectories it is."""


class Learner:
    """Holds the training weights. `update` is one optimizer step, or none at all."""

    def __init__(
        self, model: Model, store: MediaStore, settings: LearnerSettings, version: Version = (0, 0), steps: int = 0
    ) -> None:
        """`steps`: the length of the phase, at whose end `decay` lies (0: no end is known, so nothing decays)."""
        self.model, self.store, self.settings, self.version, self.steps = model, store, settings, version, steps
        self.ranks = Ranks()
        model.net.model.visual.requires_grad_(settings.train_vision)
        self.parameters = [p for p in model.net.parameters() if p.requires_grad]
        self.optimizer, self._rates = make_optimizer(
            model.net, settings.lr, settings.matrix_lr, settings.betas, settings.weight_decay
        )
        self.flat = FlatWeights(self.weights())
        self.features = FeatureCache(model, store)
        self.reference = Reference(model) if settings.loss == "grpo" else None
        self.left_out: dict[str, list[tuple[int, int]]] = {}
        """What the last update did not learn from, by reason: (group, trajectory in it) by position."""

    def update(self, groups: Sequence[Group]) -> dict[str, float]:
        """One step on some groups. Infrastructure failures and groups without contrast are left out and counted.

        A loss or gradient that is not finite skips the step: weights, optimizer and version stay as they were.
        """
        samples, figures = self._admit(groups)
        if not samples:
            return {**figures, "skipped": 1.0}
        figures |= self._gradient(samples)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        figures |= {"grad_norm": float(norm), "step": float(self.version[1])}
        if not (np.isfinite(figures["loss"]) and torch.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            self.left_out["non_finite"] = [s.place for s in samples]
            return {**figures, "skipped": 1.0, "non_finite": 1.0}
        step = self.version[1] + 1
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._height(step)
        self.optimizer.step()
        self.version = (self.version[0], step)
        return {**figures, "skipped": 0.0, "non_finite": 0.0}

    def _gradient(self, samples: list[Sample]) -> dict[str, float]:
        """The gradient of all samples, each rank working on its part of them; the figures of the loss."""
        self.model.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        mine = self.ranks.mine(sorted(samples, key=lambda s: len(s.trajectory)))
        told = dict.fromkeys(("loss", *TOLD[self.settings.loss]), 0.0)
        total = sum(self._weight(s) for s in samples)
        for indices in by_length([s.trajectory for s in mine], self.settings.micro_tokens):
            some = [mine[i] for i in indices]
            share = sum(self._weight(s) for s in some) / total
            loss, figures = self._loss(some)
            (loss * share).backward()
            for key, value in {**figures, "loss": float(loss.detach())}.items():
                told[key] += share * value
        return self.ranks.add_up(self.parameters, told)

    def _weight(self, sample: Sample) -> float:
        """Of a trajectory in a batch: imitation counts every token the same (paper 4.1), GRPO every trajectory (5.7)."""
        return 1.0 if self.reference else float(sample.trajectory.mask.sum())

    def _height(self, step: int) -> float:
        """What share of their full height the learning rates have at a step (1 is the first)."""
        rise = step / max(1, self.settings.warmup)
        fall = (self.steps - step + 1) / self.settings.decay if self.steps and self.settings.decay else 1.0
        return max(0.0, min(1.0, rise, fall))

    def _admit(self, groups: Sequence[Group]) -> tuple[list[Sample], dict[str, float]]:
        """What this step learns from, with its credit, and what was left out and why."""
        samples: list[Sample] = []
        self.left_out = {"infra": [], "uniform": []}
        uniform = 0
        for number, group in enumerate(groups):
            whole = {(number, k): t for k, t in enumerate(group.trajectories) if t.status not in ("infra", "cancelled")}
            self.left_out["infra"] += [(number, k) for k in range(len(group)) if (number, k) not in whole]
            if not whole:
                continue
            credit = self._credit(Group(group.task_id, tuple(whole.values())))
            if np.abs(credit).max() < 1e-6:
                uniform += 1
                self.left_out["uniform"] += whole
                continue
            samples += [Sample(t, float(a), place) for (place, t), a in zip(whole.items(), credit, strict=True)]
        infra = float(len(self.left_out["infra"]))
        return samples, {"groups": float(len(groups)), "groups_uniform": float(uniform), "dropped_infra": infra}

    def _credit(self, group: Group) -> np.ndarray:
        """What each trajectory of a group counts: a demonstration 1, a rollout its advantage."""
        if self.settings.loss == "imitation":
            return np.ones(len(group))
        return advantages(group, self.settings.advantage_floor)

    def _loss(self, samples: list[Sample]) -> tuple[Tensor, dict[str, float]]:
        """Loss of a micro-batch, and figures."""
        batch = collate([s.trajectory for s in samples], self.model.layout)
        features = self._features(batch.views)
        now = logprobs(self.model, batch, features)
        if self.reference is None:
            return imitation(now, torch.ones_like(now))
        credit = torch.tensor([s.advantage for s in samples])[batch.row]
        weights = (1 / torch.bincount(batch.row))[batch.row]
        return grpo(now, batch.old, credit, self.reference.logprobs(batch, features), weights, self.settings.grpo)

    def _features(self, views: tuple[View, ...]) -> list[Features]:
        """Visual features of a batch; each distinct view once, from the cache while vision is frozen."""
        if not self.settings.train_vision:
            return self.features.get(views)
        distinct = list(dict.fromkeys(views))
        patches, grids = zip(*(self.model.patches(view, self.store) for view in distinct), strict=True)
        encoded = dict(zip(distinct, self.model.encode(patches, grids), strict=True))
        return [encoded[view] for view in views]

    def weights(self) -> dict[str, Tensor]:
        """The parameters that train, by name."""
        return {name: p for name, p in self.model.net.named_parameters() if p.requires_grad}
