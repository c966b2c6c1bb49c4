"""The moving average of the weights that test-time training serves, and is held close to (paper 6.7)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

PART = 5
"""The average looks back over at most this part of a run, a fifth: else it is still the start when the run ends."""


@dataclass(frozen=True, slots=True)
class EmaSettings:
    """What stays of the average at each update.

    Raises: ValueError when `keep` is not above 0 and below 1.

    Example:
        >>> round(EmaSettings(0.999).horizon), round(EmaSettings(0.999).half_life)
        (1000, 693)
    """

    keep: float = 0.95
    """mu: average <- mu average + (1 - mu) weights."""

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise ValueError(f"keep = {self.keep} is not above 0 and below 1")

    @property
    def horizon(self) -> float:
        """Updates that the average looks back, in the mean: 1 / (1 - mu)."""
        return 1 / (1 - self.keep)

    @property
    def half_life(self) -> float:
        """Updates after which half of the average is of what came since."""
        return math.log(0.5) / math.log(self.keep)

    def check(self, updates: int) -> None:
        """ValueError when the average looks back over more than a fifth of a run of so many updates."""
        if self.horizon > updates / PART * (1 + 1e-9):
            least = "no value is low enough" if updates <= PART else f"at most {math.floor((1 - PART / updates) * 1e4) / 1e4:g}"
            raise ValueError(
                f"keep = {self.keep} looks back {self.horizon:.4g} updates, more than a fifth of {updates}: it must be {least}"
            )


class Ema:
    """The average of some tensors by name, kept at float32 (or float64) whatever they are.

    Example:
        >>> ema = Ema({"w": torch.zeros(1)}, EmaSettings(0.9))
        >>> ema.update({"w": torch.ones(1)})
        >>> round(float(ema.weights["w"]), 6), ema.updates
        (0.1, 1)
    """

    def __init__(self, weights: Mapping[str, Tensor], settings: EmaSettings) -> None:
        """It begins as a copy of the weights."""
        self.settings, self.updates = settings, 0
        # in bfloat16 a step of (1 - mu) of a small difference would round to nothing
        self.weights = {name: _precise(tensor).clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Take in the weights after an update that was kept. ValueError for other names or shapes, before anything changes."""
        self._fit(weights)
        for name, mean in self.weights.items():
            mean.lerp_(_precise(weights[name]).to(mean), 1 - self.settings.keep)
        self.updates += 1

    def state(self) -> tuple[dict[str, Tensor], int]:
        """For a checkpoint: tensors, and the number of updates."""
        return {name: tensor.clone() for name, tensor in self.weights.items()}, self.updates

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Inverse of `state`."""
        self._fit(weights)
        for name, mean in self.weights.items():
            mean.copy_(weights[name])
        self.updates = updates

    def _fit(self, weights: Mapping[str, Tensor]) -> None:
        wrong = sorted(self.weights.keys() ^ weights.keys())
        wrong += [name for name in self.weights.keys() & weights.keys() if self.weights[name].shape != weights[name].shape]
        if wrong:
            raise ValueError(f"not the weights that are averaged: {', '.join(wrong[:4])} ({len(wrong)} in all)")


def _precise(tensor: Tensor) -> Tensor:
    return tensor.detach() if tensor.dtype in (torch.float32, torch.float64) else tensor.detach().float()
