"""Ranks that share a batch: together they make the step that one alone would make, and stay equal to the bit."""

import multiprocessing as mp
import socket
from pathlib import Path

import pytest
import torch

from pixelis.actors import nano
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.learners.ranks import Ranks
from pixelis.memory.model import Model
from pixelis.memory.trajectory import Group
from pixelis.tools.media import MediaStore
from tests.learners.test_learner import episode, state

ALL = {"lr": 1e-3, "matrix_lr": 1e-2, "warmup": 1, "micro_tokens": 150}


def step(groups: int, ranks: Ranks) -> tuple[Model, dict[str, float]]:
    """One step of the nano policy on some demonstrations of unequal length."""
    torch.set_num_threads(1)
    model, store = nano.build(seed=1), MediaStore(None)
    learner = Learner(model, store, LearnerSettings(**ALL))  # type: ignore[arg-type]
    learner.ranks = ranks
    batch = [Group("t", (episode(model, store, i, "K7PQX"[: i + 1]),)) for i in range(groups)]
    return model, learner.update(batch)


def rank_of_two(rank: int, address: str, groups: int, out: Path) -> None:
    model, figures = step(groups, Ranks.join(rank, 2, address, 60.0))
    torch.save({"weights": state(model), "gradients": gradients(model), "figures": figures}, out / f"{rank}.pt")


def gradients(model: Model) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.net.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("groups", [5, 1])
def test_two_ranks_make_the_step_of_one(groups: int, tmp_path: Path) -> None:
    """Also when there is less to share than there are ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    context = mp.get_context("spawn")
    both = [context.Process(target=rank_of_two, args=(rank, address, groups, tmp_path)) for rank in range(2)]
    for process in both:
        process.start()
    model, figures = step(groups, Ranks())
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    assert first["figures"] == second["figures"] == pytest.approx(figures, rel=1e-4)
    for name, gradient in gradients(model).items():  # Adam would turn the rounding of a tiny one into a whole step
        torch.testing.assert_close(gradient, first["gradients"][name], rtol=1e-3, atol=1e-6)


def test_parts_cover_the_batch_once() -> None:
    items = list(range(7))
    assert sorted(item for rank in range(3) for item in Ranks(rank, 3).mine(items)) == items
