"""Figures on disk: metrics.jsonl (the truth), summary.json, and MLflow beside them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixelis.memory.log import replace_file

BATCH = 500
"""Metrics sent to MLflow at once: each call is a transaction."""
TAIL = 1 << 16
"""Bytes of metrics.jsonl in which its last lines are."""


class Track:
    """Where the figures of one phase go. `uri` empty: no MLflow.

    Example:
        >>> track = Track(Path("runs/tiny"), "sft", "", {})                # doctest: +SKIP
        >>> track.log(3, {"nll": 1.2}); track.close()                      # doctest: +SKIP
    """

    def __init__(self, root: Path, phase: str, uri: str, params: Mapping[str, Any]) -> None:
        self.root, self.phase = root, phase
        self._client: Any = None
        self._waiting: list[Any] = []
        _cut_torn_line(root / "metrics.jsonl")
        if uri:
            self._open(uri, params)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One line in metrics.jsonl, flushed; NaN and infinity are written as null."""
        finite = {k: (v if v == v and abs(v) != float("inf") else None) for k, v in figures.items()}
        line = {"phase": self.phase, **finite, "step": step, "time": round(time.time(), 3)}
        with (self.root / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._client is not None:
            self._queue(step, {k: v for k, v in finite.items() if v is not None})

    def rewind(self, step: int) -> None:
        """Forget the phase's lines after `step`: those weights are lost, the phase goes on from before them."""
        path = self.root / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and not self._after(json.loads(line), step)]
        if kept != lines:
            replace_file(path, "".join(kept).encode())

    def close(self, status: str = "FINISHED") -> None:
        """Send what waits; `status` is MLflow's: FINISHED, FAILED or KILLED."""
        if self._client is not None:
            self._flush()
            self._client.set_terminated(self._run, status)

    def _after(self, line: Mapping[str, Any], step: int) -> bool:
        return line["phase"] == self.phase and line["step"] > step

    def _open(self, uri: str, params: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # else it tells how it makes its tables
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name("pixelis")
        experiment = found.experiment_id if found else self._client.create_experiment("pixelis")
        name = f"{self.root.name}/{self.phase}"
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        flat = [Param(key, str(value)[:250]) for key, value in _flat(params).items()]
        self._client.log_batch(self._run, params=flat[:100], tags=[RunTag("phase", self.phase)])

    def _queue(self, step: int, figures: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._waiting += [self._metric(name, value, now, step) for name, value in figures.items()]
        if len(self._waiting) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        for at in range(0, len(self._waiting), BATCH):
            self._client.log_batch(self._run, metrics=self._waiting[at : at + BATCH])
        self._waiting = []


def _cut_torn_line(path: Path) -> None:
    """A disk that was full, or a kill, left half a line: the next one must not be glued to it."""
    data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def last_step(root: Path, phase: str) -> int | None:
    """The newest step of a phase in a run's metrics.jsonl; None before the first one, or when there is no such file."""
    path = root / "metrics.jsonl"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        whole = file.read().decode(errors="replace").split("\n")[:-1]
    for line in reversed(whole):
        if line.startswith("{") and (found := json.loads(line))["phase"] == phase:
            return int(found["step"])
    return None


def read_summary(root: Path) -> dict[str, Any]:
    """summary.json of a run, or an empty one."""
    path = root / "summary.json"
    return json.loads(path.read_text()) if path.exists() else {"run": root.name, "phases": {}}


def write_summary(root: Path, changes: Mapping[str, Any]) -> None:
    """Merge `changes` into summary.json, phase by phase.

    Schema: `phases.<phase>.heldout.<family or all>.{n, success, valid, chain_length, rapr,
    visfid, racpr, hop_rate, redundancy}`,
    `phases.<phase>.{steps, version, wall_s, cpu_s, infra, actors_died, tools, policy, load_start, load_end}`,
    `phases.ttrl.shifts.<clean or shift>.<before or after>.<family or all>` as `heldout`, `versions`,
    and for a demo `pretrain` and the whole run's `wall_s` and `cpu_s`.
    """
    summary = read_summary(root)
    for key, value in changes.items():
        summary[key] = {**summary.get("phases", {}), **value} if key == "phases" else value
    replace_file(root / "summary.json", json.dumps(summary, indent=1).encode())


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
