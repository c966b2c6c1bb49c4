"""Both phases on a real Ray with adapters beside a Qwen3-VL of toy width. Nothing is learned here."""

import json
from pathlib import Path

import pytest
import torch

from bench import shapes
from pixelis.cluster.config import load
from pixelis.cluster.policy import export, open_policy
from pixelis.cluster.run import train_all
from pixelis.memory.checkpoint import latest
from pixelis.memory.checkpoint import load as load_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ADAPTED = [
    "eval.n=1", "tasks.families=['code']", "learner.lora={rank=8, alpha=16}", "learner.dtype=bfloat16",
    "learner.checkpointing=true", "learner.pack=true",
]  # fmt: skip
IMITATE = [
    "stop.steps=80", "replay.steps_per_call=40", "replay.mixture=[{batch={code=4}}]", "learner.lr=1e-2",
    "tasks.scenes={code=4}", "rollout.groups=4", "save_every=80",
]  # fmt: skip
"""Long enough for calls that rollouts differ in: without contrast nothing would be learned from them."""


def steps(run: Path, phase: str) -> int:
    """Optimizer steps that learned from something."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return sum(line["phase"] == phase and line.get("skipped") == 0 for line in lines)


def test_sft_and_rft_train_adapters_and_leave_whole_policies(workplace: Path) -> None:
    start = shapes.build("toy", torch.bfloat16, seed=1)
    with torch.no_grad():
        start.net.lm_head.weight.mul_(20)  # frozen, and at first too small to prefer one token to another
    start.save(workplace / "toy")
    sft = load("tiny_sft", [f"start={workplace / 'toy'}", *ADAPTED, *IMITATE])
    run = train_all([sft, load("tiny_rft", ["start=''", "learner.lr=1e-3", "rollout.groups=6", *ADAPTED])])
    for phase, base in (("sft", workplace / "toy"), ("rft", run.resolve() / "policy" / "sft")):
        assert steps(run, phase) > 0
        newest = latest(run / "checkpoints" / phase)
        assert newest is not None
        found = load_checkpoint(newest)
        assert found.state["base"] == str(base)
        assert {"lora_" in name for name in found.tensors["model"]} == {True}
        before, after = open_policy(base), open_policy(run / "policy" / phase)
        assert after.net.dtype == torch.bfloat16
        moved = [n for (n, a), b in zip(before.net.named_parameters(), after.net.parameters(), strict=True) if not a.equal(b)]
        assert len(moved) > 10
        whole, saved = open_policy(newest).net.state_dict(), after.net.state_dict()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in whole.items())
    export(run, workplace / "adapter", adapter=True)
    assert (workplace / "adapter" / "adapter_model.safetensors").is_file()
