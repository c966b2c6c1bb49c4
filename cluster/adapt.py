"""`pixelis adapt`: test-time training on a stream. The process that adapts is given questions; two others have their key."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pixelis.cluster.config import load
from pixelis.cluster.errors import UsageError
from pixelis.cluster.run import RUNS, train
from pixelis.cluster.stream import parse


def adapt(
    checkpoint: Path, stream: str, name: str, config: str, sets: Sequence[str], n: int, resume: bool, dashboard: bool
) -> Path:
    """Adapt a policy to a file of questions, or to PixelWorld under a shift; returns the run's folder.

    A shift is rendered by another process, which draws the seed; a third one scores the answers when all are given.
    """
    if stream.endswith(".jsonl"):
        file, key = Path(stream), None
    else:
        parse(stream, n)  # before anything is started
        folder = RUNS / f"{name}-stream"
        file, key = folder / "tasks.jsonl", RUNS / f"{name}-stream.key.jsonl"
        if not file.exists():
            _other("stream", stream, str(folder), "--key", str(key), "--n", str(n))
    made = load(config, [f"name={name}", f"start={checkpoint}", f"tasks.file={file}", *sets])
    if made.phase != "ttrl":
        raise UsageError(f"--config {config}: it is of phase {made.phase}, not ttrl")
    root = train(made, resume, dashboard)
    if key is not None and key.exists():
        _other("score", str(root / "answers.jsonl"), str(key))
    return root


def _other(*words: str) -> None:
    """A command in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "pixelis.cluster.cli", *words], check=False)
    if done.returncode:
        raise UsageError(f"pixelis {' '.join(words)} ended with status {done.returncode}")
