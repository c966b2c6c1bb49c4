"""`pixelis doctor`: what this machine has and lacks, and what to do about it.

Nothing heavy is imported here: torch is asked in a process of its own, which may crash.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

Level = Literal["ok", "note", "bad"]
CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
INSTALL = "run `make test` or `make demo` in the checkout: both install the pinned versions; elsewhere `pip install %s`"
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
OPTIONAL = {
    "sentence_transformers": "text keys of the episode memory by such a model, where the policy's own do not do",
}
"""Package -> what it is for. Nothing else needs it: a test fails when the code imports one before it is asked for."""
CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg")
"""Video codecs of the clips that people have; PixelWorld's own are mjpeg."""
LOAD_TORCH = """
import json, torch, torchvision
torch.ops.torchvision.nms
print(json.dumps([torch.cuda.is_available(), torch.version.cuda]))
"""
"""Loading torchvision registers its operators with torch: that fails when the two do not belong together."""
START_RAY = """
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
print(ray.get(ray.remote(lambda: 41 + 1).remote(), timeout=60))
"""
PATIENCE = 120
"""Seconds for a program that doctor starts."""
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


def check(runs: Path = Path("runs"), start_ray: bool = False) -> list[Finding]:
    """Look at everything pixelis needs of a machine, in a few seconds; `start_ray` also starts a Ray and asks it something."""
    loaded = load_torch()
    return [
        python(sys.version_info[:3]),
        *packages(),
        torch_pair(loaded),
        opencv(_installed(OPENCV)),
        tracker(),
        ocr_models(),
        codecs(),
        processors(),
        memory(),
        disk(runs),
        writable(runs),
        ray_startable(),
        *([ray_started(run_python(START_RAY))] if start_ray else []),
        gpu(cards(), loaded),
        *optional(),
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
        return Finding("bad", "opencv", told, INSTALL % wanted)
    if others:
        fix = f"uninstall {', '.join(others)}, then reinstall {wanted}: they overwrite each other's files"
        return Finding("bad", "opencv", told, fix)
    return Finding("ok", "opencv", told)


def tracker() -> Finding:
    """OpenCV loads, and has the tracker that TRK needs: another OpenCV in its place would not."""
    fix = "pip uninstall all opencv packages, then pip install --force-reinstall opencv-contrib-python-headless"
    try:
        import cv2
    except ImportError as error:
        return Finding("bad", "opencv works", _line(str(error)), fix)
    if not hasattr(cv2, "TrackerCSRT_create"):
        return Finding("bad", "opencv works", f"{cv2.__version__} without TrackerCSRT: not the contrib build", fix)
    return Finding("ok", "opencv works", f"{cv2.__version__} with TrackerCSRT")


def codecs() -> Finding:
    """Video codecs of PyAV, whose wheel holds FFmpeg."""
    fix = "pip install --force-reinstall --only-binary av av: the wheel holds FFmpeg, a system's own may lack codecs"
    try:
        import av
    except ImportError as error:
        return Finding("bad", "video codecs", _line(str(error)), fix)
    missing = [name for name in CODECS if name not in av.codecs_available]
    if "mjpeg" in missing:
        return Finding("bad", "video codecs", "no mjpeg: PixelWorld's clips cannot be read", fix)
    if missing:
        return Finding("note", "video codecs", f"no {', '.join(missing)}: such clips cannot be read", fix)
    return Finding("ok", "video codecs", ", ".join(CODECS))


def run_python(script: str) -> tuple[int, str]:
    """(exit status, output or else the last line of its errors) of a script in a process of its own; -1: it took too long."""
    try:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return -1, f"no answer within {PATIENCE} s"
    told = done.stdout if done.returncode == 0 else done.stderr
    return done.returncode, told.strip().splitlines()[-1] if told.strip() else f"ended with {done.returncode}, silently"


def load_torch() -> tuple[int, str]:
    """What loading torch and torchvision together says: see LOAD_TORCH."""
    return run_python(LOAD_TORCH)


def torch_pair(loaded: tuple[int, str]) -> Finding:
    """torch and torchvision belong together version by version."""
    told = ", ".join(f"{name} {number}" for name, number in _installed(("torch", "torchvision")).items()) or "none"
    if loaded[0] == 0:
        return Finding("ok", "torch", f"{told} load together")
    return Finding("bad", "torch", f"{told}: {loaded[1]}", INSTALL % "--force-reinstall torch torchvision")


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
    fix = "free 5 GB, or work in a folder on another disk: runs/ is made where you are"
    return Finding("ok", "disk", told) if free >= MIN_DISK else Finding("bad", "disk", told, fix)


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
        return Finding("bad", "ray", "not installed", INSTALL % "'ray[default,rllib]==2.60.*'")
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


def ray_started(answered: tuple[int, str]) -> Finding:
    """A Ray of one core was started and asked for 42."""
    if answered == (0, "42"):
        return Finding("ok", "ray starts", "a Ray was started, ran a task, and ended")
    fix = "look into /tmp/ray/session_latest/logs; no proxy or firewall may stand before this host's own address"
    return Finding("bad", "ray starts", answered[1], fix)


def cards() -> list[str]:
    """NVIDIA devices by their device files."""
    return sorted(p.name for p in Path("/dev").glob("nvidia[0-9]*"))


def gpu(found: list[str], loaded: tuple[int, str]) -> Finding:
    """Is there a GPU, and can torch use it? The small policy needs none."""
    usable, built = json.loads(loaded[1]) if loaded[0] == 0 else (False, None)
    if not found:
        return Finding("note", "gpu", "none", "not needed: the small policy trains on the CPU")
    told = ", ".join(found)
    if usable:
        return Finding("ok", "gpu", f"{told}, usable by torch (CUDA {built})")
    if built is None:
        fix = "pip install a torch built for CUDA, if the GPU is to be used"
        return Finding("note", "gpu", f"{told}, but this torch is built for CPUs only", fix)
    fix = f"run nvidia-smi: the driver must be new enough for CUDA {built}, and containers need --gpus all"
    return Finding("note", "gpu", f"{told}, but torch cannot use it", fix)


def optional() -> list[Finding]:
    """Packages that add something, there or not."""
    return [_optional(name, use) for name, use in OPTIONAL.items()]


def command(start_ray: bool = False, as_json: bool = False) -> None:
    """What `pixelis doctor` does: one line for each finding; exits with 1 when something must be mended."""
    import typer
    from rich.console import Console
    from rich.markup import escape

    findings = check(start_ray=start_ray)
    if as_json:
        print(json.dumps([asdict(f) for f in findings]))
        raise typer.Exit(int(any(f.level == "bad" for f in findings)))
    console = Console(soft_wrap=True, highlight=False)
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
        return Finding("bad", needed.name, "not installed", INSTALL % f"'{needed}'")
    if not needed.specifier.contains(found, prereleases=True):
        return Finding("bad", needed.name, f"{found}, pixelis needs {needed.specifier}", INSTALL % f"'{needed}'")
    if pin is not None and found.partition("+")[0] != pin:
        return Finding("note", needed.name, f"{found}, tested with {pin}", INSTALL % f"{needed.name}=={pin}")
    return Finding("ok", needed.name, found)


def _optional(name: str, use: str) -> Finding:
    if find_spec(name) is None:
        return Finding("note", name, "not installed", f"`pip install {name}` if you want {use}")
    return Finding("ok", name, f"installed; for {use}")


def _line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "cannot be imported"


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
