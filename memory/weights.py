"""Weights on their way from the learner to the policies: one flat byte array per version.

A flat numpy array travels through an object store 6 to 8 times faster than a dict of tensors, and numpy has no bfloat16:
bytes carry every dtype.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one tensor lies in the array: its name, shape and dtype (like "float32")."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Bytes that the tensor takes."""
        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize


def slots(named: Mapping[str, Tensor]) -> tuple[Slot, ...]:
    """The plan of an array that `flatten` makes of these tensors."""
    return tuple(Slot(name, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in named.items())


def flatten(named: Mapping[str, Tensor]) -> np.ndarray:
    """All tensors as one uint8 array, in their order.

    Example:
        >>> flatten({"w": torch.ones(2, dtype=torch.bfloat16)}).tolist()
        [128, 63, 128, 63]
    """
    parts = [t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy() for t in named.values()]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def unflatten(flat: np.ndarray, plan: tuple[Slot, ...]) -> dict[str, Tensor]:
    """Inverse of `flatten`. ValueError when the array does not have the plan's size.

    The tensors look into `flat` and keep it alive, and `flat` may lie in memory that must not be written: copy them to
    where they belong (`load_state_dict` does) and let them go. A copy here would cost more than all the rest of the way
    (docs/decisions.md).
    """
    if len(flat) != sum(slot.bytes for slot in plan):
        raise ValueError(f"{len(flat)} bytes of weights for a plan of {sum(slot.bytes for slot in plan)}")
    out: dict[str, Tensor] = {}
    at = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        for slot in plan:
            part = torch.from_numpy(flat[at : at + slot.bytes])
            out[slot.name] = part.view(getattr(torch, slot.dtype)).reshape(slot.shape)
            at += slot.bytes
    return out
