"""One rank of the learner: groups in, one optimizer step, weights out. SFT, RFT and TTRL differ only in the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pixelis.learners.advantage import Place, advantages
from pixelis.learners.batch import Batch, by_length, collate, roles_of
from pixelis.learners.corridor import BEYOND, Corridor, CorridorError, CorridorSettings, Snapshot
from pixelis.learners.curiosity import Senses
from pixelis.learners.exemplars import alone, single
from pixelis.learners.heads import Heads, HeadSettings
from pixelis.learners.intrinsic import Intrinsic, IntrinsicSettings
from pixelis.learners.judged import Judged
from pixelis.learners.loss import Anchor, GrpoSettings, RoleWeights, Told, grpo, imitation, k3_to, told_of, ttrl
from pixelis.learners.optimizer import make_optimizer
from pixelis.learners.probe import Probes, Who, probed
from pixelis.learners.questions import Questions
from pixelis.learners.ranks import Ranks, clip, like, whole
from pixelis.learners.reference import Read, Reference, copied, states_and_logprobs, worn
from pixelis.learners.refill import Kept, Refill
from pixelis.learners.sample import Sample, asked, lessons, sampled
from pixelis.learners.ttrl import Good, State, Ttrl, TtrlSettings, tried
from pixelis.memory.checkpoint import CheckpointError, pack_optimizer, unpack_optimizer
from pixelis.memory.journal import Entry, Frozen, RolledBack, Update
from pixelis.memory.lora import LoraSettings, adapt, merged, trains_vision
from pixelis.memory.model import FeatureCache, Features, Model, ModelError, Precision
from pixelis.memory.trajectory import Group, Trajectory, Version
from pixelis.memory.weights import FlatWeights
from pixelis.tools.frame import View
from pixelis.tools.media import MediaStore


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """How a phase turns groups into a step."""

    loss: Literal["imitation", "grpo", "ttrl"] = "imitation"
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
    dtype: Precision = "auto"
    """What the network computes in, here and where it acts; losses, log-probs and all that trains are float32. `auto`: as
    the start policy's folder says."""
    gpus: float = 0.0
    """GPUs of each rank, or the part of one that it shares; 0: it computes on the CPU."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    checkpointing: bool = False
    """Whether what layers compute is computed again on the way back instead of kept: less memory, a third more time."""
    pack: bool = False
    """Whether trajectories of a forward stand one behind another in a row, blind to each other, instead of padded in rows."""
    micro_tokens: int = 1200
    """Tokens in one forward, padding included."""
    advantage_floor: float = 0.1
    """Added to the standard deviation of a group's rewards."""
    roles: RoleWeights = field(default_factory=RoleWeights)
    """What tokens count in imitation."""
    heads: HeadSettings = field(default_factory=HeadSettings)
    """What heads count in imitation that foresee a call's op and arguments (paper 4.2)."""
    grpo: GrpoSettings = field(default_factory=GrpoSettings)
    intrinsic: IntrinsicSettings = field(default_factory=IntrinsicSettings)
    corridor: CorridorSettings = field(default_factory=CorridorSettings)
    ttrl: TtrlSettings = field(default_factory=TtrlSettings)
    """Of the loss `ttrl`."""


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
        adapt(model, settings.lora)
        trains = {name: p for name, p in model.net.named_parameters() if p.requires_grad}
        if any(p.dtype != torch.float32 for p in trains.values()):
            raise ModelError(f"{model.net.dtype} is too coarse for steps: set learner.lora.rank, or learner.dtype = float32")
        self._sight_changes = trains_vision(trains)
        if settings.checkpointing:
            older = model.net.gradient_checkpointing_enable  # its name in transformers that know no other
            getattr(model.net, "activation_checkpointing_enable", older)({"use_reentrant": False})
        self.features = FeatureCache(model, store)
        embedding = model.net.model.language_model.embed_tokens.weight
        self.heads = Heads(embedding.shape[1], settings.heads).to(embedding.device)
        self.reference = Reference(copied(model, not self._sight_changes)) if settings.loss != "imitation" else None
        self.ttrl: Ttrl | None = None
        if settings.loss == "ttrl":
            if settings.grpo.form != "trajectory_mean":
                raise ValueError(f"learner.grpo.form = {settings.grpo.form}: TTRL is a mean over trajectories")
            if steps and settings.ttrl.anchor == "ema":
                settings.ttrl.ema.check(steps)
            self.ttrl = Ttrl(settings.ttrl, settings.corridor, self.weights())
        self._anchor: Anchor = settings.ttrl.anchor if self.ttrl else "start"
        self._k3, self._probed = k3_to(self._anchor), probed(self._anchor)
        self.intrinsic: Intrinsic | None = None
        self._origin: tuple[Reference, FeatureCache] | None = None
        """What curiosity and coherence see with, where that is not the reference."""
        if self.reference:
            if self.ttrl and self.ttrl.ema:
                self.reference.follow(self.ttrl.ema.weights)
            # of a reference that moves nothing is kept for long: no need to halve its precision
            exact = model.net.dtype if self.ttrl else None
            self._still = FeatureCache(self.reference.model, store, exact) if self._sight_changes else self.features
        if self.reference and not self.ttrl:
            self.intrinsic = Intrinsic(settings.intrinsic, Senses(self.reference.model, self._still))
        self.corridor = Corridor(settings.corridor, settings.grpo.beta)
        self.probes: Probes | None = None
        self.refill = Refill(settings.grpo.refill)
        self._flat: FlatWeights | None = FlatWeights(self.weights())  # None: sharded
        self._average = FlatWeights(self.ttrl.ema.weights) if self.ttrl and self.ttrl.ema else None
        self._take()
        self.left_out: dict[str, list[Place]] = {}
        """What the last update did not learn from, by reason: (group, trajectory in it) by position."""
        self.stood_in: tuple[str, ...] = ()
        """Trajectories that the last update learned from a second time, by id."""
        self.entries: list[Entry] = []
        """What the last update decided, for the journal (`ttrl`)."""

    def join(self, ranks: Ranks) -> None:
        """Share the batches with other ranks from now on, and with `shard` the text layers; before the first step."""
        self.ranks = ranks
        if self.settings.shard and ranks.size > 1:
            self._flat = None
            for net in dict.fromkeys([self.model.net, *([self.reference.model.net] if self.reference else [])]):
                ranks.shard(net.model.language_model)
            if self.ttrl and self.ttrl.ema:
                self._follow()
            self._take()

    def _take(self) -> None:
        """Make the optimizer of the parameters that train."""
        s, net = self.settings, self.model.net
        own, heads = [p for p in net.parameters() if p.requires_grad], list(self.heads.parameters())
        self.parameters = [*own, *heads]
        self._clipped = own, heads  # apart: a gradient of a head does not shorten the policy's
        self.optimizer, self._rates = make_optimizer(net, s.lr, s.matrix_lr, s.betas, s.weight_decay, heads)

    def inherit(self, origin: Model, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Pay for curiosity and coherence as CC-RFT left them, its statistics frozen; `ttrl` pays for neither without.

        `origin`: the policy that CC-RFT started from, with the phase-1 vision: its states are what the statistics are of.
        `tensors` and `state`: "intrinsic" of CC-RFT's last checkpoint. Before the first update. ValueError when they are
        without a component that this phase pays for.
        """
        assert self.ttrl
        origin.net.requires_grad_(False).eval()
        sight = FeatureCache(origin, self.store)
        intrinsic = Intrinsic(self.settings.intrinsic, Senses(origin, sight))
        intrinsic.inherit(tensors, state)
        self._origin, self.intrinsic = (Reference(origin), sight), intrinsic

    def rehearse(self, demonstrations: Sequence[Trajectory]) -> None:
        """Labelled demonstrations of the source that are imitated beside what is adapted to (`ttrl`). ValueError for others
        than there are already: the set is frozen."""
        assert self.ttrl
        if self.ttrl.rehearsal not in ((), tuple(demonstrations)):
            raise ValueError("the rehearsal set is frozen: these are other demonstrations")
        self.ttrl.rehearsal = tuple(demonstrations)

    def update(self, groups: Sequence[Group | Judged]) -> dict[str, float]:
        """One step on some groups. Infrastructure failures and groups without contrast are left out and counted.

        A loss or gradient that is not finite skips the step: weights, optimizer and version stay as they were. A step that
        takes the probes beyond the corridor is undone and tried again, half as long and with twice the weight on the KL. When
        that does not help: CorridorError, but with `ttrl` the questions are left out and all is as it was.

        `ttrl` takes judged groups, learns from those that were accepted, and leaves in `entries` what became of each.
        """
        judged = [one for one in groups if isinstance(one, Judged)]
        if len(judged) != (len(groups) if self.ttrl else 0):
            raise TypeError(f"loss {self.settings.loss} learns from {'judged groups' if self.ttrl else 'groups'}")
        plain = [one.group if isinstance(one, Judged) else one for one in groups]
        questions = self.ttrl.questions(judged, self.version[1]) if self.ttrl else None
        self.entries = questions.refused(judged) if questions else []
        self.stood_in = ()
        samples, figures = self._asked(plain, questions) if questions else self._admit(plain)
        if not samples:
            return {**figures, "skipped": 1.0}
        before = Snapshot(self.parameters, self.optimizer) if self._watched(samples) else None
        draft = self._draft(questions, samples, before is not None) if questions else None
        for attempt in range(self.settings.corridor.undos):
            beta, share = self.corridor.attempt(attempt)
            told = self._gradient(samples, beta)
            norm, beside = (clip(some, self.settings.clip) for some in self._clipped)
            figures |= told | {"grad_norm": float(norm), "step": float(self.version[1])}
            if not (np.isfinite(told["loss"]) and torch.isfinite(norm + beside)):
                self.optimizer.zero_grad(set_to_none=True)
                self._leave_out("non_finite", samples)
                self.entries += [tried(draft, False, figures, beta=beta)] if draft else []
                return {**figures, "skipped": 1.0, "non_finite": 1.0}
            self._move(share)
            if before is None:
                break
            figures |= {self._probed: self._probe(), "beta": beta, "undone": float(attempt)}
            if not self.corridor.beyond(figures[self._probed]):
                self.corridor.read(told[f"{self._k3}_token_mean"])
                break
            before.undo()
            self._stirred()
            self.corridor.undone += 1
            self.entries += [tried(draft, False, figures, beta=beta, kl_after=figures[self._probed])] if draft else []
        else:
            if questions is None:
                raise CorridorError(_lost(figures, figures[self._probed], self.settings.corridor))
            self._leave_out("discarded", samples)
            # while nothing can be kept the average stands still: the weight of the KL must rise, or it stays so
            self.corridor.read(figures[self._probed])
            return {**figures, "skipped": 1.0, "discarded": 1.0}
        self.version = (self.version[0], self.version[1] + 1)
        if questions and draft:
            figures |= self._commit(questions, figures)
            after = figures.get(self._probed)
            self.entries.append(tried(draft, True, figures, beta=beta, kl_after=after, weights_out=self.flat().hash()))
        self.refill.keep(_groups(samples, self.version[1]) if self.settings.loss == "grpo" else [])
        return {**figures, "skipped": 0.0, "non_finite": 0.0}

    def _leave_out(self, why: str, samples: Sequence[Sample]) -> None:
        self.left_out[why] = [s.place for s in samples if s.place[0] >= 0]

    def _draft(self, questions: Questions, samples: Sequence[Sample], watched: bool) -> Update:
        """What the journal will say of this update, as far as it is known before the first attempt."""
        limit, weights = BEYOND * self.settings.corridor.high if watched else 0.0, self.flat().hash()
        return Update(
            step=self.version[1] + 1,
            judgements=tuple(one.judgement for one in questions.accepted.values()),
            trajectories=tuple(s.trajectory.id for s in samples),
            kl_before=self._probe() if watched else None,
            kl_after=None,
            limit=limit,
            beta=self.corridor.beta,
            weights_in=weights,
            weights_out=weights,
        )

    def _commit(self, questions: Questions, figures: Mapping[str, float]) -> dict[str, float]:
        """Take note of an update that was kept, and let the reference follow; how far the phase has drifted."""
        assert self.ttrl
        kl = figures[f"{self._k3}_token_mean"]
        if self.ttrl.commit(questions, self.weights(), kl, figures.get(self._probed, kl), self.version[1]):
            self._follow()
        return self.ttrl.drift.figures()

    def _follow(self) -> None:
        """Make the reference what the average is now."""
        assert self.ttrl and self.ttrl.ema and self.reference
        self.reference.follow(self.ttrl.ema.weights)
        if self._sight_changes:
            self._still.clear()
        if self.probes:
            self.probes.forget("reference")

    def keep_good(self) -> None:
        """Remember all of this, weights and what steers them, as the last good state (`ttrl`). Every rank must."""
        assert self.ttrl
        self.ttrl.good = Good.of(self._moving(), self.version[1])

    def roll_back(self, epoch: int, why: str, figures: Mapping[str, float] | None = None) -> RolledBack:
        """Put the last good state back, to the bit, as the first weights of a new epoch; the journal's entry of it.

        RuntimeError when none was kept.
        """
        assert self.ttrl
        good, before = self.ttrl.good, self.flat().hash()
        if good is None:
            raise RuntimeError("no state was kept as a good one: there is nothing to go back to")
        self._put_back(*good.state)
        self.version = (epoch, good.step)
        return RolledBack(why, good.step, before, self.flat().hash(), dict(figures or {}))

    def freeze(self, why: str, figures: Mapping[str, float] | None = None) -> Frozen:
        """Learn nothing from here on: every question is left out (`ttrl`). The journal's entry of it."""
        assert self.ttrl
        self.ttrl.frozen = True
        return Frozen(why, self.version[1], self.flat().hash(), dict(figures or {}))

    def _move(self, share: float) -> None:
        """One optimizer step at a share of its length."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._height(self.version[1] + 1) * share
        self.optimizer.step()
        self._stirred()

    def _stirred(self) -> None:
        """The policy's weights are others than those that the probes were read with."""
        if self.probes:
            self.probes.forget("policy")

    def _gradient(self, samples: list[Sample], beta: float) -> dict[str, float]:
        """The gradient of all samples, each rank working on its part of them; the figures of the loss."""
        self.model.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        keys = ("loss", *told_of(self.settings.loss, self._anchor), *self.heads.figures)
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
        batches = by_length([trajectories[i] for i in mine], self.settings.micro_tokens, self.settings.pack)
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
        assert self.intrinsic and self.reference
        reads = self._read(whole) if self.intrinsic.coherence else {}
        rewards, figures = self.intrinsic.rewards(whole, reads)
        divide = self.settings.grpo.form != "dr_grpo"
        credit, self.left_out["uniform"] = advantages(rewards, self.settings.advantage_floor, divide)
        if credit and not reads:
            reads = self._read({place: whole[place] for place in credit})
        samples = [Sample(whole[place], earned, place, reads[place]) for place, earned in credit.items()]
        again = self._again(len({group for group, _ in self.left_out["uniform"]})) if credit else []
        self.stood_in = tuple(s.trajectory.id for s in again)
        return samples + again, {**figures, "groups_refilled": float(len({s.place[0] for s in again}))}

    def _asked(self, groups: Sequence[Group], questions: Questions) -> tuple[list[Sample], dict[str, float]]:
        """The samples of some questions (paper 6.6), with what is imitated beside them at places below 0."""
        assert self.ttrl
        every = {(n, k): t for n, group in enumerate(groups) for k, t in enumerate(group.trajectories)}
        ended = {place: t for place, t in every.items() if t.status not in ("infra", "cancelled")}
        whole = {place: t for place, t in ended.items() if place[0] in questions.accepted}
        why = "frozen" if self.ttrl.frozen else "abstained"
        self.left_out = {"infra": [p for p in every if p not in ended], why: [p for p in ended if p not in whole]}
        figures = {"groups": float(len(groups)), "dropped_infra": float(len(self.left_out["infra"])), **questions.figures()}
        figures[why] = float(len(groups) - len(questions.accepted))
        if not whole:
            return [], figures
        rewards, told = self._earned(whole)
        credit, uniform = advantages(rewards, self.settings.advantage_floor, divide=True, alike=self.settings.ttrl.alike)
        figures |= told | {"groups_uniform": float(len({group for group, _ in uniform}))}
        return asked(questions, whole, credit, self._read(whole), self.settings.ttrl.exemplar), figures

    def _earned(self, whole: Mapping[Place, Trajectory]) -> tuple[dict[Place, float], dict[str, float]]:
        """What each rollout earned: its vote less what its chain cost, with curiosity and coherence if there are statistics."""
        if not self.intrinsic:
            return {place: sum(t.rewards.values()) for place, t in whole.items()}, {}
        return self.intrinsic.rewards(whole, self._read(whole, self._origin) if self.intrinsic.coherence else {})

    def _again(self, groups: int) -> list[Sample]:
        """Earlier groups in place of some that have no contrast, at places below 0."""
        kept = self.refill.take(groups, self.version[1] + 1)
        pairs = {(-1 - n, k): pair for n, one in enumerate(kept) for k, pair in enumerate(one.members)}
        reads = self._read({place: trajectory for place, (trajectory, _) in pairs.items()}) if pairs else {}
        return [Sample(trajectory, credit, place, reads[place]) for place, (trajectory, credit) in pairs.items()]

    def _read(self, of: Mapping[Place, Trajectory], by: tuple[Reference, FeatureCache] | None = None) -> dict[Place, Read]:
        """What the reference, or `by`, says of some trajectories: each rank asks it for its part, and all get all."""
        assert self.reference
        reader, sight = by or (self.reference, self._still)
        trajectories = list(of.values())
        tokens = np.cumsum([0, *(int(t.mask.sum()) for t in trajectories)])
        steps = np.cumsum([0, *(t.n_calls for t in trajectories)])
        width = self.model.net.model.language_model.embed_tokens.weight.shape[1]
        said, known = torch.zeros(2, int(tokens[-1])), torch.zeros(int(steps[-1]), width)
        for part in self._parts(trajectories):
            some = [trajectories[i] for i in part.indices]
            batch = self._collated(some)
            found = reader.read(batch, sight.get(batch.views), some)
            for i, read in zip(part.indices, found, strict=True) if part.counts else ():
                said[:, tokens[i] : tokens[i + 1]] = torch.stack([read.logprobs, read.choice.float()])
                known[steps[i] : steps[i + 1]] = read.steps
        said, known = self.ranks.sum(said), self.ranks.sum(known)
        spans = zip(tokens, tokens[1:], steps, steps[1:], strict=False)
        reads = [Read(said[0, a:b], said[1, a:b] > 0, known[c:d]) for a, b, c, d in spans]
        return dict(zip(of, reads, strict=True))

    def _watched(self, samples: list[Sample]) -> bool:
        """Whether updates are measured on probes, with `ttrl` also where there is no edge; the first rollouts become them."""
        settings = self.settings.corridor
        if self.reference is None or not settings.probes or not (settings.high or self.ttrl):
            return False
        if self.probes is None:
            acted = [s for s in samples if s.read is not None]
            ordered = sorted(acted, key=lambda s: s.place[::-1])  # of as many groups as there are
            self.probes = Probes([s.trajectory for s in ordered[: settings.probes]])
        return True

    def _probe(self) -> float:
        """Mean KL of the policy to its reference on the probes, in nats a token."""
        assert self.probes and self.reference
        parts = self._parts(self.probes.trajectories)
        if not self.probes.knows("reference"):
            self._read_probes("reference", self.reference.model, self._still.get, parts)
        if not self.probes.knows("policy"):
            self._read_probes("policy", self.model, self._features, parts)
        far = torch.zeros(2)
        for part in parts:
            far += torch.tensor(self.probes.kl(part.indices, self.model, self.reference.model)) * part.counts
        kl, count = self.ranks.sum(far).tolist()
        return float(kl / count)

    def _read_probes(
        self, who: Who, model: Model, see: Callable[[tuple[View, ...]], list[Features]], parts: Sequence[Part]
    ) -> None:
        """Let a model read the probes; `see` are its eyes."""
        assert self.probes
        with torch.no_grad():
            for part in parts:
                batch = self._collated([self.probes.trajectories[i] for i in part.indices])
                self.probes.read(who, part.indices, batch, model, see(batch.views))

    def _loss(self, samples: list[Sample], beta: float, share: float, calls: Mapping[str, int]) -> tuple[Tensor, Told]:
        """A micro-batch's part of the loss, and figures. `share`: of the batch; `calls`: of the batch, for each head."""
        trajectories = [s.trajectory for s in samples]
        batch = self._collated(trajectories)
        hidden, now = states_and_logprobs(self.model, batch, self._features(batch.views))
        if not self.reference:
            loss, told = imitation(now, self.settings.roles.of(batch.roles))
            foreseen, more = self.heads.loss(hidden, batch.starts, trajectories, calls)
            return share * loss + foreseen, {**told, **more}
        of = sampled(samples, batch)
        if self.ttrl:
            shares = lessons(samples, batch, self.settings.roles.of(batch.roles))
            return ttrl(now, of, shares, self.settings.grpo, beta, self._anchor, self.settings.ttrl.gradient)
        loss, told = grpo(now, of, self.settings.grpo, beta)
        return share * loss, told

    def _collated(self, trajectories: Sequence[Trajectory]) -> Batch:
        """Where the network is."""
        return collate(trajectories, self.model.layout, self.settings.pack).to(self.model.device)

    def _features(self, views: tuple[View, ...]) -> list[Features]:
        """Visual features of a batch; each distinct view once, from the cache while vision is frozen."""
        if not self._sight_changes:
            return self.features.get(views)
        distinct = list(dict.fromkeys(views))
        patches, grids = zip(*(self.model.patches(view, self.store) for view in distinct), strict=True)
        encoded = dict(zip(distinct, self.model.encode(patches, grids), strict=True))
        return [encoded[view] for view in views]

    def weights(self) -> dict[str, Tensor]:
        """The parameters that train, by name, whole. Every rank must ask when they are sharded."""
        return {name: whole(p) for name, p in self.model.net.named_parameters() if p.requires_grad}

    def flat(self) -> FlatWeights:
        """What is served, as one array: the average where there is one (paper 6.7), else the parameters that train. Every rank
        must ask when they are sharded."""
        return self._average or self._flat or FlatWeights({name: p.detach() for name, p in self.weights().items()})

    def save(self, folder: Path) -> None:
        """Write the whole policy that is served as a folder. Every rank must ask; the first one writes."""
        with worn(self.model.net, self.ttrl.ema.weights if self.ttrl and self.ttrl.ema else {}):
            net = merged(self.model.net, whole)
            if self.ranks.rank == 0:
                self.model.save(folder, net)

    def state(self) -> State:
        """For a checkpoint: tensors, JSON, and tables. Every rank must ask."""
        tensors, state, tables = self._moving()
        if self.ttrl:
            more, state["beside"], kept = self.ttrl.beside()
            tensors, tables = tensors | more, tables | kept
        return tensors, state, tables

    def _moving(self) -> State:
        """All that updates change, and that goes back with the weights."""
        moments, packed = pack_optimizer(self.optimizer)
        tensors = {"model": self.weights(), "optimizer": {name: whole(t) for name, t in moments.items()}}
        state: dict[str, Any] = {"optimizer": packed, "corridor": self.corridor.state()}
        if self.heads.weights:
            tensors["heads"] = self.heads.state_dict()
        if self.intrinsic:
            tensors["intrinsic"], state["intrinsic"] = self.intrinsic.state()
        state["refill"], tables = self.refill.state()
        tables |= alone("probes", self.probes.trajectories if self.probes else ())
        if self.ttrl:
            more, state["ttrl"], kept = self.ttrl.state()
            tensors, tables = tensors | more, tables | kept
        return tensors, state, tables

    def restore(
        self, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any], tables: Mapping[str, pa.Table]
    ) -> None:
        """Inverse of `state`. CheckpointError when the optimizer is another, or when statistics that a phase has inherited
        are missing here or there."""
        if self.ttrl and ("intrinsic" in state) != (self.intrinsic is not None):
            told = "was saved with" if "intrinsic" in state else "was saved without"
            raise CheckpointError(f"this phase {told} the statistics of CC-RFT: `inherit` them as it did")
        self._put_back(tensors, state, tables)
        if self.ttrl:
            self.ttrl.restore_beside(tensors, state["beside"], tables)

    def _put_back(
        self, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any], tables: Mapping[str, pa.Table]
    ) -> None:
        """Inverse of `_moving`."""
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
        kept = single(tables, "probes")
        self.probes = Probes(kept) if kept else None
        if self.ttrl:
            self.ttrl.restore(tensors, state["ttrl"], tables)
            if self.ttrl.ema:
                self._follow()


def _groups(samples: Sequence[Sample], step: int) -> list[Kept]:
    """What this step learned from for the first time, by group."""
    found: dict[int, list[tuple[Trajectory, float]]] = {}
    for s in samples:
        found.setdefault(s.place[0], []).append((s.trajectory, s.advantage))
    return [Kept(step, tuple(members)) for group, members in found.items() if group >= 0]


def _lost(figures: Mapping[str, float], kl: float, settings: CorridorSettings) -> str:
    return (
        f"{settings.undos} times in a row an update took the probes' KL beyond {BEYOND * settings.high:g} nats a token, "
        f"the last to {kl:.3f}, beta being {figures['beta']:.3g}: lower learner.lr, or widen learner.corridor"
    )
