import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pixelis.cluster import doctor
from pixelis.cluster.doctor import (
    CODECS,
    OPTIONAL,
    check,
    codecs,
    gpu,
    opencv,
    optional,
    packages,
    pinned,
    python,
    ray_started,
    run_python,
    torch_pair,
    tracker,
    writable,
)  # fmt: skip
from tests.test_layers import ALLOWED, ROOT, at_top, imported


@pytest.mark.slow
def test_this_machine_passes_and_every_problem_names_its_fix(tmp_path: Path) -> None:
    findings = check(tmp_path / "runs")
    names = {"python", "packages", "torch", "opencv", "opencv works", "ocr models", "video codecs", "cpu", "memory", "disk"}
    names |= {"runs folder", "ray", "gpu", *OPTIONAL}
    assert names <= {f.what for f in findings}
    assert all(f.fix for f in findings if f.level != "ok")
    assert {f.level for f in findings if f.what in ("python", "packages", "torch", "opencv", "opencv works")} == {"ok"}
    assert {f.level for f in findings if f.what in ("ocr models", "video codecs")} == {"ok"}
    assert not (tmp_path / "runs").exists()


def test_an_old_python_is_bad() -> None:
    assert (python((3, 10, 13)).level, python((3, 11, 0)).level, python((3, 13, 1)).level) == ("bad", "ok", "ok")


def test_opencv_packages_overwrite_each_other() -> None:
    wanted = "opencv-contrib-python-headless"
    assert opencv({wanted: "5.0"}).level == "ok"
    clash = opencv({"opencv-python": "4.9", wanted: "5.0"})
    assert clash.level == "bad" and "uninstall opencv-python," in clash.fix
    assert opencv({}).level == "bad" and opencv({"opencv-python": "4.9"}).level == "bad"


def test_versions_are_compared_with_the_constraints(tmp_path: Path, monkeypatch) -> None:
    pins = tmp_path / "constraints.txt"
    assert pinned("# c\nAbc==1.2\n    # via x\nd==3 # e\n") == {"abc": "1.2", "d": "3"}
    pins.write_text("pillow==0.1\n")
    monkeypatch.setattr(doctor, "CONSTRAINTS", pins)
    [finding] = packages()
    assert (finding.level, finding.what) == ("note", "pillow") and "tested with 0.1" in finding.found
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=9999", "no-such-package", "zzz ; extra == 'dev'"])
    assert [(f.level, f.what) for f in packages()] == [("bad", "numpy"), ("bad", "no-such-package")]


def test_torch_without_its_torchvision_is_bad() -> None:
    assert torch_pair((0, "[false, null]")).level == "ok"
    broken = torch_pair(run_python("raise RuntimeError('operator torchvision::nms does not exist')"))
    assert broken.level == "bad" and "nms does not exist" in broken.found and "torchvision" in broken.fix
    crashed = torch_pair(run_python("import os; os.abort()"))
    assert crashed.level == "bad" and "silently" in crashed.found


def test_what_a_gpu_is_good_for_is_said() -> None:
    none, usable = gpu([], (0, "[false, null]")), gpu(["nvidia0"], (0, '[true, "13.0"]'))
    assert (none.level, usable.level) == ("note", "ok") and "CUDA 13.0" in usable.found
    assert "built for CPUs only" in gpu(["nvidia0"], (0, "[false, null]")).found
    unusable = gpu(["nvidia0"], (0, '[false, "13.0"]'))
    assert unusable.level == "note" and "nvidia-smi" in unusable.fix
    assert gpu(["nvidia0"], (1, "ImportError")).level == "note"


def test_a_media_library_that_lacks_something_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("av.codecs_available", set(CODECS) - {"av1"})
    assert codecs().level == "note" and "no av1" in codecs().found
    monkeypatch.setattr("av.codecs_available", {"h264"})
    assert codecs().level == "bad"
    monkeypatch.delattr("cv2.TrackerCSRT_create")
    assert tracker().level == "bad" and "contrib" in tracker().fix
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert tracker().level == "bad"


def test_optional_packages_are_imported_when_they_are_asked_for_and_not_before() -> None:
    texts = [path.read_text() for folder in ALLOWED for path in (ROOT / folder).glob("*.py")]
    used = {name.partition(".")[0] for text in texts for name, _ in imported(ast.parse(text))}
    early = {name for text in texts for name in at_top(text)}
    assert set(OPTIONAL) <= used and not early & set(OPTIONAL)
    assert [f.what for f in optional()] == list(OPTIONAL) and all(f.level != "bad" for f in optional())


def test_a_ray_that_does_not_answer_is_bad() -> None:
    assert ray_started((0, "42")).level == "ok"
    late = ray_started((-1, "no answer within 120 s"))
    assert late.level == "bad" and late.found == "no answer within 120 s" and late.fix


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_is_started_when_asked_for() -> None:
    assert [f.level for f in check(start_ray=True) if f.what == "ray starts"] == ["ok"]


def test_a_folder_that_is_a_file_is_not_writable(tmp_path: Path) -> None:
    file = tmp_path / "runs"
    file.write_text("")
    assert writable(file).level == "bad" and writable(tmp_path / "x" / "y").level == "ok"


@pytest.mark.slow
def test_the_command_line_reaches_it() -> None:
    script = "from pixelis.cluster.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, "doctor"], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1) and "opencv" in done.stdout and not done.stderr
    assert "->" in done.stdout  # whatever is not as it should be comes with what to do


@pytest.mark.slow
def test_findings_as_json_and_the_exit_status_of_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    command = [sys.executable, "-m", "pixelis.cluster.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    found = {f["what"]: f for f in json.loads(done.stdout)}
    assert (done.returncode, found["runs folder"]["level"]) == (1, "bad") and found["runs folder"]["fix"]
