"""One rank of the learner: groups in, one optimizer step, weights out. SFT and RFT differ only in the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pixelis.learners.advantage import Place, advantages
from pixelis.learners.batch import by_length, collate, roles_of
from pixelis.learners.corridor import BEYOND, Corridor, CorridorError, CorridorSettings, Snapshot
from pixelis.learners.curiosity import Senses
from pixelis.learners.heads import Heads, HeadSettings
from pixelis.learners.intrinsic import Intrinsic, IntrinsicSettings
from pixelis.learners.loss import K3, TOLD, GrpoSettings, RoleWeights, Sampled, Told, grpo, imitation
from pixelis.learners.optimizer import make_optimizer
from pixelis.learners.probe import PROBED, Probes
from pixelis.learners.ranks import Ranks, clip, like, whole
from pixelis.learners.reference import Read, Reference, states_and_logprobs
from pixelis.learners.refill import Kept, Refill
from pixelis.memory.checkpoint import pack_optimizer, unpack_optimizer
from pixelis.memory.codec import from_table, to_table
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
    roles: RoleWeights = field(default_factory=RoleWeights)
    """What tokens count in imitation."""
    heads: HeadSettings = field(default_factory=HeadSettings)
    """What heads count in imitation that foresee a call's op and arguments (paper 4.2)."""
    grpo: GrpoSettings = field(default_factory=GrpoSettings)
    intrinsic: IntrinsicSettings = field(default_factory=IntrinsicSettings)
    corridor: CorridorSettings = field(default_factory=CorridorSettings)


@dataclass(frozen=True, slots=True)
class Sample:
    """A trajectory with the credit it carries in this step."""

    trajectory: Trajectory
    advantage: float = 1.0
    place: Place = (0, 0)
    read: Read | None = None
    """What the reference says of it."""


@dataclass(frozen=True, slots=True)
class Part:
    """A micro-batch of this rank: which of the trajectories, and whether it counts or only keeps pace with other ranks."""

    indices: list[int]
    counts: bool = True


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
        embedding = model.net.model.language_model.embed_tokens.weight
        self.heads = Heads(embedding.shape[1], settings.heads).to(embedding.device)
        self.reference = Reference(model, not settings.train_vision) if settings.loss == "grpo" else None
        self.intrinsic: Intrinsic | None = None
        if self.reference:
            still = FeatureCache(self.reference.model, store) if settings.train_vision else self.features
            self._still = still
            self.intrinsic = Intrinsic(settings.intrinsic, Senses(self.reference.model, still))
        self.corridor = Corridor(settings.corridor, settings.grpo.beta)
        self.probes: Probes | None = None
        self.refill = Refill(settings.grpo.refill)
        self._flat: FlatWeights | None = FlatWeights(self.weights())  # None: sharded
        self._take()
        self.left_out: dict[str, list[Place]] = {}
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
        own, heads = [p for p in net.parameters() if p.requires_grad], list(self.heads.parameters())
        self.parameters = [*own, *heads]
        self._clipped = own, heads  # apart: a gradient of a head does not shorten the policy's
        self.optimizer, self._rates = make_optimizer(net, s.lr, s.matrix_lr, s.betas, s.weight_decay, heads)

    def update(self, groups: Sequence[Group]) -> dict[str, float]:
        """One step on some groups. Infrastructure failures and groups without contrast are left out and counted.

        A loss or gradient that is not finite skips the step: weights, optimizer and version stay as they were. A step that
        takes the probes beyond the corridor is undone and tried again, half as long and with twice the weight on the KL;
        CorridorError when that does not help.
        """
        samples, figures = self._admit(groups)
        if not samples:
            return {**figures, "skipped": 1.0}
        before = Snapshot(self.parameters, self.optimizer) if self._watched(samples) else None
        for attempt in range(self.settings.corridor.undos + 1):
            beta, share = self.corridor.attempt(attempt)
            told = self._gradient(samples, beta)
            norm, beside = (clip(some, self.settings.clip) for some in self._clipped)
            figures |= told | {"grad_norm": float(norm), "step": float(self.version[1])}
            if not (np.isfinite(told["loss"]) and torch.isfinite(norm + beside)):
                self.optimizer.zero_grad(set_to_none=True)
                self.left_out["non_finite"] = [s.place for s in samples if s.place[0] >= 0]
                return {**figures, "skipped": 1.0, "non_finite": 1.0}
            self._move(share)
            if before is None:
                break
            figures |= {PROBED: self._probe(), "beta": beta, "undone": float(attempt)}
            if not self.corridor.beyond(figures[PROBED]):
                self.corridor.read(told[f"{K3}_token_mean"])
                break
            before.undo()
            self.corridor.undone += 1
        else:
            raise CorridorError(_lost(figures, self.settings.corridor))
        self.version = (self.version[0], self.version[1] + 1)
        self.refill.keep(_groups(samples, self.version[1]) if self.reference else [])
        return {**figures, "skipped": 0.0, "non_finite": 0.0}

    def _move(self, share: float) -> None:
        """One optimizer step at a share of its length."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._height(self.version[1] + 1) * share
        self.optimizer.step()

    def _gradient(self, samples: list[Sample], beta: float) -> dict[str, float]:
        """The gradient of all samples, each rank working on its part of them; the figures of the loss."""
        self.model.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        keys = ("loss", *TOLD[self.settings.loss], *self.heads.figures)
        sums = {key: [0.0, 0.0] for key in keys}
        total, calls = self._total(samples), self.heads.count([s.trajectory for s in samples])
        for part in self._parts([s.trajectory for s in samples]):
            some = [samples[i] for i in part.indices]
            share = sum(self._weight(s) for s in some) / total
            loss, told = self._loss(some, beta, share, calls)
            (loss * part.counts).backward()
            for key, (value, weight) in {**told, "loss": (float(loss.detach()), share)}.items():
                sums[key][0] += value * part.counts
                sums[key][1] += weight * part.counts
        flat = {(key, i): value for key, pair in sums.items() for i, value in enumerate(pair)}
        flat = self.ranks.add_up(self.parameters, flat)
        return {key: flat[key, 0] / flat[key, 1] for key in keys if flat[key, 1]}

    def _parts(self, trajectories: Sequence[Trajectory]) -> list[Part]:
        """This rank's micro-batches. With sharded layers a rank with fewer works along for nothing: others need its shards."""
        mine = self.ranks.mine(sorted(range(len(trajectories)), key=lambda i: len(trajectories[i])))
        batches = by_length([trajectories[i] for i in mine], self.settings.micro_tokens)
        parts = [Part([mine[i] for i in batch]) for batch in batches]
        idle = self.ranks.most(len(parts)) - len(parts) if self._flat is None else 0
        return [*parts, *[Part([0], counts=False)] * idle]

    def _weight(self, sample: Sample) -> float:
        """Of a trajectory in a batch: imitation counts tokens by their roles (paper 4.1), GRPO by its form (5.7)."""
        if not self.reference:
            return float(self.settings.roles.of(roles_of([sample.trajectory])).sum())
        return 1.0 if self.settings.grpo.form == "trajectory_mean" else float(sample.trajectory.mask.sum())

    def _total(self, samples: list[Sample]) -> float:
        """What the weights are shares of."""
        if self.reference and self.settings.grpo.form == "dr_grpo":
            return float(len(samples) * self.settings.grpo.budget)
        return sum(self._weight(s) for s in samples)

    def _height(self, step: int) -> float:
        """What share of their full height the learning rates have at a step (1 is the first)."""
        rise = step / max(1, self.settings.warmup)
        fall = (self.steps - step + 1) / self.settings.decay if self.steps and self.settings.decay else 1.0
        return max(0.0, min(1.0, rise, fall))

    def _admit(self, groups: Sequence[Group]) -> tuple[list[Sample], dict[str, float]]:
        """What this step learns from, with its credit, and what was left out and why."""
        every = {(n, k): t for n, group in enumerate(groups) for k, t in enumerate(group.trajectories)}
        whole = {place: t for place, t in every.items() if t.status not in ("infra", "cancelled")}
        self.left_out = {"infra": [place for place in every if place not in whole], "uniform": []}
        figures = {"groups": float(len(groups)), "dropped_infra": float(len(self.left_out["infra"]))}
        if self.settings.loss == "imitation" or not whole:
            samples = [Sample(t, 1.0, place) for place, t in whole.items()]
        else:
            samples, told = self._credited(whole)
            figures |= told
        return samples, {**figures, "groups_uniform": float(len({n for n, _ in self.left_out["uniform"]}))}

    def _credited(self, whole: dict[Place, Trajectory]) -> tuple[list[Sample], dict[str, float]]:
        """Rollouts with their advantages in their groups; groups whose rewards do not differ are left out."""
        assert self.intrinsic
        reads = self._read(whole) if self.intrinsic.coherence else {}
        rewards, figures = self.intrinsic.rewards(whole, reads)
        divide = self.settings.grpo.form != "dr_grpo"
        credit, self.left_out["uniform"] = advantages(rewards, self.settings.advantage_floor, divide)
        if credit and not reads:
            reads = self._read({place: whole[place] for place in credit})
        samples = [Sample(whole[place], earned, place, reads[place]) for place, earned in credit.items()]
        again = self._again(len({group for group, _ in self.left_out["uniform"]})) if credit else []
        return samples + again, {**figures, "groups_refilled": float(len({s.place[0] for s in again}))}

    def _again(self, groups: int) -> list[Sample]:
        """Earlier groups in place of some that have no contrast, at places below 0."""
        kept = self.refill.take(groups, self.version[1] + 1)
        pairs = {(-1 - n, k): pair for n, one in enumerate(kept) for k, pair in enumerate(one.members)}
        reads = self._read({place: trajectory for place, (trajectory, _) in pairs.items()}) if pairs else {}
        return [Sample(trajectory, credit, place, reads[place]) for place, (trajectory, credit) in pairs.items()]

    def _read(self, of: Mapping[Place, Trajectory]) -> dict[Place, Read]:
        """What the reference says of some trajectories: each rank asks it for its part, and all get all."""
        assert self.reference
        trajectories = list(of.values())
        tokens = np.cumsum([0, *(int(t.mask.sum()) for t in trajectories)])
        steps = np.cumsum([0, *(t.n_calls for t in trajectories)])
        width = self.model.net.model.language_model.embed_tokens.weight.shape[1]
        said, known = torch.zeros(2, int(tokens[-1])), torch.zeros(int(steps[-1]), width)
        for part in self._parts(trajectories):
            some = [trajectories[i] for i in part.indices]
            batch = collate(some, self.model.layout)
            found = self.reference.read(batch, self._still.get(batch.views), some)
            for i, read in zip(part.indices, found, strict=True) if part.counts else ():
                said[:, tokens[i] : tokens[i + 1]] = torch.stack([read.logprobs, read.choice.float()])
                known[steps[i] : steps[i + 1]] = read.steps
        said, known = self.ranks.sum(said), self.ranks.sum(known)
        spans = zip(tokens, tokens[1:], steps, steps[1:], strict=False)
        reads = [Read(said[0, a:b], said[1, a:b] > 0, known[c:d]) for a, b, c, d in spans]
        return dict(zip(of, reads, strict=True))

    def _watched(self, samples: list[Sample]) -> bool:
        """Whether updates are measured on probes; the first samples become them."""
        settings = self.settings.corridor
        if self.reference is None or not settings.high or not settings.probes:
            return False
        if self.probes is None:
            ordered = sorted(samples, key=lambda s: s.place[::-1])  # of as many groups as there are
            self.probes = Probes([s.trajectory for s in ordered[: settings.probes]])
        return True

    def _probe(self) -> float:
        """Mean KL of the policy to its reference on the probes, in nats a token."""
        assert self.probes and self.reference
        far = torch.zeros(2)
        with torch.no_grad():
            for part in self._parts(self.probes.trajectories):
                batch = collate([self.probes.trajectories[i] for i in part.indices], self.model.layout)
                seen, known = self._features(batch.views), self._still.get(batch.views)
                found = self.probes.kl(part.indices, batch, self.model, seen, self.reference.model, known)
                far += torch.tensor(found) * part.counts
        kl, count = self.ranks.sum(far).tolist()
        return float(kl / count)

    def _loss(self, samples: list[Sample], beta: float, share: float, calls: Mapping[str, int]) -> tuple[Tensor, Told]:
        """A micro-batch's part of the loss, and figures. `share`: of the batch; `calls`: of the batch, for each head."""
        trajectories = [s.trajectory for s in samples]
        batch = collate(trajectories, self.model.layout)
        hidden, now = states_and_logprobs(self.model, batch, self._features(batch.views))
        reads = [s.read for s in samples if s.read is not None]
        if not reads:
            loss, told = imitation(now, self.settings.roles.of(batch.roles))
            foreseen, more = self.heads.loss(hidden, trajectories, calls)
            return share * loss + foreseen, {**told, **more}
        credit = torch.tensor([s.advantage for s in samples])[batch.row]
        anchor, choice = torch.cat([r.logprobs for r in reads]), torch.cat([r.choice for r in reads])
        of = Sampled(batch.old, credit, anchor, choice, batch.row, batch.roles)
        loss, told = grpo(now, of, self.settings.grpo, beta)
        return share * loss, told

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

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any], dict[str, pa.Table]]:
        """For a checkpoint: tensors, JSON, and tables. Every rank must ask."""
        moments, packed = pack_optimizer(self.optimizer)
        tensors = {"model": self.weights(), "optimizer": {name: whole(t) for name, t in moments.items()}}
        state: dict[str, Any] = {"optimizer": packed, "corridor": self.corridor.state()}
        if self.heads.weights:
            tensors["heads"] = self.heads.state_dict()
        if self.intrinsic:
            tensors["intrinsic"], state["intrinsic"] = self.intrinsic.state()
        state["refill"], tables = self.refill.state()
        probes = [Group(t.task_id, (t,)) for t in self.probes.trajectories] if self.probes else []
        return tensors, state, tables | ({"probes": to_table(probes)} if probes else {})

    def restore(
        self, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any], tables: Mapping[str, pa.Table]
    ) -> None:
        """Inverse of `state`. CheckpointError when the optimizer is another."""
        named = dict(self.model.net.named_parameters())
        with torch.no_grad():
            for name, tensor in tensors["model"].items():
                named[name].copy_(like(tensor, named[name]))
        unpack_optimizer(self.optimizer, tensors["optimizer"], state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            moments.update({name: like(t, parameter) for name, t in moments.items() if isinstance(t, Tensor)})
        if self.heads.weights:
            self.heads.load_state_dict(dict(tensors["heads"]))
        self.corridor.restore(state["corridor"])
        if self.intrinsic:
            self.intrinsic.restore(tensors.get("intrinsic", {}), state["intrinsic"])
        self.refill.restore(state["refill"], tables)
        kept = from_table(tables["probes"]) if "probes" in tables else []
        self.probes = Probes([g.trajectories[0] for g in kept]) if kept else None


def _groups(samples: Sequence[Sample], step: int) -> list[Kept]:
    """What this step learned from for the first time, by group."""
    found: dict[int, list[tuple[Trajectory, float]]] = {}
    for s in samples:
        found.setdefault(s.place[0], []).append((s.trajectory, s.advantage))
    return [Kept(step, tuple(members)) for group, members in found.items() if group >= 0]


def _lost(figures: Mapping[str, float], settings: CorridorSettings) -> str:
    return (
        f"{settings.undos + 1} times in a row an update took the probes' KL beyond {BEYOND * settings.high:g} nats a token, "
        f"the last to {figures[PROBED]:.3f}, beta being {figures['beta']:.3g}: lower learner.lr, or widen learner.corridor"
    )
