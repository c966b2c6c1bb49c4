"""The ranks of a learner: processes that share each batch and add up their gradients.

Each holds all weights, or its shard of every text layer (FSDP2), gathered when the layer works.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_

if TYPE_CHECKING:  # seconds to import: only processes that share layers pay
    from torch.distributed.tensor import DTensor

Item = TypeVar("Item")
Key = TypeVar("Key")


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
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"  # by where a tensor lies
        where = f"tcp://{address}"
        dist.init_process_group(backend, where, timedelta(seconds=seconds), world_size=size, rank=rank)
        return cls(rank, size)

    def shard(self, text: Any) -> None:
        """Split the layers of a text model over the ranks: their parameters become DTensors of the whole shape.

        Embeddings stay whole on every rank: they are called outside the layers, and may be the head's too.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(next(text.parameters()).device.type, (self.size,))
        for layer in text.layers:  # said aloud: a layer is its own root, which would stay gathered after going forward
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)

    def mine(self, items: Sequence[Item]) -> list[Item]:
        """This rank's part: every `size`-th, so that a sorted batch is shared evenly."""
        return list(items[self.rank :: self.size])

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def add_up(self, parameters: Sequence[Parameter], figures: dict[Key, float]) -> dict[Key, float]:
        """Sum gradients (in place) and figures over all ranks, in one message; the same keys on every rank.

        Those of sharded layers were averaged already, while they went backward.
        """
        if self.size == 1:
            return figures
        for gradient in (p.grad for p in parameters if p.grad is not None and is_sharded(p.grad)):
            gradient.mul_(self.size)
        parameters = [p for p in parameters if not is_sharded(p)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        told = torch.tensor(list(figures.values()), dtype=torch.float32, device=gradients[0].device)
        flat = torch.cat([*(g.reshape(-1).float() for g in gradients), told])
        dist.all_reduce(flat)
        *summed, told = flat.split([*(g.numel() for g in gradients), len(told)])
        for parameter, total in zip(parameters, summed, strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype)
        return dict(zip(figures, told.tolist(), strict=True))

    def most(self, count: int) -> int:
        """The largest count of all ranks: sharded layers must work equally often on each."""
        counts = torch.tensor([count])
        dist.all_reduce(counts, dist.ReduceOp.MAX)
        return int(counts)


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether this rank holds only a part of a tensor."""
    return hasattr(tensor, "full_tensor")


def clip(parameters: Sequence[Parameter], limit: float) -> Tensor:
    """Scale gradients down to a norm of at most `limit`, in place; the norm before, over all shards. As torch's, which
    takes no mixture of sharded and whole parameters."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if not any(is_sharded(g) for g in grads):
        return clip_grad_norm_(parameters, limit)
    plain = [g for g in grads if not is_sharded(g)]
    parts = [g.to_local() for g in grads if is_sharded(g)]
    squares = torch.stack([g.float().square().sum() for g in parts]).sum()
    dist.all_reduce(squares)
    norm = (squares + sum(g.float().square().sum() for g in plain)).sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for g in [*plain, *parts]:
        g.mul_(scale)
    return norm


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its shards. Every rank must ask for it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, split as another of the same shape is."""
    if not is_sharded(other) or is_sharded(tensor) or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
