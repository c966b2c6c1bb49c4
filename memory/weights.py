"""Weights on their way from the learner to the policies: one flat byte array per version.

A flat numpy array travels through an object store 6 to 8 times faster than a dict of tensors, and numpy has no bfloat16:
bytes carry every dtype. Neither end copies: the learner's parameters live in the array that is sent, and a policy on the
same node looks into the store's memory.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ALIGN = 64
"""Bytes at whose multiples tensors begin, as torch's own allocator has it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one tensor lies in the array.

    Example:
        >>> Slot("lm_head.bias", (5,), "bfloat16", at=128).bytes
        10
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    at: int
    """Its first byte."""

    @property
    def bytes(self) -> int:
        """Bytes that the tensor takes."""
        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize

    def of(self, flat: Tensor) -> Tensor:
        """The tensor as a view of a uint8 array."""
        return flat[self.at : self.at + self.bytes].view(getattr(torch, self.dtype)).view(self.shape)


class FlatWeights:
    """Parameters that have moved into one array, where optimizer steps and `load_state_dict` go on changing them.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False, dtype=torch.bfloat16).requires_grad_(False)
        >>> flat = FlatWeights(dict(layer.named_parameters()))
        >>> layer.weight.fill_(1.0).tolist(), flat.array().tolist()
        ([[1.0, 1.0]], [128, 63, 128, 63])
    """

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        """All on one device."""
        plan: list[Slot] = []
        for name, tensor in named.items():
            end = plan[-1].at + plan[-1].bytes if plan else 0
            plan.append(Slot(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), -(-end // ALIGN) * ALIGN))
        self.plan = tuple(plan)
        device = next((t.device for t in named.values()), torch.device("cpu"))
        self._flat = torch.zeros(_size(self.plan), dtype=torch.uint8, device=device)
        for slot, tensor in zip(self.plan, named.values(), strict=True):
            place = slot.of(self._flat)
            place.copy_(tensor.detach())
            tensor.data = place

    def array(self) -> np.ndarray:
        """All bytes, uint8. On a CPU it is the parameters themselves: send or copy it before the next step."""
        return self._flat.cpu().numpy()

    def hash(self) -> str:
        """sha256 of all bytes."""
        return hashlib.sha256(self.array().data).hexdigest()


def unflatten(flat: np.ndarray, plan: tuple[Slot, ...]) -> dict[str, Tensor]:
    """The tensors of an array by name. ValueError when it does not have the plan's size.

    They look into `flat` and keep it alive, and `flat` may lie in memory that must not be written.
    """
    if len(flat) != _size(plan):
        raise ValueError(f"{len(flat)} bytes of weights for a plan of {_size(plan)}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        whole = torch.from_numpy(flat)
    return {slot.name: slot.of(whole) for slot in plan}


def adopt(named: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Make parameters those of `state`: without a copy where device and dtype agree, so they may be read-only after it.

    KeyError for a name that is no parameter, ValueError for another shape; then nothing has changed.
    """
    for name, tensor in state.items():
        if named[name].shape != tensor.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, this policy's has {tuple(named[name].shape)}")
    for name, tensor in state.items():
        parameter = named[name]
        if (parameter.device, parameter.dtype) == (tensor.device, tensor.dtype):
            parameter.data = tensor
        else:
            parameter.data.copy_(tensor)


def _size(plan: tuple[Slot, ...]) -> int:
    return plan[-1].at + plan[-1].bytes if plan else 0
