"""What a run costs: CPU seconds of this process and all it started, wall seconds, the machine's load."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

_seen: dict[tuple[int, str], float] = {}
"""CPU seconds of every process we ever saw below this one, by pid and start time: what it had spent when last seen."""
_counted: list[float] = []
"""CPU seconds of commands that we waited for."""


def cpu_seconds() -> float:
    """User and system seconds of this process and of all descendants, as of now.

    A descendant that has ended counts with what it had spent at the last call, since Ray's daemon reaps its workers without
    adding them up: call this before parts are stopped. Without /proc (macOS) only children that have ended count.
    """
    own = os.times()
    if not Path("/proc/self/stat").exists():
        return own.user + own.system + own.children_user + own.children_system
    parents: dict[int, int] = {}
    spent: dict[int, tuple[str, float]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        spent[pid] = fields[19], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    for pid, (started, seconds) in spent.items():
        if _below(pid, os.getpid(), parents):
            _seen[pid, started] = seconds
    return own.user + own.system + sum(_seen.values()) + sum(_counted)


def run(words: Sequence[str]) -> int:
    """Run a command in a process of its own and wait; its exit status. What it costs counts as ours."""
    before = os.times()
    status = subprocess.run(words, check=False).returncode
    after = os.times()
    if Path("/proc/self/stat").exists():  # else children that have ended count anyway
        _counted.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return status


def _below(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != parents[pid]:
        pid = parents[pid]
        if pid == ancestor:
            return True
    return False


@dataclass(slots=True)
class Meter:
    """Counts from when it is made.

    Example: meter = Meter(); work(); meter.read() == {"wall_s": 2.0, "cpu_s": 1.9}
    """

    wall: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=cpu_seconds)

    def read(self) -> dict[str, float]:
        """Seconds so far."""
        return {"wall_s": round(time.monotonic() - self.wall, 1), "cpu_s": round(cpu_seconds() - self.cpu, 1)}


def load() -> dict[str, float]:
    """Mean number of running processes on this machine over the last 1, 5 and 15 minutes, and its cores."""
    one, five, fifteen = os.getloadavg()
    return {"load_1": one, "load_5": five, "load_15": fifteen, "cores": float(os.cpu_count() or 1)}


def versions() -> dict[str, str]:
    """Of what decides about figures."""
    names = ("pixelis", "ray", "torch", "transformers", "opencv-contrib-python-headless", "rapidocr", "av")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
