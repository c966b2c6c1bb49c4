"""Probes: stored trajectories on which the distance of the policy from its reference is measured after every update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pixelis.learners.batch import Batch
from pixelis.learners.loss import Anchor
from pixelis.memory.model import Features, Model
from pixelis.memory.trajectory import Trajectory


def probed(anchor: Anchor) -> str:
    """The name of their figure: nats per token, over the whole vocabulary."""
    return f"kl_exact_policy_to_{anchor}_probes"


PROBED = probed("start")


Who = Literal["policy", "reference"]


class Probes:
    """Some trajectories, and the last states [n, d] of policy and reference before each of their sampled tokens.

    Their KL is exact, over the whole vocabulary: the tokens were sampled by other weights, so none could be estimated.
    """

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        self.trajectories = tuple(trajectories)
        self._states: dict[Who, dict[int, Tensor]] = {"policy": {}, "reference": {}}

    def forget(self, who: Who) -> None:
        """Its weights are others now."""
        self._states[who].clear()

    def knows(self, who: Who) -> bool:
        """Whether what it makes of the probes was read since its weights changed. The same on every rank, each of which has
        read its part of them: ranks with sharded layers must agree on whether there is a forward."""
        return bool(self._states[who])

    @torch.no_grad()
    def read(self, who: Who, rows: Sequence[int], batch: Batch, model: Model, features: list[Features]) -> None:
        """Keep what a model makes of the probes `rows`, which `batch` holds; `features` are what it sees in their views."""
        counts = torch.bincount(batch.row, minlength=len(rows)).tolist()
        self._states[who] |= dict(zip(rows, _before(model, batch, features).split(counts), strict=True))

    @torch.no_grad()
    def kl(self, rows: Sequence[int], model: Model, reference: Model) -> tuple[float, float]:
        """KL(policy || reference) in nats, summed over the sampled tokens of some probes, and how many. Both have read them."""
        here, there = (torch.cat([self._states[who][row] for row in rows]) for who in ("policy", "reference"))
        now, anchor = model.logits(here).log_softmax(-1), reference.logits(there).log_softmax(-1)
        distance = now.exp() * (now - anchor)
        return float(distance.masked_fill(now == -torch.inf, 0.0).sum()), float(len(here))


def _before(model: Model, batch: Batch, features: list[Features]) -> Tensor:
    """Last hidden states [N, d] from which the sampled tokens came."""
    rows, columns = batch.mask.nonzero(as_tuple=True)
    return model.hidden(batch.tokens, batch.positions, features)[rows, columns - 1]
