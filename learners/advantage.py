"""Credit within a group."""

from __future__ import annotations

import numpy as np

from pixelis.memory.trajectory import Group


def normalised(rewards_G: np.ndarray, floor: float = 1e-6) -> np.ndarray:
    """Group-relative advantages [G] (paper 5.7): centred, divided by the population standard deviation plus `floor`.

    Example:
        >>> normalised(np.array([1.0, 0, 0, 1, 1, 0, 0, 0])).round(4)[:2].tolist()
        [1.291, -0.7746]
        >>> normalised(np.ones(4)).tolist()
        [0.0, 0.0, 0.0, 0.0]
    """
    centred = rewards_G - rewards_G.mean()
    return centred / (rewards_G.std() + floor)


def total_reward(rewards: dict[str, float]) -> float:
    """Sum of a trajectory's reward components."""
    return float(sum(rewards.values()))


def advantages(group: Group, floor: float) -> np.ndarray:
    """Advantages [G] of a group's trajectories. All zero if their rewards do not differ."""
    return normalised(np.array([total_reward(t.rewards) for t in group.trajectories]), floor)
