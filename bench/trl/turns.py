"""Programs that take turns on one machine, each with its processes stopped while another runs, and the clock of each.

A clock counts the seconds in which its program was let run, from the end of its first update on: loading, waiting for a turn
and whatever is done while all are stopped are not in it. So drifting load meets all alike.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 1800.0
"""Seconds within which a program must have done its first update."""
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Program:
    """A command with all processes below it, stopped and continued as a whole.

    Example: Program("trl", ["python", "trainer.py"], env, Path("out"), Path("out/steps.jsonl"), Path("out.log"), 360.0)
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    steps: Path
    """The file to which it writes a line of JSON with `step` and `time` (seconds since 1970) after each update."""
    log: Path
    seconds: float
    """How long it is let run in all."""
    spans: list[tuple[float, float]] = field(default_factory=list)
    """When it ran since its first update, in seconds since 1970."""
    spent: list[tuple[float, float]] = field(default_factory=list)
    """(seconds on its clock, CPU seconds of all its processes since then), after each turn."""
    process: subprocess.Popen[bytes] | None = None
    _seen: dict[tuple[int, str], float] = field(default_factory=dict)
    _free: float = 0.0
    """CPU seconds before the first update was done."""

    def start(self) -> None:
        """Load, do the first update, and stop. RuntimeError or TimeoutError when it does not come to that."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=self.env, cwd=self.cwd, start_new_session=True
            )
        until = time.time() + PATIENCE
        while not self.updates():
            self._alive()
            if time.time() > until:
                raise TimeoutError(f"{self.name}: no update within {PATIENCE:g} s: {self.told()}")
            time.sleep(0.05)
        self._free = self.cpu()
        begun = self.updates()[0][1]
        self._signal(signal.SIGSTOP)
        self.spans.append((begun, time.time()))
        self.spent.append((self.ran(), self.cpu()))

    def turn(self, seconds: float) -> None:
        """Run for so long."""
        begun = time.time()
        self._signal(signal.SIGCONT)
        while time.time() < begun + seconds:
            self._alive()
            time.sleep(min(0.2, seconds))
        self._signal(signal.SIGSTOP)
        self.spans.append((begun, time.time()))
        self.spent.append((self.ran(), self.cpu()))

    def ran(self, at: float = float("inf")) -> float:
        """Its clock, in seconds, now or at a time (since 1970)."""
        return clock(self.spans, at)

    def cpu(self) -> float:
        """CPU seconds of all its processes since the first update, those that have ended included as last seen."""
        for pid in self.pids():
            try:
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            self._seen[pid, stat[19]] = (int(stat[11]) + int(stat[12])) / TICK
        return sum(self._seen.values()) - self._free

    def updates(self) -> list[tuple[int, float]]:
        """(step, time) of each update so far."""
        lines = self.steps.read_text().splitlines(keepends=True) if self.steps.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("\n")]
        return [(int(one["step"]), float(one["time"])) for one in told]

    def pids(self) -> list[int]:
        """It and everything below it."""
        assert self.process is not None
        return below(self.process.pid)

    def end(self) -> None:
        """End all of it."""
        if self.process is None:
            return
        pids = self.pids()
        self._signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)  # a training run of ours ends its Ray, and saves
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(120)
        for pid in pids:
            if Path(f"/proc/{pid}").exists():
                _send(pid, signal.SIGKILL)

    def told(self) -> str:
        """The end of what it said."""
        return self.log.read_text(errors="replace")[-2000:]

    def _alive(self) -> None:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {self.told()}")

    def _signal(self, number: int) -> None:
        """To all its processes, and to those that were born meanwhile."""
        reached: set[int] = set()
        while new := [pid for pid in self.pids() if pid not in reached]:
            for pid in new:
                _send(pid, number)
            reached |= set(new)


def clock(spans: Sequence[tuple[float, float]], at: float) -> float:
    """How much of some spans of time lies before a moment.

    Example:
        >>> clock([(0.0, 10.0), (100.0, 110.0)], 103.0)
        13.0
    """
    return sum(max(0.0, min(end, at) - begin) for begin, end in spans)


def take_turns(programs: Sequence[Program], slice_: float, seen: Callable[[Program], object]) -> None:
    """Let each run for its time, in strict turns of so many seconds; `seen` is called when one is stopped."""
    for program in programs:
        program.start()
        seen(program)
    while going := [program for program in programs if program.ran() < program.seconds]:
        for program in going:
            program.turn(slice_)
            seen(program)
        told = ", ".join(f"{p.name} {p.ran():.0f} s {len(p.updates())} updates" for p in programs)
        print(f"  {told}", flush=True)


def below(ancestor: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = [ancestor], [ancestor]
    while waiting:
        new = children.get(waiting.pop(), [])
        found += new
        waiting += new
    return found


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it ended meanwhile
        os.kill(pid, number)
