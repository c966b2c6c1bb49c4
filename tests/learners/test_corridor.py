"""The corridor: golden values (paper, section 15), and undoing to the bit."""

import pytest
import torch

from pixelis.learners.corridor import Corridor, CorridorSettings, Snapshot
from pixelis.learners.optimizer import make_optimizer


def steered(readings: list[float], beta: float = 0.02, window: int = 1) -> float:
    corridor = Corridor(CorridorSettings(low=0.1, high=0.2, window=window), beta)
    for kl in readings:
        corridor.read(kl)
    return corridor.beta / beta


@pytest.mark.parametrize(
    ("readings", "factor"),
    [([0.25] * 3, 1.5**3), ([0.15], 1.0), ([0.05], 1 / 1.5), ([0.25] * 100, 1 / 0.02), ([0.0] * 100, 1e-4 / 0.02)],
)
def test_the_weight_of_the_kl_is_steered_within_its_bounds(readings: list[float], factor: float) -> None:
    assert steered(readings) == pytest.approx(factor)


def test_what_is_acted_on_is_the_mean_of_a_window() -> None:
    assert steered([0.9, *[0.15] * 14], window=16) == 1.0
    assert steered([0.9, *[0.15] * 15], window=16) == 1.0  # their mean is 0.197
    assert steered([0.3] * 16, window=16) == steered([0.3] * 31, window=16) == pytest.approx(1.5)


def test_beyond_the_edge_is_half_as_far_again_and_what_is_no_number() -> None:
    corridor = Corridor(CorridorSettings(high=0.2), 0.02)
    assert not corridor.beyond(0.30) and corridor.beyond(0.31) and corridor.beyond(float("nan"))
    assert [corridor.attempt(n) for n in range(3)] == [(0.02, 1.0), (0.04, 0.5), (0.08, 0.25)]
    assert corridor.attempt(10)[0] == 1.0 and corridor.beta == 0.02


@pytest.mark.parametrize("matrix_lr", [0.0, 0.01])
def test_a_step_is_undone_to_the_bit_however_often(matrix_lr: float) -> None:
    """Weights, moments and step counts: what follows is what would have followed without the undone steps."""

    def run(undone: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 1))
        optimizer, _ = make_optimizer(net, 0.01, matrix_lr, (0.9, 0.98), 0.01)
        x = torch.randn(16, 8)
        for step in range(4):
            before = Snapshot(list(net.parameters()), optimizer)
            for attempt in range(undone + 1):
                optimizer.zero_grad()
                (net(x).square().mean() * (1 if attempt == undone else 50)).backward()
                optimizer.step()
                if attempt < undone:
                    before.undo()
            assert step >= 0
        return [p.detach().clone() for p in net.parameters()]

    for a, b in zip(run(0), run(3), strict=True):
        assert torch.equal(a, b)
