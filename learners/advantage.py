"""Credit within a group."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Place = tuple[int, int]
"""A group of a batch, and which of its trajectories."""
ALIKE = 1e-3
"""A group whose rewards deviate by less has no contrast to learn from."""


def normalised(rewards_G: np.ndarray, floor: float = 1e-6, divide: bool = True) -> np.ndarray:
    """Group-relative advantages [G] (paper 5.7): centred, divided by the population standard deviation plus `floor`.

    `divide` False only centres (Dr. GRPO).

    Example:
        >>> normalised(np.array([1.0, 0, 0, 1, 1, 0, 0, 0])).round(4)[:2].tolist()
        [1.291, -0.7746]
        >>> normalised(np.ones(4)).tolist()
        [0.0, 0.0, 0.0, 0.0]
    """
    centred = rewards_G - rewards_G.mean()
    return centred / (rewards_G.std() + floor) if divide else centred


def advantages(
    rewards: Mapping[Place, float], floor: float, divide: bool, alike: float = ALIKE
) -> tuple[dict[Place, float], list[Place]]:
    """Each trajectory's advantage among those of its group, and the trajectories of groups without contrast: their rewards
    deviate by less than `alike`.

    Example:
        >>> advantages({(0, 0): 1.0, (0, 1): 0.0, (1, 0): 1.0, (1, 1): 1.0}, 0.0, True)
        ({(0, 0): 1.0, (0, 1): -1.0}, [(1, 0), (1, 1)])
    """
    groups: dict[int, list[Place]] = {}
    for place in rewards:
        groups.setdefault(place[0], []).append(place)
    credit: dict[Place, float] = {}
    uniform: list[Place] = []
    for places in groups.values():
        R = np.array([rewards[place] for place in places])
        if R.std() < alike:
            uniform += places
        else:
            credit |= dict(zip(places, normalised(R, floor, divide).tolist(), strict=True))
    return credit, uniform
