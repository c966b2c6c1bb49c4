"""The ranks of a learner: processes with the same weights that share each batch and add up their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.nn import Parameter

Item = TypeVar("Item")


class Ranks:
    """One of `size` processes that take their part of every batch. Alone it takes everything, and nothing is sent.

    Example:
        >>> Ranks().mine(["a", "b", "c"])
        ['a', 'b', 'c']
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def join(cls, rank: int, size: int, address: str, seconds: float) -> Ranks:
        """Meet the others at `host:port`, where rank 0 listens. Every later wait for them ends after `seconds` too."""
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        where = f"tcp://{address}"
        dist.init_process_group(backend, where, timedelta(seconds=seconds), world_size=size, rank=rank)
        return cls(rank, size)

    def mine(self, items: Sequence[Item]) -> list[Item]:
        """This rank's part: every `size`-th, so that a sorted batch is shared evenly."""
        return list(items[self.rank :: self.size])

    def add_up(self, parameters: Sequence[Parameter], figures: dict[str, float]) -> dict[str, float]:
        """Sum gradients (in place) and figures over all ranks, in one message; the same keys on every rank."""
        if self.size == 1:
            return figures
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        told = torch.tensor(list(figures.values()), dtype=torch.float32, device=gradients[0].device)
        flat = torch.cat([*(g.reshape(-1).float() for g in gradients), told])
        dist.all_reduce(flat)
        *summed, told = flat.split([*(g.numel() for g in gradients), len(told)])
        for parameter, total in zip(parameters, summed, strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype)
        return dict(zip(figures, told.tolist(), strict=True))
