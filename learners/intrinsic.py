"""What a rollout earns besides its answer: curiosity, coherence, and for the use of tools (paper 5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pixelis.learners.advantage import Place
from pixelis.learners.coherence import Coherence
from pixelis.learners.curiosity import Curiosity, Senses
from pixelis.learners.reference import Read
from pixelis.memory.chain import repeated, steps
from pixelis.memory.trajectory import Trajectory

TOTAL = 5.0
"""A trajectory's reward lies within this, either way."""
WATCHED = 50
"""Updates after which a component that never differed is told of."""


@dataclass(frozen=True, slots=True)
class IntrinsicSettings:
    """Weights of what the learner adds to the rewards of the rollouts; 0 leaves a component out."""

    curiosity: float = 0.1
    coherence: float = 0.1
    usage: float = 0.0
    """Of what a rollout with a call that worked earns while too few of its group have one (Pixel-Reasoner's bonus)."""
    usage_share: float = 0.3
    """The share of a group that should use tools."""
    progress: tuple[str, ...] = ("OCR",)
    """Operations whose outcome nobody can foresee: what counts is that their errors become smaller."""
    lr: float = 1e-3
    """Of the dynamics head."""


class Intrinsic:
    """Rewards that depend on what was seen so far; their statistics are part of every checkpoint.

    Example:
        >>> intrinsic.rewards({(0, 0): right, (0, 1): wrong}, reads)[0]                    # doctest: +SKIP
        {(0, 0): 1.08, (0, 1): -0.03}
    """

    def __init__(self, settings: IntrinsicSettings, senses: Senses) -> None:
        self.settings = settings
        width = senses.model.net.model.language_model.embed_tokens.weight.shape[1]
        self.curiosity = Curiosity(senses, settings.progress, settings.lr) if settings.curiosity else None
        self.coherence = Coherence(width) if settings.coherence else None
        self._alike: dict[str, int] = {}

    def rewards(
        self, of: Mapping[Place, Trajectory], reads: Mapping[Place, Read]
    ) -> tuple[dict[Place, float], dict[str, float]]:
        """What each trajectory earned in all, and figures: components' means raw and scaled, those that the rollouts were
        paid for already as they were, the head's loss, an alarm.

        `reads` are needed for coherence only.
        """
        trajectories = list(of.values())
        earned: dict[str, list[tuple[float, float]]] = {}
        figures: dict[str, float] = {}
        if self.curiosity:
            earned["curiosity"], figures["dynamics_loss"] = self.curiosity.earned(trajectories)
        if self.coherence:
            again = [repeated(steps(t)) for t in trajectories]
            earned["coherence"] = self.coherence.earned([reads[place].steps for place in of], again)
        weights = {"curiosity": self.settings.curiosity, "coherence": self.settings.coherence}
        total = np.array([sum(t.rewards.values()) for t in trajectories], float)
        for name, pairs in earned.items():
            raw, scaled = np.array(pairs).T
            total += weights[name] * scaled
            figures |= self._told(name, raw, weights[name] * scaled)
        if self.settings.usage:
            raw = self._usage(of)
            total += self.settings.usage * raw
            figures |= self._told("usage", raw, self.settings.usage * raw)
        for name in dict.fromkeys(name for t in trajectories for name in t.rewards):  # costs may well be 0: no alarm
            figures[f"{name}_scaled"] = float(np.mean([t.rewards.get(name, 0.0) for t in trajectories]))
        return dict(zip(of, np.clip(total, -TOTAL, TOTAL).tolist(), strict=True)), figures

    def _usage(self, of: Mapping[Place, Trajectory]) -> np.ndarray:
        """The bonus for the use of tools, max(H - RaPR, 0) of the group for each with a call that worked (Pixel-Reasoner)."""
        used = np.array([t.n_valid > 0 for t in of.values()], float)
        group = np.array([number for number, _ in of])
        share = np.array([used[group == number].mean() for number in group])
        return used * np.maximum(0.0, self.settings.usage_share - share)

    def _told(self, name: str, raw: np.ndarray, scaled: np.ndarray) -> dict[str, float]:
        """Figures of one component; `constant` is 1 once it has not differed for WATCHED updates."""
        self._alike[name] = 0 if raw.std() > 1e-9 else self._alike.get(name, 0) + 1
        constant = float(self._alike[name] >= WATCHED)
        return {f"{name}_raw": float(raw.mean()), f"{name}_scaled": float(scaled.mean()), f"{name}_constant": constant}

    def inherit(self, tensors: Mapping[str, Tensor], packed: dict[str, Any]) -> None:
        """Take over what an earlier phase's `state` holds, and learn nothing more (paper 5.6).

        Raises: ValueError when that phase was without a component of this one.
        """
        missing = [name for name in self._parts() if name not in packed]
        if missing:
            raise ValueError(f"these statistics are without {missing[0]}: set learner.intrinsic.{missing[0]} = 0")
        self.restore(tensors, packed)
        for part in self._parts().values():
            part.learns = False

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON for a checkpoint, and for the phases after this one."""
        tensors: dict[str, Tensor] = {}
        packed: dict[str, Any] = {"alike": self._alike}
        for name, part in self._parts().items():
            found, packed[name] = part.state()
            tensors |= {f"{name}.{key}": tensor for key, tensor in found.items()}
        return tensors, packed

    def restore(self, tensors: Mapping[str, Tensor], packed: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self._alike = dict(packed["alike"])
        for name, part in self._parts().items():
            mine = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
            part.restore(mine, packed[name])

    def _parts(self) -> dict[str, Curiosity | Coherence]:
        found = {"curiosity": self.curiosity, "coherence": self.coherence}
        return {name: part for name, part in found.items() if part is not None}
