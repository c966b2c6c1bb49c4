"""Trajectories to padded tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from pixelis.memory.layout import Layout, lay_out
from pixelis.memory.trajectory import Trajectory
from pixelis.tools.frame import View


@dataclass(frozen=True, slots=True)
class Batch:
    """B trajectories padded on the right to S tokens; `N` sampled tokens in row order."""

    tokens: Tensor
    """int64 [B, S]"""
    positions: Tensor
    """int64 [3, B, S]"""
    mask: Tensor
    """bool [B, S], True on sampled tokens."""
    views: tuple[View, ...]
    """What the placeholders show, row by row."""
    old: Tensor
    """float32 [N], log-probs at sampling time."""
    row: Tensor
    """int64 [N], the trajectory of each sampled token."""
    roles: Tensor
    """uint8 [N], what each is for: letters of `memory.trajectory.ROLES`."""

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)})


def collate(trajectories: Sequence[Trajectory], layout: Layout) -> Batch:
    """Pad some trajectories into one batch."""
    laid = [lay_out(t, layout) for t in trajectories]
    width = max(len(one.tokens) for one in laid)
    tokens = np.zeros((len(laid), width), dtype=np.int64)
    positions = np.zeros((3, len(laid), width), dtype=np.int64)
    mask = np.zeros((len(laid), width), dtype=bool)
    for i, one in enumerate(laid):
        count = len(one.tokens)
        tokens[i, :count], positions[:, i, :count], mask[i, :count] = one.tokens, one.positions, one.mask
    old = np.concatenate([t.logprobs[t.mask] for t in trajectories])
    return Batch(
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        torch.from_numpy(mask),
        tuple(view for one in laid for view in one.views),
        torch.from_numpy(old.astype(np.float32)),
        torch.from_numpy(np.nonzero(mask)[0]),
        roles_of(trajectories),
    )


def roles_of(trajectories: Sequence[Trajectory]) -> Tensor:
    """Roles uint8 [N] of all sampled tokens, in row order."""
    letters = "".join(turn.roles for t in trajectories for turn in t.turns)
    return torch.frombuffer(bytearray(letters.encode()), dtype=torch.uint8)


def by_length(trajectories: Sequence[Trajectory], tokens: int) -> Iterator[list[int]]:
    """Indices in micro-batches of similar length, each at most `tokens` tokens when padded (or one trajectory)."""
    lengths = [len(t) for t in trajectories]
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[i] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
