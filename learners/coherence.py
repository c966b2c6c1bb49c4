"""Coherence: how much each step of a chain has to do with the one before (paper 5.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pixelis.learners.running import Running


class Coherence:
    """Mean cosine of neighbouring steps' embeddings, centred by the running mean of all steps seen: raw states of a language
    model are nearly parallel. A repeated step counts 0, or repeating one would be the best chain of all.

    Example:
        >>> coherence = Coherence(2)
        >>> steps = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> [round(raw, 6) for raw, _ in coherence.earned([steps[:2], steps[2:], steps[1:3]], [[False] * 2] * 3)]
        [1.0, 1.0, -1.0]
    """

    def __init__(self, width: int) -> None:
        self.total, self.count = torch.zeros(width), 0
        """Sum and number of all embeddings so far."""
        self.scale = Running()
        self.learns = True
        """Whether what is seen changes mean and scale."""

    def earned(self, embeddings: Sequence[Tensor], repeated: Sequence[Sequence[bool]]) -> list[tuple[float, float]]:
        """Raw and scaled, of each trajectory: its steps' embeddings float32 [T, d], and which of them are repetitions.

        0 for fewer than two steps. Scaled by the running deviation and not centred, as curiosity is.
        """
        if self.learns:
            every = torch.cat([some for some in embeddings if len(some)] or [self.total[None][:0]])
            self.total, self.count = self.total + every.sum(0), self.count + len(every)
        centre = self.total / max(1, self.count)
        raws = [_adjacent(some - centre, again) for some, again in zip(embeddings, repeated, strict=True)]
        if self.learns:
            self.scale.add(raw for raw, some in zip(raws, embeddings, strict=True) if len(some) > 1)
        return [(raw, max(-3.0, min(3.0, self.scale.scale(raw)))) for raw in raws]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON for a checkpoint."""
        return {"total": self.total}, {"count": self.count, "scale": self.scale.state()}

    def restore(self, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.total, self.count, self.scale = tensors["total"].clone(), state["count"], Running(**state["scale"])


def _adjacent(centred: Tensor, repeated: Sequence[bool]) -> float:
    if len(centred) < 2:
        return 0.0
    units = normalize(centred, dim=1)
    cosines = (units[1:] * units[:-1]).sum(1)
    return float((cosines * ~torch.tensor(repeated[1:])).mean())
