"""Pure losses on tensors: each returns the loss and its figures.

All take the log-probs of sampled tokens only, so an observed token cannot carry a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOLD = {"imitation": ("nll",), "grpo": ("surrogate", "kl_k3_trajectory_mean", "ratio_clipped")}
"""The figures of each loss."""


@dataclass(frozen=True, slots=True)
class GrpoSettings:
    """Settings of `grpo`."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    beta: float = 0.02
    """Weight of the KL to the reference policy."""
    truncate: float = 0.0
    """For rollouts by older weights: importance weights are cut off here and nothing is clipped; 0: the paper's clipping."""


def imitation(logprobs: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Weighted masked negative log-likelihood (paper 4.1), normalised by the total weight.

    logprobs: [N] of the demonstrated tokens; weights: [N], 0 leaves a token out.

    Example:
        >>> float(imitation(torch.tensor([-1.0, -0.5]), torch.tensor([1.0, 2.0]))[0])
        0.6666666865348816
    """
    loss = -(weights * logprobs).sum() / weights.sum().clamp(min=1e-8)
    return loss, {"nll": float(loss.detach())}


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token: r - 1 - log r, r = reference / policy. Never negative."""
    log_ratio = reference - logprobs
    return log_ratio.exp() - 1 - log_ratio


def grpo(
    logprobs: Tensor, old: Tensor, advantages: Tensor, reference: Tensor, weights: Tensor, settings: GrpoSettings
) -> tuple[Tensor, dict[str, float]]:
    """Clipped token policy gradient with a KL to the reference (paper 5.7), the weighted mean over tokens.

    All [N]: log-probs now, at sampling time, the advantage of the token's trajectory, log-probs under the reference,
    and the weight of the token (paper 5.7: one over the length of its trajectory).
    """
    ratio = (logprobs - old).exp()
    share = weights / weights.sum()
    if settings.truncate:  # one update a batch: the policy that the clipping would hold close is the one that is here now
        clipped = ratio.detach().clamp(max=settings.truncate)
        surrogate = (share * clipped * advantages * (logprobs - logprobs.detach()).exp()).sum()
    else:
        clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
        surrogate = (share * torch.minimum(ratio * advantages, clipped * advantages)).sum()
    kl = (share * k3(logprobs, reference)).sum()
    loss = -surrogate + settings.beta * kl
    figures = {
        "surrogate": float(surrogate.detach()),
        "kl_k3_trajectory_mean": float(kl.detach()),
        "ratio_clipped": float((ratio != clipped).float().mean()),
    }
    return loss, figures
