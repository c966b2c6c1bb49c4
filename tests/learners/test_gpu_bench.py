"""`bench/gpu.py` on a machine without a GPU, without Ray, without tools and without pixelis installed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BARE = """
import runpy, sys
FOREIGN = {foreign!r}
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in FOREIGN else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(f) for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
sys.path[:] = [p for p in sys.path if "__editable__" not in p]
sys.argv = ["gpu.py", *{arguments!r}]
sys.path.insert(0, {folder!r})
runpy.run_path({folder!r} + "/gpu.py", run_name="__main__")
assert "pixelis.cluster" not in sys.modules
"""
FOREIGN = ("ray", "av", "mlflow", "rapidocr", "rapidfuzz", "onnxruntime", "sam2", "easyocr", "typer", "matplotlib")


def bare(*arguments: str, foreign: tuple[str, ...] = FOREIGN) -> subprocess.CompletedProcess[str]:
    """The bench where some packages are absent and no GPU is seen."""
    code = BARE.format(foreign=set(foreign), arguments=arguments, folder=str(ROOT / "bench"))
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HOME": "/nonexistent"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd="/", timeout=300)


@pytest.mark.slow
def test_at_toy_width_it_goes_the_whole_way() -> None:
    before = sorted((ROOT / "docs" / "results").iterdir())
    done = bare("--toy")
    assert done.returncode == 0, done.stderr
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in done.stdout.splitlines() if line.startswith("|")}
    for name in ("SFT: tokens/s", "RFT: tokens/s", "RFT: ms of a token", "RFT: seconds an iteration"):
        assert float(rows[name]) > 0
    assert rows["SFT: MFU"] == "?" and rows["SFT: peak memory"] == "-"
    assert sorted((ROOT / "docs" / "results").iterdir()) == before


@pytest.mark.slow
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = bare()
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    assert "no GPU" in done.stdout and "--toy" in done.stdout


def test_what_is_missing_is_named() -> None:
    done = bare("--toy", foreign=("peft", "cv2"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "has no peft, opencv-python-headless: pip install --target" in done.stderr
