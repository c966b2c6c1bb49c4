"""Trajectories to padded tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelis.memory.layout import Laid, Layout, lay_out
from pixelis.memory.trajectory import Trajectory
from pixelis.tools.frame import View


@dataclass(frozen=True, slots=True)
class Batch:
    """Some trajectories in B rows of S tokens: each in its row, padded on the right, or all packed into one.

    `N` sampled tokens, in the order of the trajectories.
    """

    tokens: Tensor
    """int64 [B, S]"""
    positions: Tensor
    """int64 [3, B, S] (rope); packed [4, B, S], the first counting each trajectory's tokens: where it begins anew,
    transformers lets attention begin anew."""
    mask: Tensor
    """bool [B, S], True on sampled tokens."""
    views: tuple[View, ...]
    """What the placeholders show, row by row."""
    old: Tensor
    """float32 [N], log-probs at sampling time."""
    row: Tensor
    """int64 [N], the trajectory of each sampled token."""
    starts: tuple[tuple[int, int], ...]
    """Row and column where each trajectory begins."""
    roles: Tensor
    """uint8 [N], what each is for: letters of `memory.trajectory.ROLES`."""

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        held: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)}
        return Batch(**{**held, **moved})


def collate(trajectories: Sequence[Trajectory], layout: Layout, pack: bool = False) -> Batch:
    """Some trajectories as one batch: padded, or packed into one row."""
    laid = [lay_out(t, layout) for t in trajectories]
    if pack:
        return _packed(laid, trajectories)
    width = max(len(one.tokens) for one in laid)
    tokens = np.zeros((len(laid), width), dtype=np.int64)
    positions = np.zeros((3, len(laid), width), dtype=np.int64)
    mask = np.zeros((len(laid), width), dtype=bool)
    for i, one in enumerate(laid):
        count = len(one.tokens)
        tokens[i, :count], positions[:, i, :count], mask[i, :count] = one.tokens, one.positions, one.mask
    return _batch(tokens, positions, mask, laid, trajectories, tuple((i, 0) for i in range(len(laid))))


def _packed(laid: Sequence[Laid], trajectories: Sequence[Trajectory]) -> Batch:
    """One row; a single trajectory in it is as it would be alone."""
    places = [np.concatenate([np.arange(len(one.tokens))[None], one.positions]) for one in laid]
    begins = np.cumsum([0, *(len(one.tokens) for one in laid[:-1])]).tolist()
    tokens, mask = (np.concatenate(parts)[None] for parts in zip(*((one.tokens, one.mask) for one in laid), strict=True))
    positions = np.concatenate(places, axis=1)[:, None]
    return _batch(tokens, positions, mask, laid, trajectories, tuple((0, begin) for begin in begins))


def _batch(
    tokens: np.ndarray,
    positions: np.ndarray,
    mask: np.ndarray,
    laid: Sequence[Laid],
    trajectories: Sequence[Trajectory],
    starts: tuple[tuple[int, int], ...],
) -> Batch:
    old = np.concatenate([t.logprobs[t.mask] for t in trajectories])
    return Batch(
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        torch.from_numpy(mask),
        tuple(view for one in laid for view in one.views),
        torch.from_numpy(old.astype(np.float32)),
        torch.from_numpy(np.repeat(np.arange(len(laid)), [int(one.mask.sum()) for one in laid])),
        starts,
        roles_of(trajectories),
    )


def roles_of(trajectories: Sequence[Trajectory]) -> Tensor:
    """Roles uint8 [N] of all sampled tokens, in row order."""
    letters = "".join(turn.roles for t in trajectories for turn in t.turns)
    return torch.frombuffer(bytearray(letters.encode()), dtype=torch.uint8)


def by_length(trajectories: Sequence[Trajectory], tokens: int, pack: bool = False) -> Iterator[list[int]]:
    """Indices in micro-batches of similar length, each at most `tokens` tokens when padded or packed (or one trajectory)."""
    lengths = [len(t) for t in trajectories]
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        taken = sum(lengths[k] for k in [*batch, i]) if pack else lengths[i] * (len(batch) + 1)
        if batch and taken > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
