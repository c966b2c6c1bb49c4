"""Our learner's step beside the same step in plain torch, imitation and GRPO: what `Learner` costs above the mathematics.

The plain loop is a person's script: the same micro-batches by the same `collate`, cached features, forward, loss written
out, backward, clip, AdamW. It ends at the same weights (the table says how far apart). In a second column it has its
batches ready before the clock starts, so that all preparation counts as ours.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from figures import interleaved, keep, ratios, row, spread
from torch import Tensor

from pixelis.actors import nano
from pixelis.actors.engine import TransformersEngine
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutSettings, RolloutWorker
from pixelis.actors.tasks import TaskSource
from pixelis.learners.batch import Batch, by_length, collate
from pixelis.learners.corridor import CorridorSettings
from pixelis.learners.intrinsic import IntrinsicSettings
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.learners.loss import RoleWeights
from pixelis.learners.reference import logprobs
from pixelis.memory.model import FeatureCache, Features, Model
from pixelis.memory.trajectory import Group, Trajectory
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox

BATCHES = 4
"""Steps in one run."""
GROUPS, GROUP = 8, 4
SETTINGS = LearnerSettings(  # what the loop beside it does, and no more
    lr=1e-4, warmup=1, roles=RoleWeights(op=1.0, argument=1.0),
    intrinsic=IntrinsicSettings(curiosity=0.0, coherence=0.0), corridor=CorridorSettings(high=0.0),
)  # fmt: skip

Ready = tuple[Batch, list[Features], Tensor]
"""A micro-batch, what its placeholders show, and the advantage of each of its trajectories."""


class Plain:
    """The step without `Learner`."""

    def __init__(self, model: Model, store: MediaStore, loss: str) -> None:
        self.model, self.loss = model, loss
        model.net.model.visual.requires_grad_(False)
        self.frozen = copy.deepcopy(model.net).requires_grad_(False) if loss == "grpo" else None
        self.parameters = [p for p in model.net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=SETTINGS.lr, betas=SETTINGS.betas, weight_decay=SETTINGS.weight_decay
        )
        self.features = FeatureCache(model, store)

    def prepare(self, groups: Sequence[Group]) -> list[Ready]:
        """Micro-batches of a step."""
        rewards = [np.array([sum(t.rewards.values()) for t in g.trajectories]) for g in groups]
        credit = [(r - r.mean()) / (r.std() + SETTINGS.advantage_floor) for r in rewards]
        told = [t for g in groups for t in g.trajectories]
        rows = list(zip(told, np.concatenate(credit).tolist(), strict=True))
        rows.sort(key=lambda pair: len(pair[0]))
        out: list[Ready] = []
        for indices in by_length([t for t, _ in rows], SETTINGS.micro_tokens):
            batch = collate([rows[i][0] for i in indices], self.model.layout)
            out.append((batch, self.features.get(batch.views), torch.tensor([rows[i][1] for i in indices])))
        return out

    def update(self, ready: list[Ready]) -> None:
        """One optimizer step."""
        self.model.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = sum(self._size(batch) for batch, *_ in ready)
        for batch, features, credit in ready:
            (self._loss(batch, features, credit) * self._size(batch) / total).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, SETTINGS.clip)
        self.optimizer.step()

    def _size(self, batch: Batch) -> int:
        return len(batch.tokens) if self.frozen is not None else len(batch.old)

    def _loss(self, batch: Batch, features: list[Features], credit: Tensor) -> Tensor:
        now = logprobs(self.model, batch, features)
        if self.frozen is None:
            return -now.mean()
        with torch.no_grad():
            anchor = logprobs(Model(self.frozen, self.model.tokenizer, self.model.card), batch, features)
        share = (1 / torch.bincount(batch.row))[batch.row]
        share = share / share.sum()
        ratio, gain = (now - batch.old).exp(), credit[batch.row]
        low, high = 1 - SETTINGS.grpo.clip_low, 1 + SETTINGS.grpo.clip_high
        surrogate = torch.minimum(ratio * gain, ratio.clamp(low, high) * gain)
        kl = (anchor - now).exp() - 1 - (anchor - now)
        return (share * (SETTINGS.grpo.beta * kl - surrogate)).sum()


def episodes(model: Model, store: MediaStore, count: int) -> list[Trajectory]:
    """What the teacher recites, with the log-probs of the policy as it is."""
    source = TaskSource(("code", "clip"), "demo", store)
    engine = TransformersEngine(model, store, frozenset())
    worker = RolloutWorker(source, Toolbox(store), Renderer(model), engine, RolloutSettings(), 0)
    told: list[Trajectory] = []
    index = 0
    while len(told) < count:
        told += [g.trajectories[0] for g in worker.recite([index]) if not g.trajectories[0].family.endswith("caption")]
        index += 1
    cache = FeatureCache(model, store)
    return [scored(model, cache, t) for t in told]


def scored(model: Model, cache: FeatureCache, trajectory: Trajectory) -> Trajectory:
    """The same tokens with this policy's log-probs."""
    batch = collate([trajectory], model.layout)
    with torch.no_grad():
        values = logprobs(model, batch, cache.get(batch.views)).tolist()
    turns = []
    for turn in trajectory.turns:
        turns.append(replace(turn, logprobs=tuple(values[: len(turn.sampled)])))
        values = values[len(turn.sampled) :]
    return replace(trajectory, turns=tuple(turns))


def batches(told: list[Trajectory]) -> list[list[Group]]:
    """BATCHES batches of GROUPS groups of GROUP, half of each group rewarded."""
    groups = []
    for at in range(0, len(told), GROUP):
        some = told[at : at + GROUP]
        groups.append(Group("t", tuple(replace(t, task_id="t", rewards={"answer": i % 2}) for i, t in enumerate(some))))
    return [groups[at : at + GROUPS] for at in range(0, len(groups), GROUPS)]


def distance(one: Model, other: Model) -> float:
    """The largest difference of two parameters."""
    pairs = zip(one.net.parameters(), other.net.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def compare(loss: str, steps: list[list[Group]], store: MediaStore) -> dict[str, object]:
    """Our step and the plain one, in turns."""
    learner = Learner(nano.build(0), store, replace(SETTINGS, loss=loss))  # type: ignore[arg-type]
    plain, bare = (Plain(nano.build(0), store, loss) for _ in range(2))
    ready = [bare.prepare(step) for step in steps]

    def each(update: Callable[[list], object], items: list) -> None:
        for item in items:
            update(item)

    times = interleaved(
        {
            "learner": partial(each, learner.update, steps),
            "plain": partial(each, lambda step: plain.update(plain.prepare(step)), steps),
            "ready": partial(each, bare.update, ready),
        }
    )
    apart = distance(learner.model, plain.model)
    result = {
        "learner_ms": spread([1000 * t / len(steps) for t in times["learner"]]),
        "plain_ms": spread([1000 * t / len(steps) for t in times["plain"]]),
        "ratio": ratios(times["learner"], times["plain"]),
        "ratio_batches_ready": ratios(times["learner"], times["ready"]),
        "weights_apart": apart,
    }
    row(f"{loss}: learner", result["learner_ms"], "CPU ms")
    row(f"{loss}: plain torch", result["plain_ms"], "CPU ms")
    row(f"{loss}: learner / plain", result["ratio"], "", "<= 1.10")
    row(f"{loss}: learner / plain with batches ready", result["ratio_batches_ready"])
    print(f"{loss}: weights apart after all steps by at most {apart:.2g}")
    return result


def main() -> None:
    """Runs all of it."""
    torch.set_num_threads(1)
    store, model = MediaStore(), nano.build(0)
    steps = batches(episodes(model, store, BATCHES * GROUPS * GROUP))
    keep("learner", {loss: compare(loss, steps, store) for loss in ("imitation", "grpo")})


if __name__ == "__main__":
    main()
