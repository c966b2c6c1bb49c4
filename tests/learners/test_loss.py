"""Golden values of the losses (paper, section 15)."""

import numpy as np
import pytest
import torch

from pixelis.learners.advantage import normalised
from pixelis.learners.loss import GrpoSettings, grpo, imitation, k3


def test_weighted_imitation() -> None:
    logprobs = torch.tensor([-1.0, -0.5])
    assert float(imitation(logprobs, torch.tensor([1.0, 2.0]))[0]) == pytest.approx(2 / 3)
    assert float(imitation(logprobs, torch.tensor([1.0, 0.0]))[0]) == pytest.approx(1.0)


def test_group_advantages() -> None:
    got = normalised(np.array([1.0, 0, 0, 1, 1, 0, 0, 0]))
    assert got == pytest.approx([1.2910, -0.7746, -0.7746, 1.2910, 1.2910, -0.7746, -0.7746, -0.7746], abs=1e-4)
    assert normalised(np.full(8, 0.3)).tolist() == [0.0] * 8


@pytest.mark.parametrize(("log_ratio", "value"), [(0.1, 0.00517), (-0.1, 0.00484), (0.5, 0.14872)])
def test_k3(log_ratio: float, value: float) -> None:
    assert float(k3(torch.zeros(1), torch.tensor([log_ratio]))) == pytest.approx(value, abs=1e-5)


def test_grpo_stops_pushing_outside_the_clip() -> None:
    """A token whose ratio has left the trust region on the good side carries no gradient; inside it does."""
    old, same = torch.zeros(2), torch.zeros(2)
    now = torch.tensor([0.5, 0.1], requires_grad=True)
    loss, told = grpo(now, old, torch.ones(2), now.detach() + same, torch.ones(2), GrpoSettings(beta=0.0))
    loss.backward()
    assert now.grad is not None
    assert now.grad[0] == 0 and now.grad[1] < 0
    assert told["ratio_clipped"] == 0.5


def test_grpo_counts_every_trajectory_the_same() -> None:
    """Paper 5.7: a mean over trajectories of means over tokens, so that a long chain does not outweigh a short one."""
    long, short = torch.full((6,), -1.0), torch.full((2,), -2.0)
    now, weights = torch.cat([long, short]).requires_grad_(), torch.cat([torch.full((6,), 1 / 6), torch.full((2,), 1 / 2)])
    credit = torch.cat([torch.ones(6), -torch.ones(2)])
    loss, _ = grpo(now, now.detach(), credit, now.detach(), weights, GrpoSettings())
    loss.backward()
    assert now.grad is not None
    assert float(now.grad[:6].sum()) == pytest.approx(-0.5) and float(now.grad[6:].sum()) == pytest.approx(0.5)


def test_truncated_weights_are_those_of_importance_sampling_up_to_the_cut() -> None:
    """The gradient is min(ratio, cut) x advantage a token, on either side of zero: on-policy it is the clipped loss's."""
    old = torch.zeros(4)
    credit = torch.tensor([1.0, -1.0, 1.0, -1.0])
    now = torch.tensor([0.5, -0.5, 2.0, 2.0], requires_grad=True)
    settings = GrpoSettings(beta=0.0, truncate=2.0)
    grpo(now, old, credit, now.detach(), torch.ones(4), settings)[0].backward()
    weights = torch.tensor([0.5, -0.5, 2.0, 2.0]).exp().clamp(max=2.0)
    torch.testing.assert_close(now.grad, -weights * credit / 4)
    gradients = []
    for some in (settings, GrpoSettings(beta=0.0)):
        here = torch.zeros(4, requires_grad=True)
        grpo(here, old, credit, old, torch.ones(4), some)[0].backward()
        gradients.append(here.grad)
    torch.testing.assert_close(*gradients)
