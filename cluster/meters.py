"""Counters and gauges of a run at Ray's metrics endpoint: there they are called `ray_pixelis_...`, counters end in `_total`.

All are tagged with `run` and `phase`.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from pixelis.cluster.job import Receipt, Update

COUNTERS = {
    "rollouts": ("Episodes that ended.", ()),
    "calls": ("Tool calls by how they ended: ok, policy, tool or infra.", ("outcome",)),
    "retries": ("Attempts repeated because infrastructure failed: a call, or an episode.", ("what",)),
    "trained": ("Trajectories that entered the loss.", ()),
    "dropped": ("Trajectories left out of the loss, by reason.", ("reason",)),
    "deaths": ("Processes that died or hung and were replaced: rollout actors, learner groups, tool replicas.", ("part",)),
    "tool_asks": ("What the tool pool was asked, by what came of it.", ("outcome",)),
}
GAUGES = {
    "step": "Optimizer steps tried.",
    "loss": "Loss of the last step.",
    "reward": "Mean reward of the last iteration's rollouts.",
    "valid": "Share of their steps that were no policy failure.",
    "chain_length": "Their mean steps before the answer.",
    "staleness": "Mean updates between sampling and training of the last batch.",
    "overlap": "Share of the last update during which rollout actors worked too.",
    "rollout_wait_s": "Seconds that the last iteration waited for rollouts.",
    "update_s": "Seconds of its update.",
    "publish_s": "Seconds until its weights were offered.",
    "tool_replicas": "Replicas of the tools in service.",
    "tool_queue": "Asks that wait at them.",
    "tool_batch": "Mean asks that their models were given at once.",
}


class Meters:
    """What one phase counts and shows.

    Example: Meters("demo", "rft").count("calls", 12, outcome="ok")
    """

    def __init__(self, run: str, phase: str) -> None:
        tags = {"run": run, "phase": phase}
        self._counters = {
            name: Counter(f"pixelis_{name}", told, tag_keys=("run", "phase", *keys)) for name, (told, keys) in COUNTERS.items()
        }
        self._gauges = {name: Gauge(f"pixelis_{name}", told, tag_keys=("run", "phase")) for name, told in GAUGES.items()}
        self._pool: Counts[str] = Counts()
        for metric in (*self._counters.values(), *self._gauges.values()):
            metric.set_default_tags(tags)

    def count(self, name: str, value: float, **tags: str) -> None:
        """Add to a counter of COUNTERS."""
        if value:
            self._counters[name].inc(value, tags)

    def show(self, figures: Mapping[str, float]) -> None:
        """Set the gauges that have a figure."""
        for name, gauge in self._gauges.items():
            if name in figures:
                gauge.set(figures[name])

    def rollouts(self, receipt: Receipt) -> None:
        """Count what a rollout actor did."""
        sums = receipt.sums
        self.count("rollouts", sums.get("n", 0.0))
        for outcome in ("ok", "policy", "tool", "infra"):
            self.count("calls", sums.get(f"calls_{outcome}", 0.0), outcome=outcome)
        for what in ("call", "episode"):
            self.count("retries", sums.get(f"{what}_retries", 0.0), what=what)

    def tools(self, report: Mapping[str, Any]) -> dict[str, float]:
        """Count what the tool pool did since the last report; returns its gauges."""
        now = Counts({**report["asks"], "replicas lost": report["died"] + report["hung"]})
        new, self._pool = now - self._pool, now
        self.count("deaths", new.pop("replicas lost", 0), part="tool replica")
        for outcome, asks in new.items():
            self.count("tool_asks", asks, outcome=outcome)
        figures = {"tool_replicas": float(report["replicas"]), "tool_queue": float(report["depth"])}
        batches = sum(report["batches"].values())
        if batches:
            figures["tool_batch"] = sum(int(size) * n for size, n in report["batches"].items()) / batches
        self.show(figures)
        return figures

    def update(self, update: Update) -> None:
        """Count what a step did with its trajectories."""
        self.count("trained", len(update.trained))
        for reason, places in update.dropped.items():
            self.count("dropped", len(places), reason=reason)
