"""The loop: rollouts per second, where its wall time goes, and what rollouts that go on during updates are worth.

Usage: python bench/loop.py [POLICY]   (a policy folder, checkpoint or run; default: one that calls tools now and then)

Synchronous and asynchronous (staleness 1) runs take turns; each does the same number of iterations of the same questions.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from figures import ROUNDS, keep, ratios, row, spread
from kills import Run, babbler

ROOT = Path(__file__).resolve().parent.parent
STEPS, WARM = 14, 4
"""Iterations of a run, and how many at its beginning are not counted: first jobs load the policy."""
WAYS: dict[str, dict[str, object]] = {
    "synchronous": {"rollout.staleness": 0},
    "asynchronous": {"rollout.staleness": 1, "learner.grpo.truncate": 2.0},
}


def measure(way: str, number: int, start: Path) -> dict[str, float]:
    """Figures of one run: rollouts per second, and shares of its wall time."""
    sets: dict[str, object] = {
        "name": f"{way}-{number}", "start": start, "eval.n": 0, "save_every": 1000, "stop.steps": STEPS, "tracking": '""',
        "rollout.actors": 1, "rollout.groups": 16, "rollout.group": 4, "learner.ranks": 1,
    }  # fmt: skip
    with Run(ROOT / "configs" / "rft.toml", {**sets, **WAYS[way]}) as run:
        run.start()
        assert run.process is not None
        if run.process.wait(600):
            raise RuntimeError(run.told())
    lines = [json.loads(line) for line in (run.root / "metrics.jsonl").read_text().splitlines()][WARM:]
    wall = sum(line["seconds"] for line in lines)
    share = {name: sum(line[name] for line in lines) / wall for name in ("rollout_wait_s", "update_s", "publish_s", "tool_s")}
    rollouts = sum(line["rollouts"] for line in lines) / wall
    return {"rollouts_per_s": rollouts, **share, "overlap": sum(line["overlap"] for line in lines) / len(lines)}


def main() -> None:
    """Five rounds of both ways."""
    policy = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    work = Path(tempfile.mkdtemp(prefix="loop-"))
    start = policy or babbler(work / "policy")
    os.chdir(work)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(ROUNDS):
        for way in WAYS:
            found[way].append(measure(way, number, start))
    figures = {way: {name: spread([f[name] for f in runs]) for name in runs[0]} for way, runs in found.items()}
    for way, some in figures.items():
        for name, value in some.items():
            row(f"{way}: {name}", value)
    gain = ratios(*([f["rollouts_per_s"] for f in found[way]] for way in ("asynchronous", "synchronous")))
    row("asynchronous / synchronous", gain, bar=">= 1.3")
    keep("loop", {**figures, "gain": gain})


if __name__ == "__main__":
    main()
