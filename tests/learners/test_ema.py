"""The average of the weights: closed form, precision, checkpoints, and how far it may look back."""

import pytest
import torch
from torch import Tensor

from pixelis.learners.ema import Ema, EmaSettings


def weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(4, 3, generator=draw).to(dtype), "b": torch.randn(2, generator=draw).to(dtype)}


def averaged(updates: int, settings: EmaSettings, dtype: torch.dtype = torch.float32) -> Ema:
    ema = Ema(weights(0, dtype), settings)
    for n in range(1, updates + 1):
        ema.update(weights(n, dtype))
    return ema


def test_it_is_the_geometric_average() -> None:
    keep, n = 0.9, 12
    expected = keep**n * weights(0)["a"].double()
    expected += sum((1 - keep) * keep ** (n - k) * weights(k)["a"].double() for k in range(1, n + 1))
    ema = averaged(n, EmaSettings(keep))
    assert torch.allclose(ema.weights["a"].double(), expected, atol=1e-6) and ema.updates == n


def test_it_is_a_copy_and_takes_nothing_from_the_weights_but_their_values() -> None:
    given = {"w": torch.nn.Parameter(torch.ones(3))}
    ema = Ema(given, EmaSettings(0.5))
    with torch.no_grad():
        given["w"].zero_()
    assert ema.weights["w"].tolist() == [1, 1, 1] and not ema.weights["w"].requires_grad
    ema.update(given)
    assert ema.weights["w"].tolist() == [0.5] * 3 and given["w"].tolist() == [0, 0, 0]


def test_half_of_the_way_is_gone_after_the_half_life() -> None:
    settings = EmaSettings(0.5 ** (1 / 40))
    ema = Ema({"w": torch.zeros(1)}, settings)
    for _ in range(40):
        ema.update({"w": torch.ones(1)})
    assert settings.half_life == pytest.approx(40) and float(ema.weights["w"]) == pytest.approx(0.5, abs=1e-5)


def test_small_steps_of_bfloat16_weights_are_not_lost() -> None:
    ema = Ema({"w": torch.ones(1, dtype=torch.bfloat16)}, EmaSettings(0.999))
    for _ in range(1000):
        ema.update({"w": torch.full((1,), 1.0078125, dtype=torch.bfloat16)})
    assert float(ema.weights["w"]) == pytest.approx(1 + 0.0078125 * (1 - 0.999**1000), abs=1e-5)


def test_restored_it_goes_on_to_the_bit() -> None:
    straight = averaged(8, EmaSettings())
    tensors, updates = averaged(5, EmaSettings()).state()
    resumed = Ema(weights(99), EmaSettings())
    resumed.restore(tensors, updates)
    for n in range(6, 9):
        resumed.update(weights(n))
    assert resumed.updates == straight.updates
    assert all(torch.equal(resumed.weights[name], straight.weights[name]) for name in straight.weights)
    assert torch.equal(tensors["a"], averaged(5, EmaSettings()).weights["a"]), "what was saved stays as it was"


@pytest.mark.parametrize("other", [{"a": (4, 3)}, {"a": (4, 3), "b": (3,)}, {"c": (1,)}])
def test_other_weights_are_refused_before_anything_changes(other: dict[str, tuple[int, ...]]) -> None:
    ema = averaged(3, EmaSettings())
    before, _ = ema.state()
    for call in (ema.update, lambda w: ema.restore(w, 0)):
        with pytest.raises(ValueError, match="not the weights that are averaged"):
            call({name: torch.zeros(shape) for name, shape in other.items()})
    assert all(torch.equal(before[name], ema.weights[name]) for name in before) and ema.updates == 3


def test_it_looks_back_over_a_fifth_of_the_run_at_most() -> None:
    EmaSettings(0.98).check(300)
    EmaSettings(1 - 1 / 60).check(300)
    with pytest.raises(ValueError, match=r"looks back 1000 updates, more than a fifth of 300: it must be at most 0\.9833"):
        EmaSettings(0.999).check(300)
    EmaSettings(0.9833).check(300)
    with pytest.raises(ValueError, match="no value is low enough"):
        EmaSettings(0.5).check(5)
    for keep in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="keep"):
            EmaSettings(keep)
