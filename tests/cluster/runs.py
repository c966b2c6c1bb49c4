"""A run folder as `pixelis train` leaves it, made in seconds: the teacher's episodes stand for the policy's."""

import json
from dataclasses import replace
from pathlib import Path

from pixelis.actors import nano
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutSettings, RolloutWorker
from pixelis.actors.tasks import TaskSource
from pixelis.memory.codec import encode
from pixelis.memory.model import Model
from pixelis.memory.trajectory import Group, Trajectory
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox


def policy(folder: Path) -> Model:
    """An untrained nano policy, saved where a run keeps the one of a phase."""
    model = nano.build(0)
    model.save(folder)
    return model


def episodes(model: Model, store: MediaStore, count: int, split: str = "heldout") -> list[Trajectory]:
    """What the teacher recites of `count` scenes, half of each family, rewarded as right; captions are left out."""
    source = TaskSource(("code", "clip"), split, store)
    worker = RolloutWorker(source, Toolbox(store), Renderer(model), None, RolloutSettings(), 0)  # type: ignore[arg-type]
    told = [group.trajectories[0] for group in worker.recite(range(count))]
    return [replace(t, rewards={"answer": 1.0, "invalid": 0.0}) for t in told if not t.family.endswith("caption")]


def wrong(trajectory: Trajectory) -> Trajectory:
    """The same episode with another answer."""
    return replace(trajectory, answer="E4E", rewards={"answer": 0.0, "invalid": 0.0})


def make_run(root: Path, count: int = 8) -> list[Trajectory]:
    """A finished run with phases sft (every second answer wrong) and rft; returns the episodes of rft."""
    store = MediaStore(root / "media")
    told = episodes(policy(root / "policy" / "rft"), store, count)
    halved = [wrong(t) if i // 2 % 2 else t for i, t in enumerate(told)]
    for phase, some in (("sft", halved), ("rft", told)):
        (root / f"heldout-{phase}.arrow").write_bytes(encode([Group(t.task_id, (t,)) for t in some]))
        (root / f"config-{phase}.toml").write_text(f'name = "{root.name}"\nphase = "{phase}"\nseed = 0\n')
    (root / "summary.json").write_text(json.dumps(summary(root.name)))
    (root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics()))
    return told


def summary(name: str) -> dict:
    """summary.json with figures that are made up."""
    code = {"n": 1000, "success": 0.58, "valid": 0.97, "chain_length": 5.4, "rapr": 0.99, "visfid": 0.71}
    code |= {"racpr": 0.8, "hop_rate": 0.1, "redundancy": 0.2}
    clip = {**code, "success": 0.41, "chain_length": 5.9, "visfid": 0.63}
    better = {"success": 0.93, "valid": 0.995, "chain_length": 2.1}
    phase = {"steps": 1200, "version": [0, 1200], "infra": 0, "actors_died": 0, "wall_s": 412.0, "cpu_s": 790.5}
    load = {"load_start": {"load_1": 0.4, "cores": 2.0}, "load_end": {"load_1": 2.1, "cores": 2.0}}
    return {
        "run": name, "seed": 0, "versions": {"python": "3.11.7", "ray": "2.60.0", "pixelis": "0.1.0"},
        "phases": {
            "sft": {"heldout": {"all": code, "clip": clip, "code": code}, "heldout_infra": 0, **phase, **load},
            "rft": {"heldout": {k: {**code, **better} for k in ("all", "clip", "code")}, **phase, **load},
        },
    }  # fmt: skip


def metrics() -> list[dict]:
    """Lines of metrics.jsonl: rollout figures only at the end of a round, and one NaN written as null."""
    sft = [{"phase": "sft", "step": i, "nll": 3.0 / i, "grad_norm": None if i == 3 else 1.0} for i in range(1, 40)]
    rft = [
        {
            "phase": "rft", "step": i, "loss": -0.01 * i, "kl_k3_policy_to_start_token_mean": 0.002 * i,
            "reward": 0.5 + 0.01 * i, "answer": 0.5 + 0.01 * i, "valid": 0.96 + 0.001 * i,
            "chain_length": 5.5 - 0.1 * i, "seconds": 2.0,
        }
        for i in range(1, 30)
    ]  # fmt: skip
    return [*sft, {"phase": "sft", "step": 39, "dev/success": 0.55}, *rft]
