"""Ranks that share a batch: together they make the step that one alone would make, and stay equal to the bit."""

import multiprocessing as mp
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from pixelis.actors import nano
from pixelis.learners.corridor import CorridorSettings
from pixelis.learners.ema import EmaSettings
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.learners.ranks import Ranks, is_sharded, whole
from pixelis.learners.ttrl import TtrlSettings
from pixelis.memory.lora import LoraSettings
from pixelis.memory.model import Model
from pixelis.memory.trajectory import Group
from pixelis.memory.weights import unflatten
from pixelis.tools.media import MediaStore
from tests.learners.questions import asked
from tests.learners.test_heads import CALLS, PAPER, demonstration
from tests.learners.test_learner import episode, honest

ALL = {"lr": 1e-3, "warmup": 1, "micro_tokens": 150}
MUON = {**ALL, "matrix_lr": 1e-2}
GRPO = {**ALL, "loss": "grpo"}
LORA = LoraSettings(rank=4)
TTRL = {**ALL, "loss": "ttrl", "corridor": CorridorSettings(high=10.0), "ttrl": TtrlSettings(ema=EmaSettings(0.5))}
HEADS = {**MUON, "heads": PAPER}
CASES: dict[str, tuple[dict, int]] = {
    "imitation": (ALL, 5), "muon": (MUON, 5), "grpo": (GRPO, 5), "one group": (GRPO, 1), "sharded": ({**ALL, "shard": True}, 5),
    "sharded muon": ({**MUON, "shard": True}, 5), "sharded, one group": ({**GRPO, "shard": True}, 1),
    "muon, heads": (HEADS, 5), "sharded muon, heads": ({**HEADS, "shard": True}, 5),
    "lora": ({**GRPO, "lora": LORA}, 5), "sharded lora": ({**GRPO, "lora": LORA, "shard": True}, 5),
    "ttrl": (TTRL, 3), "sharded ttrl": ({**TTRL, "shard": True}, 3),
}  # fmt: skip
"""Settings of the learner, and groups in the batch: of one group a rank has a single trajectory."""


def step(settings: dict, groups: int, ranks: Ranks) -> tuple[Learner, dict[str, float]]:
    """One step of the nano policy on groups of two episodes of unequal length, one of them rewarded."""
    torch.set_num_threads(1)
    model, store = nano.build(seed=1), MediaStore(None)
    learner = Learner(model, store, LearnerSettings(**settings))
    learner.join(ranks)
    if learner.ttrl:
        return learner, learner.update([asked(model, store, i) for i in range(groups)])
    told = [honest(model, store, episode(model, store, i, "K7PQXAB3C5"[: i + 1])) for i in range(2 * groups)]
    if learner.heads.weights:  # the later ones have no call
        told = [demonstration(model, store, i, CALLS[i:]) for i in range(2 * groups)]
    scored = [replace(t, rewards={"answer": float(i % 2)}) for i, t in enumerate(told)]
    return learner, learner.update([Group("t", tuple(scored[2 * i : 2 * i + 2])) for i in range(groups)])


def rank_of_two(rank: int, address: str, out: Path) -> None:
    """One step of every case by one of two processes, and what it tells of them."""
    ranks = Ranks.join(rank, 2, address, 120.0)
    for name, (settings, groups) in CASES.items():
        learner, figures = step(settings, groups, ranks)
        told = {"weights": weights(learner), "gradients": gradients(learner), "figures": figures, "state": learner.state()}
        torch.save(told | {"array": learner.flat().array().copy()}, out / f"{name}-{rank}.pt")
        learner.save(out / name)
        halves = [p for p in learner.parameters if isinstance(p, DTensor) and 2 * p.to_local().numel() <= p.numel() + 1]
        assert bool(halves) == settings.get("shard", False)  # a rank holds half of every layer
        if halves and learner.reference:  # and of the reference's, which goes forward only
            assert all(map(is_sharded, learner.reference.model.net.model.language_model.layers.parameters()))


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.weights().items()}


def gradients(learner: Learner) -> dict[str, torch.Tensor]:
    named = [*learner.model.net.named_parameters(), *learner.heads.named_parameters()]
    return {name: whole(p.grad) for name, p in named if p.grad is not None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both processes told, and the policies that they saved."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    context = mp.get_context("spawn")
    both = [context.Process(target=rank_of_two, args=(rank, address, out)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
        assert process.exitcode == 0
    return out


def told(folder: Path, case: str) -> list[dict]:
    return [torch.load(folder / f"{case}-{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_make_the_step_of_one(case: str, folder: Path) -> None:
    """Imitation, GRPO and TTRL, whole and sharded."""
    settings, groups = CASES[case]
    first, second = told(folder, case)
    learner, figures = step(settings, groups, Ranks())
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    kept = [one["state"][0].get("heads", {}) for one in (first, second)]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0]) and bool(kept[0]) == ("heads" in case)
    assert first["figures"] == second["figures"] == pytest.approx(figures, rel=1e-4, abs=1e-6)  # rewards of a group cancel
    alone = weights(learner)
    assert first["weights"].keys() == alone.keys()
    for name, gradient in gradients(learner).items():
        torch.testing.assert_close(gradient, first["gradients"][name], rtol=1e-3, atol=1e-6)
        if name in alone and "muon" not in case:  # it rounds to bfloat16
            apart = (alone[name] - first["weights"][name]).abs()
            assert (apart[gradient.abs() > 1e-5] < 1e-5).all()  # Adam makes a whole step of a rounding


@pytest.mark.slow
@pytest.mark.parametrize("case", ["ttrl", "sharded ttrl"])
def test_the_average_of_two_ranks_is_that_of_their_weights(case: str, folder: Path) -> None:
    """Half of what they were before the step and half of what they are after it, whole on both."""
    both, before = told(folder, case), dict(nano.build(seed=1).net.named_parameters())
    first, second = (one["state"][0]["ema"] for one in both)
    assert first.keys() == both[0]["weights"].keys()
    for name, average in first.items():
        assert torch.equal(average, second[name])
        torch.testing.assert_close(average, (before[name].detach() + both[0]["weights"][name]) / 2)
    assert any(not torch.equal(average, before[name]) for name, average in first.items())


@pytest.mark.slow
@pytest.mark.parametrize("case", ["imitation", "sharded"])
def test_what_leaves_the_ranks_is_whole(case: str, folder: Path) -> None:
    """The published array, the policy folder, and a state with which one rank alone goes on."""
    first, _ = told(folder, case)
    alone, _ = step(ALL, 5, Ranks())
    sent = unflatten(first["array"], alone.flat().plan)
    saved = dict(Model.load(folder / case).net.named_parameters())
    for name, tensor in first["weights"].items():
        assert torch.equal(sent[name], tensor) and torch.equal(saved[name], tensor)
    tensors, *rest = first["state"]
    alone.restore(tensors, *rest)
    again, *_ = alone.state()
    assert all(torch.equal(again[part][name], t) for part, named in tensors.items() for name, t in named.items())


def test_parts_cover_the_batch_once() -> None:
    items = list(range(7))
    assert sorted(item for rank in range(3) for item in Ranks(rank, 3).mine(items)) == items
