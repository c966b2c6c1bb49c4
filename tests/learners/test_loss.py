"""Golden values of the losses (paper, section 15)."""

import numpy as np
import pytest
import torch

from pixelis.learners.advantage import normalised
from pixelis.learners.loss import K3, GrpoSettings, Lessons, RoleWeights, Sampled, grpo, imitation, k3, k3_to, told_of, ttrl


def sampled(now: torch.Tensor, rows: list[int] | None = None, **changes: torch.Tensor) -> Sampled:
    """Tokens of one trajectory each (or of those in `rows`), as they were sampled and as the reference has them."""
    here, row = now.detach(), torch.tensor(rows or list(range(len(now))))
    told = {
        "old": here, "advantages": torch.ones_like(here), "reference": here, "choice": torch.ones_like(here) > 0, "row": row,
        "roles": torch.full_like(row, ord("t"), dtype=torch.uint8),
    }  # fmt: skip
    return Sampled(**(told | changes))


def test_weighted_imitation() -> None:
    logprobs = torch.tensor([-1.0, -0.5])
    assert float(imitation(logprobs, torch.tensor([1.0, 2.0]))[0]) == pytest.approx(2 / 3)
    assert float(imitation(logprobs, torch.tensor([1.0, 0.0]))[0]) == pytest.approx(1.0)


def test_group_advantages() -> None:
    got = normalised(np.array([1.0, 0, 0, 1, 1, 0, 0, 0]))
    assert got == pytest.approx([1.2910, -0.7746, -0.7746, 1.2910, 1.2910, -0.7746, -0.7746, -0.7746], abs=1e-4)
    assert normalised(np.full(8, 0.3)).tolist() == [0.0] * 8
    assert normalised(np.array([1.0, 0, 0, 0]), divide=False).tolist() == [0.75, -0.25, -0.25, -0.25]  # Dr. GRPO


@pytest.mark.parametrize(("log_ratio", "value"), [(0.1, 0.00517), (-0.1, 0.00484), (0.5, 0.14872)])
def test_k3(log_ratio: float, value: float) -> None:
    assert float(k3(torch.zeros(1), torch.tensor([log_ratio]))) == pytest.approx(value, abs=1e-5)


def test_grpo_stops_pushing_outside_the_clip() -> None:
    """A token whose ratio has left the trust region on the good side carries no gradient; inside it does."""
    now = torch.tensor([0.5, 0.1], requires_grad=True)
    loss, told = grpo(now, sampled(now, old=torch.zeros(2)), GrpoSettings(), beta=0.0)
    loss.backward()
    assert now.grad is not None
    assert now.grad[0] == 0 and now.grad[1] < 0
    assert told["ratio_clipped"] == (1.0, 2.0)


def test_what_is_rare_may_grow_further_than_it_may_shrink() -> None:
    now = torch.tensor([0.23, -0.25], requires_grad=True)  # ratios 1.26 and 0.78
    loss, _ = grpo(now, sampled(now, old=torch.zeros(2), advantages=torch.tensor([1.0, -1.0])), GrpoSettings(), beta=0.0)
    loss.backward()
    assert now.grad is not None
    assert now.grad[0] < 0 and now.grad[1] == 0


@pytest.mark.parametrize(("form", "shares"), [("trajectory_mean", (1 / 2, 1 / 2)), ("token_mean", (6 / 8, 2 / 8))])
def test_forms_differ_in_what_a_long_chain_counts(form: str, shares: tuple[float, float]) -> None:
    """Paper 5.7: a mean over trajectories of means over tokens, so that a long chain does not outweigh a short one; or not."""
    now = torch.cat([torch.full((6,), -1.0), torch.full((2,), -2.0)]).requires_grad_()
    credit = torch.cat([torch.ones(6), -torch.ones(2)])
    loss, _ = grpo(now, sampled(now, [0] * 6 + [1] * 2, advantages=credit), GrpoSettings(form=form), beta=0.0)  # type: ignore[arg-type]
    loss.backward()
    assert now.grad is not None
    assert (float(-now.grad[:6].sum()), float(now.grad[6:].sum())) == pytest.approx(shares)


def test_the_kl_of_what_the_average_has_sampled_is_that_of_the_policy_too() -> None:
    """Its importance weights make it an estimate of KL(policy || average), whichever of the two has sampled."""
    torch.manual_seed(0)
    policy, reference = (torch.randn(5).log_softmax(0) for _ in range(2))
    exact = float((policy.exp() * (policy - reference)).sum())
    for sampler in (policy, reference):
        tokens = torch.multinomial(sampler.exp(), 40_000, replacement=True)
        given = sampled(policy[tokens], old=sampler[tokens], reference=reference[tokens])
        share = torch.full((len(tokens),), 1 / len(tokens))
        _, told = ttrl(policy[tokens], given, Lessons(share, 0 * share, 0 * share), GrpoSettings(), 0.0, "ema")
        value, weight = told[f"{k3_to('ema')}_token_mean"]
        assert value / weight == pytest.approx(exact, rel=0.05)


def test_the_kl_is_told_for_each_role_and_where_there_was_a_choice() -> None:
    now = torch.zeros(4)
    apart = torch.tensor([0.5, 0.1, 0.0, 0.0])
    roles = torch.tensor([ord(c) for c in "ogsa"], dtype=torch.uint8)
    choice = torch.tensor([True, True, False, False])
    _, told = grpo(now, sampled(now, [0] * 4, reference=apart, roles=roles, choice=choice), GrpoSettings(), beta=0.0)
    kl = {name.removeprefix(f"{K3}_"): value / weight for name, (value, weight) in told.items() if "kl" in name and weight}
    assert kl["op"] == pytest.approx(0.14872, abs=1e-5) and kl["argument"] == pytest.approx(0.00517, abs=1e-5)
    assert kl["structure"] == kl["answer"] == 0 and "thought" not in kl
    assert kl["choice"] == pytest.approx(2 * kl["token_mean"])


def test_roles_count_by_their_weights() -> None:
    letters = torch.tensor([ord(c) for c in "togsax"], dtype=torch.uint8)
    assert RoleWeights().of(letters).tolist() == [1, 2, 2, 1, 1, 0]


def test_truncated_weights_are_those_of_importance_sampling_up_to_the_cut() -> None:
    """The gradient is min(ratio, cut) x advantage a token, on either side of zero: on-policy it is the clipped loss's."""
    old = torch.zeros(4)
    credit = torch.tensor([1.0, -1.0, 1.0, -1.0])
    now = torch.tensor([0.5, -0.5, 2.0, 2.0], requires_grad=True)
    settings = GrpoSettings(truncate=2.0)
    grpo(now, sampled(now, old=old, advantages=credit), settings, beta=0.0)[0].backward()
    weights = torch.tensor([0.5, -0.5, 2.0, 2.0]).exp().clamp(max=2.0)
    torch.testing.assert_close(now.grad, -weights * credit / 4)
    gradients = []
    for some in (settings, GrpoSettings()):
        here = torch.zeros(4, requires_grad=True)
        grpo(here, sampled(here, old=old, advantages=credit), some, beta=0.0)[0].backward()
        gradients.append(here.grad)
    torch.testing.assert_close(*gradients)


def test_ttrl_of_rollouts_alone_is_grpo_to_the_average_and_of_demonstrations_alone_imitation() -> None:
    """Paper 6.6: the parts of its loss are those of the other phases, and they add up."""
    now, row = torch.tensor([-1.0, -0.5, -2.0, -0.25, -1.5], requires_grad=True), [0, 0, 0, 1, 1]
    told = sampled(now.detach(), row, advantages=torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0]), reference=torch.full((5,), -1.0))
    none, even = torch.zeros(5), torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 4, 1 / 4])
    acted, figures = ttrl(now, told, Lessons(even, none, none), GrpoSettings(), 0.1, "ema")
    expected, others = grpo(now, told, GrpoSettings(), 0.1)
    torch.testing.assert_close(acted, expected)
    assert {name.replace("_to_ema_", "_to_start_"): pair for name, pair in figures.items() if "nll" not in name} == others
    assert set(figures) == set(told_of("ttrl", "ema"))
    shown = torch.tensor([0.25, 0.5, 0.0, 0.0, 0.25])
    empty = Sampled(*(getattr(told, name)[:0] for name in ("old", "advantages", "reference", "choice", "row", "roles")))
    imitated, figures = ttrl(now, empty, Lessons(none, shown / 2, shown / 2), GrpoSettings(), 0.1, "ema")
    torch.testing.assert_close(imitated, imitation(now, shown)[0])
    assert figures["nll_exemplar"] == figures["nll_rehearsal"] == pytest.approx((float(imitated.detach()) / 2, 0.5))
    both, _ = ttrl(now, told, Lessons(even, shown, none), GrpoSettings(), 0.1, "ema")
    torch.testing.assert_close(both, acted + imitated)
    exemplars, _ = ttrl(now, told, Lessons(even, shown, none), GrpoSettings(), 0.0, "ema", gradient=0.0)
    torch.testing.assert_close(exemplars, imitated)


def test_what_another_policy_sampled_carries_no_ratio_however_unlikely_it_is() -> None:
    now = torch.tensor([-1.0, -200.0], requires_grad=True)
    of = sampled(now.detach()[:1], [0], old=torch.tensor([-1.0]), advantages=torch.ones(1), reference=torch.tensor([-1.0]))
    shares = Lessons(torch.tensor([1.0, 0.0]), torch.zeros(2), torch.tensor([0.0, 0.5]))
    loss, told = ttrl(now, of, shares, GrpoSettings(), 0.1, "ema")
    loss.backward()
    assert now.grad is not None and now.grad.tolist() == [-1.0, -0.5]
    assert told[f"{k3_to('ema')}_token_mean"] == (0.0, 1.0)
