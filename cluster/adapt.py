"""`pixelis adapt`: test-time training on a stream. The process that adapts is given questions; two others have their key."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pixelis.actors.shift import Shift
from pixelis.actors.world import NO_SHIFT
from pixelis.cluster import usage
from pixelis.cluster.config import RunConfig, load
from pixelis.cluster.errors import UsageError
from pixelis.cluster.evaluate import Questions, evaluate
from pixelis.cluster.policy import check_start
from pixelis.cluster.progress import Bar
from pixelis.cluster.run import RUNS, train, unbegun
from pixelis.cluster.stream import parse
from pixelis.cluster.track import read_summary, write_summary


@dataclass(frozen=True, slots=True)
class Stream:
    """PixelWorld under a shift, for the run `name` to adapt to: a folder of `n` questions, and outside it their key.

    Example:
        >>> Stream("adapt", "lighting:0.7", 1200).file.as_posix()
        'runs/adapt-stream/tasks.jsonl'
    """

    name: str
    shift: str
    n: int

    @property
    def folder(self) -> Path:
        """What the process that adapts is given."""
        return RUNS / f"{self.name}-stream"

    @property
    def file(self) -> Path:
        """Its questions."""
        return self.folder / "tasks.jsonl"

    @property
    def key(self) -> Path:
        """What it is not given."""
        return RUNS / f"{self.name}-stream.key.jsonl"

    def render(self) -> None:
        """Have it rendered, by a process that draws the seed, unless it is there. ShiftError before anything is started."""
        parse(self.shift, self.n)
        if not self.file.exists():
            self.remove()  # what an interruption left
            _other("stream", self.shift, str(self.folder), "--key", str(self.key), "--n", str(self.n))

    def remove(self) -> None:
        """Forget it, for a run that begins anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.key.unlink(missing_ok=True)

    def score(self, root: Path) -> None:
        """Have the answers of a run scored, by a process that has the key; then `compare` what it has made of its policy."""
        _other("score", str(root / "answers.jsonl"), str(self.key))
        compare(root, [part.shift for part in parse(self.shift, self.n)])


def adapt(
    checkpoint: Path, stream: str, name: str, config: str, sets: Sequence[str], n: int, resume: bool, dashboard: bool
) -> Path:
    """Adapt a policy to a file of questions, or to PixelWorld under a shift; returns the run's folder.

    A shift is rendered by another process, which draws the seed; a third one scores the answers when all are given.
    """
    shifted = None if stream.endswith(".jsonl") else Stream(name, stream, n)
    file = shifted.file if shifted else stream
    made = load(config, [f"name={name}", f"start={checkpoint}", f"tasks.file={file}", *sets])
    if made.phase != "ttrl":
        raise UsageError(f"--config {config}: it is of phase {made.phase}, not ttrl")
    check_start(made.start, made.learner.lora)  # before minutes of rendering
    if shifted and not resume:
        unbegun(made)  # its stream must stay
        shifted.remove()
    if shifted:
        shifted.render()
    root = train(made, resume, dashboard)
    if shifted:
        shifted.score(root)
    return root


def compare(root: Path, shifts: Iterable[Shift]) -> None:
    """Evaluate the policy that a finished adaptation started from, and the one that it led to, on held-out scenes as they are
    and under each shift: `eval.n` a family. Kept in summary.json as `phases.ttrl.shifts`, and done once."""
    config, phase = load(root / "config-ttrl.toml"), read_summary(root)["phases"]["ttrl"]
    if "shifts" in phase or not config.eval.n:
        return
    told = {"clean": {"before": _evaluated(config.start, config, NO_SHIFT, "clean, before"), "after": phase["heldout"]}}
    for shift in dict.fromkeys(shifts):
        policies = {"before": config.start, "after": phase["policy"]}
        told[str(shift)] = {when: _evaluated(one, config, shift, f"{shift}, {when}") for when, one in policies.items()}
    write_summary(root, {"phases": {"ttrl": {**phase, "shifts": told}}})


def _evaluated(policy: str, config: RunConfig, shift: Shift, what: str) -> dict[str, dict[str, float]]:
    """As the phase evaluates what it led to: the same scenes, and as many calls."""
    families = tuple(dict.fromkeys(config.tasks.families))
    asked = Questions(config.eval.n, config.eval.split, families, shift)
    with TemporaryDirectory() as folder, Bar(what, asked.n * len(families), "episodes") as bar:
        return evaluate(policy, Path(folder), asked, bar.to, config.rollout).figures


def _other(*words: str) -> None:
    """A command in a process of its own."""
    status = usage.run([sys.executable, "-m", "pixelis.cluster.cli", *words])
    if status:
        raise UsageError(f"pixelis {' '.join(words)} ended with status {status}")
