"""`pixelis demo`: the whole loop from nothing. Pre-train, SFT, RFT, TTRL under another light, report."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from pixelis.cluster.adapt import Stream
from pixelis.cluster.config import CONFIGS, changed, load
from pixelis.cluster.pretrain import backbone
from pixelis.cluster.run import RUNS, train_all
from pixelis.cluster.track import read_summary, write_summary
from pixelis.cluster.usage import Meter
from pixelis.cluster.usage import load as machine

STREAM = Stream("demo", "lighting:0.5", 240)
SHORT = {
    "rollout.actors": 1, "rollout.groups": 4, "learner.ranks": 1, "tools.where": "here", "learner.ttrl.ema.keep": 0.91,
    "learner.ttrl.canary.every": 30, "learner.ttrl.canary.n": 128, "eval.n": 200,
}  # fmt: skip
"""What 60 updates want otherwise than the many of configs/ttrl.toml: few processes, each of which costs CPU-seconds before it
does anything, and an average that looks back over 11 updates."""


def demo(resume: bool = False, dashboard: bool = False) -> Path:
    """Run everything into runs/demo and return the report. Without `resume` an earlier demo is replaced."""
    meter, before = Meter(), machine()
    root = RUNS / "demo"
    if root.exists() and not resume:
        print(f"{root}: replacing the earlier demo", flush=True)
        shutil.rmtree(root)
        STREAM.remove()
    start = backbone(0)
    sft = replace(load(CONFIGS / "sft.toml"), name="demo", start=str(start))
    rft = replace(load(CONFIGS / "rft.toml"), name="demo", start="")
    ttrl = changed(load(CONFIGS / "ttrl.toml"), {**SHORT, "name": "demo", "start": "", "tasks.file": str(STREAM.file)})
    STREAM.render()
    train_all([sft, rft, ttrl], resume, dashboard)
    STREAM.score(root)
    from pixelis.cluster.report import write_report

    write_summary(root, {"demo": {**meter.read(), "load_start": before, "load_end": machine(), "backbone": str(start)}})
    report = write_report(root)
    _tell(root, report)
    return report


def _tell(root: Path, report: Path) -> None:
    summary = read_summary(root)
    for phase, row in summary["phases"].items():
        figures = row["heldout"]["all"]
        shares = "  ".join(f"{name} {figures[name]:.3f}" for name in ("success", "valid", "chain_length", "visfid"))
        print(f"{phase}: held-out n {figures['n']}  {shares}  ({row['cpu_s']:.0f} CPU s, {row['wall_s']:.0f} s)")
    for scenes, pair in summary["phases"]["ttrl"]["shifts"].items():
        before, after = (pair[when]["all"] for when in ("before", "after"))
        print(f"ttrl: {scenes}, n {after['n']}: success {before['success']:.3f} before, {after['success']:.3f} after")
    spent = summary["demo"]
    print(f"in all {spent['cpu_s']:.0f} CPU s, {spent['wall_s']:.0f} s\n{root / 'summary.json'}\n{report}")
