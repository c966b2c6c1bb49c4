"""One rank of the learner: groups in, one optimizer step, weights out. SFT and RFT differ only in the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pixelis.learners.advantage import advantages
from pixelis.learners.batch import by_length, collate
from pixelis.learners.loss import TOLD, GrpoSettings, grpo, imitation
from pixelis.learners.optimizer import make_optimizer
from pixelis.learners.ranks import Ranks, clip, like, whole
from pixelis.learners.reference import Reference, logprobs
from pixelis.memory.checkpoint import pack_optimizer, unpack_optimizer
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
    shard: bool = False
    """Whether each rank holds only its part of the text layers (FSDP2), for a policy that is too large for one GPU."""
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
        self.features = FeatureCache(model, store)
        self.reference = Reference(model) if settings.loss == "grpo" else None
        self._flat: FlatWeights | None = FlatWeights(self.weights())  # None: sharded
        self._take()
        self.left_out: dict[str, list[tuple[int, int]]] = {}
        """What the last update did not learn from, by reason: (group, trajectory in it) by position."""

    def join(self, ranks: Ranks) -> None:
        """Share the batches with other ranks from now on, and with `shard` the text layers; before the first step."""
        self.ranks = ranks
        if self.settings.shard and ranks.size > 1:
            self._flat = None
            for model in (self.model, *([self.reference.model] if self.reference else [])):
                ranks.shard(model.net.model.language_model)
            self._take()

    def _take(self) -> None:
        """Make the optimizer of the parameters that train."""
        s, net = self.settings, self.model.net
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.optimizer, self._rates = make_optimizer(net, s.lr, s.matrix_lr, s.betas, s.weight_decay)

    def update(self, groups: Sequence[Group]) -> dict[str, float]:
        """One step on some groups. Infrastructure failures and groups without contrast are left out and counted.

        A loss or gradient that is not finite skips the step: weights, optimizer and version stay as they were.
        """
        samples, figures = self._admit(groups)
        if not samples:
            return {**figures, "skipped": 1.0}
        figures |= self._gradient(samples)
        norm = clip(self.parameters, self.settings.clip)
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
        parts = [[mine[i] for i in p] for p in by_length([s.trajectory for s in mine], self.settings.micro_tokens)]
        shares = [sum(self._weight(s) for s in some) / total for some in parts]
        if self._flat is None:  # a rank with fewer parts works along for nothing, or the others would wait for its shards
            idle = self.ranks.most(len(parts)) - len(parts)
            parts, shares = [*parts, *[samples[:1]] * idle], [*shares, *[0.0] * idle]
        for some, share in zip(parts, shares, strict=True):
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
        """The parameters that train, by name, whole. Every rank must ask when they are sharded."""
        return {name: whole(p) for name, p in self.model.net.named_parameters() if p.requires_grad}

    def flat(self) -> FlatWeights:
        """The same as one array. Every rank must ask when they are sharded."""
        return self._flat or FlatWeights({name: p.detach() for name, p in self.weights().items()})

    def save(self, folder: Path) -> None:
        """Write the whole policy as a folder. Every rank must ask; the first one writes."""
        net = {name: whole(tensor) for name, tensor in self.model.net.state_dict().items()}
        if self.ranks.rank == 0:
            self.model.save(folder, net)

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Weights and optimizer for a checkpoint, and what of the optimizer is JSON. Every rank must ask."""
        moments, packed = pack_optimizer(self.optimizer)
        return {"model": self.weights(), "optimizer": {name: whole(t) for name, t in moments.items()}}, packed

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], packed: dict[str, Any]) -> None:
        """Inverse of `state`. CheckpointError when the optimizer is another."""
        named = dict(self.model.net.named_parameters())
        with torch.no_grad():
            for name, tensor in tensors["model"].items():
                named[name].copy_(like(tensor, named[name]))
        unpack_optimizer(self.optimizer, tensors["optimizer"], packed)
        for parameter, moments in self.optimizer.state.items():
            moments.update({name: like(t, parameter) for name, t in moments.items() if isinstance(t, Tensor)})
