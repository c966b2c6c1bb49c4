"""Pure losses on tensors: each returns the loss and its figures.

All take the log-probs of sampled tokens only, so an observed token cannot carry a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from pixelis.memory.trajectory import ROLES, SAMPLED

Form = Literal["trajectory_mean", "token_mean", "dr_grpo"]
KL = ("trajectory_mean", "token_mean", "choice", *(name for letter, name in ROLES.items() if letter in SAMPLED - {"x"}))
"""What the KL is averaged over: trajectories' means, all tokens, those where the reference left a choice, those of a role."""
Anchor = Literal["start", "ema"]
"""What a policy is held close to: the one that the phase started from, or the moving average of its own weights."""


def k3_to(anchor: Anchor) -> str:
    """Names of KL figures say it all: estimator, direction (policy || reference), reference, and what is averaged over."""
    return f"kl_k3_policy_to_{anchor}"


K3 = k3_to("start")
CHOICE = 0.99
"""A token where the reference gives one token more than this leaves no choice: it is fixed syntax."""

Told = dict[str, tuple[float, float]]
"""Figures as (weighted sum, weight), so that those of several batches add up to means."""


def told_of(loss: str, anchor: Anchor = "start") -> tuple[str, ...]:
    """The figures of each loss; KL in nats per sampled token."""
    if loss == "imitation":
        return ("nll",)
    lessons = ("nll_exemplar", "nll_rehearsal") if loss == "ttrl" else ()
    return ("surrogate", "ratio_clipped", *(f"{k3_to(anchor)}_{over}" for over in KL), *lessons)


@dataclass(frozen=True, slots=True)
class RoleWeights:
    """What a token counts in imitation, by its role (paper 4.1)."""

    thought: float = 1.0
    op: float = 2.0
    argument: float = 2.0
    structure: float = 1.0
    answer: float = 1.0
    erroneous: float = 0.0

    def of(self, roles: Tensor) -> Tensor:
        """Weights float32 [N] of roles uint8 [N], letters of `memory.trajectory.ROLES`.

        Example:
            >>> RoleWeights().of(torch.frombuffer(bytearray(b"tox"), dtype=torch.uint8)).tolist()
            [1.0, 2.0, 0.0]
        """
        table = torch.zeros(128, device=roles.device)
        letters = {name: ord(letter) for letter, name in ROLES.items()}
        for field in fields(self):
            table[letters[field.name]] = getattr(self, field.name)
        return table[roles.long()]


@dataclass(frozen=True, slots=True)
class GrpoSettings:
    """Settings of `grpo`."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    """Above `clip_low`: what is rare may grow (DAPO's clip-higher)."""
    form: Form = "trajectory_mean"
    """Every trajectory counts the same (paper 5.7), or every token (DAPO), or every token, divided by a constant, with
    advantages that are not divided by the group's deviation (Dr. GRPO)."""
    budget: int = 128
    """The constant of `dr_grpo`: tokens of a trajectory."""
    beta: float = 0.02
    """Weight of the KL to the reference policy, at first."""
    refill: int = 4
    """A group without contrast is replaced by one that had some up to this many updates ago, each once; 0: by none."""
    truncate: float = 0.0
    """For rollouts by older weights: importance weights are cut off here and nothing is clipped; 0: the paper's clipping."""


def imitation(logprobs: Tensor, weights: Tensor) -> tuple[Tensor, Told]:
    """Weighted masked negative log-likelihood (paper 4.1), normalised by the total weight.

    logprobs: [N] of the demonstrated tokens; weights: [N], 0 leaves a token out.

    Example:
        >>> float(imitation(torch.tensor([-1.0, -0.5]), torch.tensor([1.0, 2.0]))[0])
        0.6666666865348816
    """
    total = weights.sum()
    loss = -(weights * logprobs).sum() / total.clamp(min=1e-8)
    return loss, {"nll": _told(-logprobs, weights)}


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token: r - 1 - log r, r = reference / policy. Never negative."""
    log_ratio = reference - logprobs
    return log_ratio.exp() - 1 - log_ratio


@dataclass(frozen=True, slots=True)
class Sampled:
    """What `grpo` is told of the N sampled tokens besides their log-probs now; all [N]."""

    old: Tensor
    """Log-probs at sampling time."""
    advantages: Tensor
    """Of each token's trajectory."""
    reference: Tensor
    """Log-probs under the reference."""
    choice: Tensor
    """bool: whether the reference left a choice."""
    row: Tensor
    """int64: which trajectory each token is of."""
    roles: Tensor
    """uint8, letters of `memory.trajectory.ROLES`."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """What `ttrl` is told of the N sampled tokens of its batch besides; all [N].

    Shares are of the whole batch, so that the losses of its parts add up.
    """

    acted: Tensor
    """What a token counts in the policy gradient and the KL; 0 where the policy of now has not sampled it."""
    exemplar: Tensor
    """What it counts in the likelihood of exemplars."""
    rehearsal: Tensor
    """What it counts in that of labelled demonstrations."""


def grpo(logprobs: Tensor, of: Sampled, settings: GrpoSettings, beta: float) -> tuple[Tensor, Told]:
    """Clipped token policy gradient with `beta` times a KL to the reference (paper 5.7), the weighted mean over tokens."""
    every, each = torch.ones_like(logprobs), (1 / torch.bincount(of.row))[of.row]
    weights = each if settings.form == "trajectory_mean" else every
    share = weights / weights.sum()
    gains, kl, figures = _surrogate(logprobs, of, settings, "start")
    return -(share * gains).sum() + beta * (share * kl).sum(), figures


def ttrl(
    logprobs: Tensor, of: Sampled, lessons: Lessons, settings: GrpoSettings, beta: float, anchor: Anchor, gradient: float = 1.0
) -> tuple[Tensor, Told]:
    """`gradient` times the clipped policy gradient of rollouts, `beta` times their KL to the reference, and the likelihood of
    what is imitated (paper 6.6).

    logprobs: [N] of all sampled tokens of a part of the batch; `of` is told of those alone that `lessons.acted` counts.
    """
    acted = lessons.acted > 0  # chosen, not multiplied by 0: what another policy sampled may have a ratio beyond all numbers
    share = lessons.acted[acted]
    gains, kl, figures = _surrogate(logprobs[acted], of, settings, anchor)
    imitated = lessons.exemplar + lessons.rehearsal
    loss = -gradient * (share * gains).sum() - (imitated * logprobs).sum()
    if beta:  # where it weighs nothing it may be beyond all numbers
        loss = loss + beta * (share * kl).sum()
    told = {"nll_exemplar": _told(-logprobs, lessons.exemplar), "nll_rehearsal": _told(-logprobs, lessons.rehearsal)}
    return loss, {**figures, **told}


def _surrogate(logprobs: Tensor, of: Sampled, settings: GrpoSettings, anchor: Anchor) -> tuple[Tensor, Tensor, Told]:
    """Of each token what the clipped policy gradient wants to be large, and the KL to the reference; with their figures."""
    every, each = torch.ones_like(logprobs), (1 / torch.bincount(of.row))[of.row]
    weights = each if settings.form == "trajectory_mean" else every
    ratio = (logprobs - of.old).exp()
    if settings.truncate:  # one update a batch: the policy that the clipping would hold close is the one that is here now
        clipped = ratio.detach().clamp(max=settings.truncate)
        gains = clipped * of.advantages * (logprobs - logprobs.detach()).exp()
    else:
        clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
        gains = torch.minimum(ratio * of.advantages, clipped * of.advantages)
    kl = k3(logprobs, of.reference)
    if anchor == "ema":  # the reference has sampled: without importance weights k3 would estimate another KL
        kl = ratio.detach() * kl
    over = {"trajectory_mean": each, "token_mean": every, "choice": of.choice.float()}
    over |= {name: (of.roles == ord(letter)).float() for letter, name in ROLES.items() if name in KL}
    figures = {f"{k3_to(anchor)}_{name}": _told(kl, weight) for name, weight in over.items()}
    figures |= {"surrogate": _told(gains, weights), "ratio_clipped": _told((ratio != clipped).float(), every)}
    return gains, kl, figures


def _told(values: Tensor, weights: Tensor) -> tuple[float, float]:
    return float((values.detach() * weights).sum()), float(weights.sum())
