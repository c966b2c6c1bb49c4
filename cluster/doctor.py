"""`pixelis doctor`: what this machine has and lacks, and what to do about it. Nothing heavy is imported."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

Level = Literal["ok", "note", "bad"]
CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
INSTALL = "run `make test` or `make demo` in the checkout: both install the pinned versions"
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
MIN_RAM, MIN_DISK, MIN_SHM = 6 << 30, 5 << 30, 1 << 30  # bytes: two rollout actors, a learner and Ray; a demo's run folder


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `fix` says what to do when it is not ok; `note` findings stop nothing.

    Example: Finding("bad", "python", "3.9.2", "install Python 3.11 or newer")
    """

    level: Level
    what: str
    found: str
    fix: str = ""


def check(runs: Path = Path("runs")) -> list[Finding]:
    """Look at everything pixelis needs of a machine, in about a second."""
    return [
        python(sys.version_info[:3]),
        *packages(),
        opencv(_installed(OPENCV)),
        ocr_models(),
        processors(),
        memory(),
        disk(runs),
        writable(runs),
        ray_startable(),
        gpu(),
    ]


def python(found: tuple[int, ...]) -> Finding:
    """The interpreter."""
    told = ".".join(map(str, found))
    return Finding("ok", "python", told) if found >= (3, 11) else Finding("bad", "python", told, "install Python 3.11 or newer")


def packages() -> list[Finding]:
    """Every direct dependency: there, in the range pixelis asks for, and the version it was tested with."""
    pins = pinned(CONSTRAINTS.read_text()) if CONSTRAINTS.is_file() else {}
    needed = [Requirement(text) for text in requires("pixelis") or [] if "extra ==" not in text]
    findings = [_package(one, pins.get(one.name.lower())) for one in needed]
    wrong = [f for f in findings if f.level != "ok"]
    return wrong or [Finding("ok", "packages", f"{len(findings)} as pinned" if pins else f"{len(findings)} in range")]


def pinned(constraints: str) -> dict[str, str]:
    """Package -> version of a constraints file."""
    lines = [line.split("#")[0].strip() for line in constraints.splitlines()]
    return {name.lower(): number for name, equals, number in (line.partition("==") for line in lines) if equals}


def opencv(found: dict[str, str]) -> Finding:
    """The four OpenCV packages fill the same folder: the last one installed wins, without a word."""
    told = ", ".join(f"{name} {number}" for name, number in found.items()) or "none"
    wanted = "opencv-contrib-python-headless"
    others = [name for name in found if name != wanted]
    if wanted not in found:
        return Finding("bad", "opencv", told, INSTALL)
    if others:
        fix = f"uninstall {', '.join(others)}, then reinstall {wanted}: they overwrite each other's files"
        return Finding("bad", "opencv", told, fix)
    return Finding("ok", "opencv", told)


def ocr_models() -> Finding:
    """RapidOCR's models, which lie in its wheel."""
    spec = find_spec("rapidocr")
    folder = Path(spec.origin).parent / "models" if spec and spec.origin else None
    models = sorted(folder.glob("*.onnx")) if folder else []
    kinds = {kind: any(f"_{kind}" in model.name for model in models) for kind in ("det", "rec")}
    if all(kinds.values()):
        return Finding("ok", "ocr models", ", ".join(model.name for model in models))
    missing = " and ".join(kind for kind, there in kinds.items() if not there)
    return Finding("bad", "ocr models", f"no {missing} model in {folder}", "reinstall rapidocr: its wheel holds them")


def processors() -> Finding:
    """Cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = os.getloadavg()[0]
    told = f"{cores} cores, load {busy:.1f}"
    if cores < 2:
        return Finding("note", "cpu", told, "the demo wants 2 cores; with one it takes about twice as long")
    if busy > cores:
        return Finding("note", "cpu", told, "other programs are busy: times will be longer than the documented ones")
    return Finding("ok", "cpu", told)


def memory() -> Finding:
    """Main memory that is free to use."""
    if not Path("/proc/meminfo").exists():
        return Finding("note", "memory", "unknown on this system", f"{MIN_RAM >> 30} GB should be free")
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free, total = (int(lines[key].split()[0]) << 10 for key in ("MemAvailable", "MemTotal"))
    told = f"{free / 2**30:.1f} of {total / 2**30:.1f} GB free"
    if free >= MIN_RAM:
        return Finding("ok", "memory", told)
    return Finding("bad", "memory", told, f"free {MIN_RAM >> 30} GB, or take fewer rollout actors: --set rollout.actors=1")


def disk(runs: Path) -> Finding:
    """Room for runs."""
    there = next(p for p in (runs.resolve(), *runs.resolve().parents) if p.exists())
    free = shutil.disk_usage(there).free
    told = f"{free / 2**30:.0f} GB free at {there}"
    return Finding("ok", "disk", told) if free >= MIN_DISK else Finding("bad", "disk", told, "free 5 GB for runs")


def writable(runs: Path) -> Finding:
    """The folder of all runs can be made and written."""
    there = next(p for p in (runs.resolve(), *runs.resolve().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return Finding("ok", "runs folder", f"{there} is writable")
    except OSError as error:
        return Finding("bad", "runs folder", f"{there}: {error.strerror}", "work in a folder that you may write to")


def ray_startable() -> Finding:
    """What Ray needs to start: its server program, shared memory, a temporary folder, a port on this host."""
    try:
        files = distribution("ray").locate_file("ray/core/src/ray")
    except PackageNotFoundError:
        return Finding("bad", "ray", "not installed", INSTALL)
    for name in ("raylet/raylet", "gcs/gcs_server"):
        program = Path(str(files)) / name
        if not os.access(program, os.X_OK):
            return Finding("bad", "ray", f"{program} cannot be executed", "reinstall ray; no noexec mount for the environment")
    shm = Path("/dev/shm")
    if shm.exists() and shutil.disk_usage(shm).free < MIN_SHM:
        fix = "enlarge it (containers: --shm-size=2g): Ray's object store lies there"
        return Finding("bad", "ray", f"{shutil.disk_usage(shm).free >> 20} MB free in {shm}", fix)
    try:
        with socket.create_server(("127.0.0.1", 0)), tempfile.TemporaryFile():
            return Finding("ok", "ray", f"{version('ray')}: programs, shared memory and a local port are there")
    except OSError as error:
        return Finding("bad", "ray", f"no local port or no temporary folder: {error}", "allow both on 127.0.0.1 and in /tmp")


def gpu() -> Finding:
    """NVIDIA devices by their device files."""
    cards = sorted(p.name for p in Path("/dev").glob("nvidia[0-9]*"))
    if cards:
        return Finding("ok", "gpu", ", ".join(cards))
    return Finding("note", "gpu", "none", "not needed: the small policy trains on the CPU")


def command() -> None:
    """What `pixelis doctor` does: one line for each finding; exits with 1 when something must be mended."""
    import typer
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True, highlight=False)
    findings = check()
    colors = {"ok": "green", "note": "yellow", "bad": "red"}
    for f in findings:
        console.print(f"[{colors[f.level]}]{f.level:4}[/]  {f.what:12} {escape(f.found)}")
        if f.fix:
            console.print(f"      {'':12} -> {escape(f.fix)}")
    bad = sum(f.level == "bad" for f in findings)
    console.print("ready" if not bad else f"{bad} to be mended")
    if bad:
        raise typer.Exit(1)


def _package(needed: Requirement, pin: str | None) -> Finding:
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return Finding("bad", needed.name, "not installed", INSTALL)
    if not needed.specifier.contains(found, prereleases=True):
        return Finding("bad", needed.name, f"{found}, pixelis needs {needed.specifier}", INSTALL)
    if pin is not None and found.partition("+")[0] != pin:
        return Finding("note", needed.name, f"{found}, tested with {pin}", INSTALL)
    return Finding("ok", needed.name, found)


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
