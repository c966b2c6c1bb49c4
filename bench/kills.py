"""Short runs of `pixelis train` whose processes are killed: how to start one, hit a part, and see it go on."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

PARTS = {
    "rollout actor": "ray::RolloutActor", "learner rank": "ray::LearnerPart", "replay shard": "ray::Shard",
    "tool replica": "ray::ToolActor", "tool keeper": "ray::Keeper",
}  # fmt: skip
"""What the processes of a run's parts are called; the driver is the process that was started."""
HANG = 120.0
"""Seconds without a step after which a run counts as hanging."""


class Run:
    """`pixelis train CONFIG --set ...` in a process of its own, in the current directory; with the block it ends.

    Example: with Run("configs/tiny_rft.toml", {"name": "hit", "stop.steps": 500}) as run: run.start()
    """

    def __init__(self, config: str | Path, sets: dict[str, object]) -> None:
        self.config, self.root = config, Path("runs") / str(sets["name"])
        self.sets = [f"{key}={value}" for key, value in sets.items()]
        words = [word for one in self.sets for word in ("--set", one)]
        self.command = [sys.executable, "-m", "pixelis.cluster.cli", "train", str(config), *words]
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """A run that was left to itself would take the machine from whatever comes after it."""
        if self.process is None or self.process.poll() is not None:
            return
        for pid in [*below(self.process.pid, ""), self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(60)

    def start(self, resume: bool = False) -> None:
        """Begin, or go on from the newest checkpoint. What it says goes to runs/NAME.log."""
        self.root.parent.mkdir(exist_ok=True)
        with self.root.with_suffix(".log").open("a") as log:
            self.process = subprocess.Popen([*self.command, *["--resume"] * resume], stdout=log, stderr=log, text=True)

    def finish(self, resume: bool = False) -> None:
        """The same in this process and to its end, without the imports of another one."""
        from pixelis.cluster.config import load
        from pixelis.cluster.run import train

        train(load(self.config, self.sets), resume)

    def stamps(self) -> list[float]:
        """When each step that counts was done, in seconds since 1970."""
        path = self.root / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line)["time"] for line in lines if line.endswith("\n")]

    def next_step(self, after: float) -> float:
        """Seconds from `after` until a step is done. TimeoutError when none is within HANG, RuntimeError when the run ended."""
        assert self.process is not None
        until = time.time() + HANG
        while time.time() < until:
            done = [stamp - after for stamp in self.stamps() if stamp > after]
            if done:
                return done[0]
            if self.process.poll() is not None:
                raise RuntimeError(f"the run ended with {self.process.returncode}: {self.told()}")
            time.sleep(0.1)
        raise TimeoutError(f"no step within {HANG:g} s: {self.told()}")

    def kill(self, part: str, pick: float, number: int = signal.SIGKILL) -> float:
        """A signal to one process of a part, chosen by `pick` in 0..1; returns when."""
        assert self.process is not None
        found = [self.process.pid] if part == "driver" else below(self.process.pid, PARTS[part])
        until = time.time() + HANG
        while not found:  # it is being restarted
            if time.time() > until:
                raise TimeoutError(f"no {part} within {HANG:g} s: {self.told()}")
            time.sleep(0.1)
            found = below(self.process.pid, PARTS[part])
        os.kill(found[int(pick * len(found)) % len(found)], number)
        if part == "driver":
            self.process.wait(60)
        return time.time()

    def stop(self) -> int:
        """Ctrl-C; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)

    def told(self) -> str:
        """The end of what the run said."""
        return self.root.with_suffix(".log").read_text()[-2000:]


def below(ancestor: int, title: str) -> list[int]:
    """Processes below another one whose command line begins with a title, oldest first."""
    parents, found = dict[int, int](), list[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if command.startswith(title):
            found.append(int(folder.name))
    return sorted(pid for pid in found if _is_below(pid, ancestor, parents))


def _is_below(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid > 1:
        pid = parents[pid]
        if pid == ancestor:
            return True
    return False


def babbler(folder: Path, style: str = "tools") -> Path:
    """A nano policy after seconds of imitation: it calls tools now and then, so that groups have contrast. Saved there.

    In the style `no_tools` it answers at once.
    """
    import numpy as np
    import torch

    from pixelis.actors import nano
    from pixelis.actors.engine import TransformersEngine
    from pixelis.actors.render import Renderer
    from pixelis.actors.rollout import RolloutSettings, RolloutWorker
    from pixelis.actors.tasks import TaskSource
    from pixelis.learners.learner import Learner, LearnerSettings
    from pixelis.tools.media import MediaStore
    from pixelis.tools.toolbox import Toolbox

    torch.set_num_threads(1)
    model, store = nano.build(seed=0), MediaStore(None)
    renderer = Renderer(model)
    engine = TransformersEngine(model, store, renderer.stop)
    source = TaskSource(("code",), "demo", store)
    teacher = RolloutWorker(source, Toolbox(store), renderer, engine, RolloutSettings(style=style), run=0)  # type: ignore[arg-type]
    shown = [group for group in teacher.recite(range(8)) if not group.trajectories[0].family.endswith("caption")]
    learner = Learner(model, store, LearnerSettings(lr=3e-3, matrix_lr=0.02, warmup=5))
    rng = np.random.default_rng(0)
    for _ in range(40):
        learner.update([shown[i] for i in rng.integers(len(shown), size=4)])
    model.save(folder)
    return folder
