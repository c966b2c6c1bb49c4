"""Ranks that share a batch: together they make the step that one alone would make, and stay equal to the bit."""

import multiprocessing as mp
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pixelis.actors import nano
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.learners.ranks import Ranks
from pixelis.memory.model import Model
from pixelis.memory.trajectory import Group
from pixelis.tools.media import MediaStore
from tests.learners.test_learner import episode, honest, state

ALL = {"lr": 1e-3, "warmup": 1, "micro_tokens": 150}
MUON = {**ALL, "matrix_lr": 1e-2}
GRPO = {**ALL, "loss": "grpo"}


def step(settings: dict, groups: int, ranks: Ranks) -> tuple[Model, dict[str, float]]:
    """One step of the nano policy on groups of two episodes of unequal length, one of them rewarded."""
    torch.set_num_threads(1)
    model, store = nano.build(seed=1), MediaStore(None)
    learner = Learner(model, store, LearnerSettings(**settings))
    learner.ranks = ranks
    told = [honest(model, store, episode(model, store, i, "K7PQXAB3C5"[: i + 1])) for i in range(2 * groups)]
    scored = [replace(t, rewards={"answer": float(i % 2)}) for i, t in enumerate(told)]
    return model, learner.update([Group("t", tuple(scored[2 * i : 2 * i + 2])) for i in range(groups)])


def rank_of_two(rank: int, address: str, settings: dict, groups: int, out: Path) -> None:
    model, figures = step(settings, groups, Ranks.join(rank, 2, address, 60.0))
    torch.save({"weights": state(model), "gradients": gradients(model), "figures": figures}, out / f"{rank}.pt")


def gradients(model: Model) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.net.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "groups"), [(ALL, 5), (MUON, 5), (GRPO, 5), (GRPO, 1)])
def test_two_ranks_make_the_step_of_one(settings: dict, groups: int, tmp_path: Path) -> None:
    """Imitation and GRPO; also when a rank has a single trajectory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    context = mp.get_context("spawn")
    both = [context.Process(target=rank_of_two, args=(rank, address, settings, groups, tmp_path)) for rank in range(2)]
    for process in both:
        process.start()
    model, figures = step(settings, groups, Ranks())
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    assert first["figures"] == second["figures"] == pytest.approx(figures, rel=1e-4, abs=1e-6)  # rewards of a group cancel
    alone = state(model)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, first["gradients"][name], rtol=1e-3, atol=1e-6)
        if settings is not MUON:  # it rounds to bfloat16
            apart = (alone[name] - first["weights"][name]).abs()
            assert (apart[gradient.abs() > 1e-5] < 1e-5).all()  # Adam makes a whole step of a rounding


def test_parts_cover_the_batch_once() -> None:
    items = list(range(7))
    assert sorted(item for rank in range(3) for item in Ranks(rank, 3).mine(items)) == items
