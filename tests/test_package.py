"""What a user gets who installs the wheel: complete, and at work far from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest

from tests.fakes_media import plate, png

ROOT = Path(__file__).parent.parent
FOLDERS = ("actors", "cluster", "learners", "memory", "tools")
FOREIGN = (
    "runs/demo/summary.json", "build/lib/pixelis/tools/old.py", "dist/old.whl", ".venv/lib/x.py", "mlruns/0/meta.yaml",
    "tests/__pycache__/x.pyc", "tests/.x.tmp", "tools/__pycache__/zoom.pyc", "bench/results/tools.json",
)  # fmt: skip
"""What a checkout at work holds beside the tree of git."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tree() -> list[str]:
    """Every file of the checkout that git keeps or would keep."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return sorted(name for name in listed if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def built(tree: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sdist and wheel, the wheel made from the sdist, of a copy of the checkout after some work in it."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in tree:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    for name in FOREIGN:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("foreign")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(copy / "out")]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return copy / "out"


def test_the_wheel_holds_the_packages_and_nothing_else(built: Path, tree: list[str]) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as file:
        names = file.namelist()
        info = next(name for name in names if name.endswith(".dist-info/METADATA")).removesuffix("/METADATA")
        meta: Message = BytesParser().parsebytes(file.read(f"{info}/METADATA"))
        scripts = file.read(f"{info}/entry_points.txt").decode()
    code = [name for name in tree if name.split("/")[0] in FOLDERS and name.endswith((".py", "/py.typed"))]
    settings = [name for name in tree if name.startswith("configs/")]
    assert len([name for name in code if name.endswith("py.typed")]) == len(FOLDERS) and settings
    told = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE")
    assert set(names) == {f"pixelis/{name}" for name in code + settings} | {f"{info}/{name}" for name in told}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (meta["Name"], meta["Version"]) == (project["name"], project["version"])
    assert (meta["License-Expression"], meta["Requires-Python"]) == (project["license"], project["requires-python"])
    assert "pixelis = pixelis.cluster.cli:main" in scripts
    assert str(meta.get_payload()).strip() == (ROOT / "README.md").read_text().strip()


def test_the_sdist_holds_what_git_holds_and_nothing_else(built: Path, tree: list[str]) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as file:
        names = {member.name.partition("/")[2] for member in file if member.isfile()}
    made = {name for name in names if name.startswith("pixelis.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - made == set(tree)


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with pixelis from the wheel, and all else from the environment of the tests.

    A path in a .pth file adds that environment's packages but not its .pth files, and so not the checkout.
    """
    import ray

    root = tmp_path_factory.mktemp("environment")
    venv.create(root, symlinks=True, with_pip=True)
    python = root / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(next(built.glob("*.whl")))]
    subprocess.run(command, check=True, timeout=300, env=_environment())
    [own] = root.glob("lib/python*/site-packages")
    (own / "packages.pth").write_text(f"{Path(ray.__file__).parent.parent}\n")
    return python.parent


def test_every_part_is_imported_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    parts = ["actors.nano", "cluster.cli", "learners.loss", "memory.layout", "tools.zoom"]
    script = f"import importlib, json; print(json.dumps([importlib.import_module('pixelis.' + p).__file__ for p in {parts}]))"
    done = _run(installed / "python", "-c", script, cwd=tmp_path)
    assert all(Path(file).is_relative_to(installed.parent) for file in json.loads(done.stdout))


def test_the_installed_command_works_anywhere(installed: Path, tmp_path: Path) -> None:
    pixelis = installed / "pixelis"
    assert _run(pixelis, "--version", cwd=tmp_path).stdout == f"pixelis {_version()}\n"
    assert "pixelis demo" in _run(pixelis, "--help", cwd=tmp_path).stdout
    (tmp_path / "plate.png").write_bytes(png(plate("K7P")))
    told = _run(pixelis, "tool", "OCR", "plate.png", "--args", '{"on":"img0"}', cwd=tmp_path).stdout
    assert json.loads(told)["data"]["text"] == "K7P"


def test_the_configs_came_with_the_wheel(installed: Path, tmp_path: Path) -> None:
    script = "from pixelis.cluster import demo; print(demo.CONFIGS, demo.load('sft').phase)"
    done = _run(installed / "python", "-c", script, cwd=tmp_path)
    folder, phase = done.stdout.split()
    assert Path(folder).is_relative_to(installed.parent) and phase == "sft"
    assert {p.name for p in Path(folder).glob("*")} == {p.name for p in (ROOT / "configs").glob("*")}


@pytest.mark.ray
def test_workers_import_the_wheel_and_paths_mean_the_drivers_folder(installed: Path, untrained: Path, tmp_path: Path) -> None:
    shutil.copytree(untrained, tmp_path / "start")
    sets = ("start=start", "stop.steps=2", "eval.n=2")
    options = [word for one in sets for word in ("--set", one)]
    told = _run(installed / "pixelis", "train", "tiny_sft", *options, cwd=tmp_path).stdout
    run = tmp_path / "runs" / "tiny"
    assert told.strip().endswith("runs/tiny/report.html") and (run / "report.html").is_file()
    summary = json.loads((run / "summary.json").read_text())["phases"]["sft"]
    assert (summary["steps"], summary["heldout"]["all"]["n"], summary["actors_died"]) == (2, 4, 0)
    assert any((run / "media").iterdir()) and any((run / "replay" / "sft").iterdir())
    bases = {json.loads(path.read_text())["base"] for path in (run / "checkpoints" / "sft").glob("*/state.json")}
    assert bases == {str((tmp_path / "start").resolve())}
    assert {p.name for p in tmp_path.iterdir()} == {"start", "runs"}


@pytest.mark.ray
def test_a_ray_worker_finds_pixelis_where_the_driver_did(installed: Path, tmp_path: Path) -> None:
    script = """
import ray
from pixelis.cluster.config import load
from pixelis.cluster.run import ray_session

@ray.remote(num_cpus=1)
def where():
    import pixelis.actors.rollout, sys
    return pixelis.actors.rollout.__file__, sys.executable

with ray_session([load("tiny_sft")], dashboard=False):
    print(*ray.get(where.remote(), timeout=120))
"""
    module, python = _run(installed / "python", "-c", script, cwd=tmp_path).stdout.split()
    assert Path(module).is_relative_to(installed.parent) and Path(python).parent == installed


def _version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def _environment() -> dict[str, str]:
    """Without what could lead back to the checkout."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return done
