"""The configs of the 8B on a real Ray, with a Qwen3-VL of toy width in its place."""

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
SMALL = [
    "learner.gpus=0", "rollout.gpus=0", "tools.where=here", "tracking=''", "eval.n=1", "tasks.families=['code']",
    "learner.lora={rank=8, alpha=16}", "learner.warmup=1", "learner.decay=0",
]  # fmt: skip
IMITATE = [
    "card={system='Look.', image_area=9216, max_scale=0.4}", "tasks.scenes={code=4}", "rollout.groups=4", "stop.steps=80",
    "replay.steps_per_call=40", "replay.mixture=[{batch={code=4}}]", "learner.lr=1e-2", "save_every=80",
]  # fmt: skip
"""Long enough for calls that rollouts differ in: without contrast nothing would be learned from them."""
ACT = ["start=''", "rollout.groups=6", "rollout.group=4", "rollout.limits.turn_tokens=56", "stop.steps=2", "learner.lr=1e-3"]


def steps(run: Path, phase: str) -> int:
    """Optimizer steps that learned from something."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return sum(line["phase"] == phase and line.get("skipped") == 0 for line in lines)


def test_sft_and_rft_train_adapters_and_leave_whole_policies(workplace: Path) -> None:
    start = shapes.build("toy", torch.bfloat16, seed=1)
    with torch.no_grad():
        start.net.lm_head.weight.mul_(20)  # frozen, and at first too small to prefer one token to another
    start.save(workplace / "published")
    (workplace / "published" / "policy.json").unlink()
    sft = load("sft_8b", [f"start={workplace / 'published'}", *SMALL, *IMITATE])
    run = train_all([sft, load("rft_8b", [*SMALL, *ACT])])
    for phase, base in (("sft", workplace / "published"), ("rft", run.resolve() / "policy" / "sft")):
        assert steps(run, phase) > 0
        newest = latest(run / "checkpoints" / phase)
        assert newest is not None
        found = load_checkpoint(newest)
        assert found.state["base"] == str(base)
        assert {"lora_" in name for name in found.tensors["model"]} == {True}
        assert {t.dtype for part in ("model", "optimizer") for t in found.tensors[part].values()} == {torch.float32}
        before, after = open_policy(base), open_policy(run / "policy" / phase)
        assert after.net.dtype == torch.bfloat16 and after.card == sft.card
        moved = [n for (n, a), b in zip(before.net.named_parameters(), after.net.parameters(), strict=True) if not a.equal(b)]
        assert len(moved) > 10
        whole, saved = open_policy(newest).net.state_dict(), after.net.state_dict()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in whole.items())
    export(run, workplace / "adapter", adapter=True)
    assert (workplace / "adapter" / "adapter_model.safetensors").is_file()
