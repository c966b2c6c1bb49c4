"""Probes: stored trajectories on which the distance of the policy from its reference is measured after every update."""

from __future__ import annotations

from collections.abc import Sequence

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


class Probes:
    """Some trajectories, and the last states [n, d] of the reference before each of their sampled tokens.

    Their KL is exact, over the whole vocabulary: the tokens were sampled by other weights, so none could be estimated.
    """

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        self.trajectories = tuple(trajectories)
        self._known: dict[int, Tensor] = {}

    def forget(self) -> None:
        """The reference has moved."""
        self._known.clear()

    @torch.no_grad()
    def kl(
        self, rows: Sequence[int], batch: Batch, model: Model, seen: list[Features], reference: Model, known: list[Features]
    ) -> tuple[float, float]:
        """KL(policy || reference) in nats, summed over the sampled tokens of some probes, and their number.

        `batch` holds the probes `rows`; `seen` and `known` are what policy and reference see in their views.
        """
        counts = torch.bincount(batch.row, minlength=len(rows)).tolist()
        if not all(row in self._known for row in rows):
            self._known |= dict(zip(rows, _before(reference, batch, known).split(counts), strict=True))
        anchor = reference.logits(torch.cat([self._known[row] for row in rows])).log_softmax(-1)
        now = model.logits(_before(model, batch, seen)).log_softmax(-1)
        distance = now.exp() * (now - anchor)
        return float(distance.masked_fill(now == -torch.inf, 0.0).sum()), float(sum(counts))


def _before(model: Model, batch: Batch, features: list[Features]) -> Tensor:
    """Last hidden states [N, d] from which the sampled tokens came."""
    rows, columns = batch.mask.nonzero(as_tuple=True)
    return model.hidden(batch.tokens, batch.positions, features)[rows, columns - 1]
