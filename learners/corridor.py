"""The corridor: how far training may take the policy from its reference, and what happens at its edges (paper 5.8).

Inside, the weight of the KL stays as it is; above the upper edge it rises, below the lower one it falls. An update that
takes the KL on a fixed set of probes far beyond the upper edge is undone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Parameter

BETA = (1e-4, 1.0)
"""Least and largest weight of the KL; one that is 0 from the start stays 0."""
RATE = 1.5
BEYOND = 1.5
"""Times the upper edge: an update that takes the probes' KL above this is undone."""


class CorridorError(RuntimeError):
    """Update after update had to be undone: the phase cannot go on like this."""


@dataclass(frozen=True, slots=True)
class CorridorSettings:
    """Edges in nats per token. `high` 0: no corridor."""

    low: float = 0.02
    """Below it the weight of the KL falls; it is no target."""
    high: float = 0.1
    window: int = 16
    """Updates whose mean KL is looked at, then the next so many: steered at every update by a mean that lags, it swings."""
    probes: int = 64
    """Trajectories, the first that were stored, on which the KL of every update is measured."""
    undos: int = 10
    """Times in a row that one update is undone before RFT ends, and TTRL goes on without the questions; 1: not tried again."""

    def __post_init__(self) -> None:
        if self.undos < 1:
            raise ValueError(f"undos = {self.undos}: an update beyond the corridor is undone once at least")


class Corridor:
    """The weight of the KL, steered.

    Example:
        >>> corridor = Corridor(CorridorSettings(low=0.1, high=0.2, window=1), beta=0.02)
        >>> for kl in (0.25, 0.25, 0.25, 0.15):
        ...     corridor.read(kl)
        >>> round(corridor.beta / 0.02, 6) == 1.5 ** 3
        True
    """

    def __init__(self, settings: CorridorSettings, beta: float) -> None:
        self.settings, self.beta = settings, beta
        self.readings: list[float] = []
        self.undone = 0
        """Updates undone in all."""

    def read(self, kl: float) -> None:
        """Take the token mean of one update's KL; after `window` of them the weight is steered by their mean."""
        self.readings.append(kl)
        if not self.settings.high or len(self.readings) < self.settings.window:
            return
        mean, self.readings = sum(self.readings) / len(self.readings), []
        if not self.beta:
            return
        if mean > self.settings.high:
            self.beta = min(BETA[1], self.beta * RATE)
        elif mean < self.settings.low:
            self.beta = max(BETA[0], self.beta / RATE)

    def beyond(self, kl: float) -> bool:
        """Whether an update with this KL on the probes must be undone."""
        return self.settings.high > 0 and not kl <= BEYOND * self.settings.high

    def attempt(self, number: int) -> tuple[float, float]:
        """The weight of the KL and the share of the step at the n-th attempt of one update: doubled and halved each time.

        The weight falls back with the next update: what was doubled for good pulled the policy back to its reference.
        """
        return min(BETA[1], self.beta * 2**number), 0.5**number

    def state(self) -> dict[str, Any]:
        """JSON-able."""
        return {"beta": self.beta, "readings": self.readings, "undone": self.undone}

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.beta, self.readings, self.undone = state["beta"], list(state["readings"]), state["undone"]


class Snapshot:
    """Parameters and optimizer as they are now, to the bit."""

    def __init__(self, parameters: Sequence[Parameter], optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._parameters = [(p, p.detach().clone()) for p in parameters]
        self._state = copy.deepcopy(optimizer.state_dict())

    @torch.no_grad()
    def undo(self) -> None:
        """Put everything back."""
        for parameter, value in self._parameters:
            parameter.copy_(value)
        self.optimizer.load_state_dict(copy.deepcopy(self._state))  # which keeps what it is given
