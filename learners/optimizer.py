"""The optimizer: AdamW, with Muon for the hidden matrices where a phase starts from nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon

from pixelis.learners.ranks import is_sharded


class MuonAdamW(torch.optim.Optimizer):
    """Muon on some matrices and AdamW on the other parameters, as one optimizer with one state.

    Learning to ground from scratch takes it about two thirds of AdamW's steps (docs/decisions.md). The parts are
    torch's own; they share this object's groups and state, so that it saves and loads like any optimizer.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], rest: Iterable[nn.Parameter], **adamw: Any) -> None:
        self._parts = (Muon(list(matrices), momentum=0.95, weight_decay=0.01), AdamW(list(rest), **adamw))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both parts."""
        for part in self._parts:
            part.step(closure)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; the parts follow."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state


def make_optimizer(
    net: nn.Module,
    lr: float,
    matrix_lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    beside: Iterable[nn.Parameter] = (),
) -> tuple[torch.optim.Optimizer, list[float]]:
    """The optimizer of a network's trainable parameters, and the full learning rate of each of its groups.

    `matrix_lr` is Muon's rate for hidden matrices (all 2-D weights but embeddings); 0 leaves everything to AdamW. So are the
    parameters `beside` the network.
    """
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    adamw: dict[str, Any] = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
    if any(is_sharded(p) for _, p in named):
        adamw["foreach"] = False  # torch's loop over all at once takes no mixture of sharded and whole parameters
    if not matrix_lr:
        return AdamW([*(p for _, p in named), *beside], **adamw), [lr]
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    chosen = set(map(id, matrices))
    rest = [p for _, p in named if id(p) not in chosen]
    return MuonAdamW(matrices, [*rest, *beside], **adamw), [matrix_lr, lr]
