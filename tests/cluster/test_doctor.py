import subprocess
import sys
from pathlib import Path

from pixelis.cluster import doctor
from pixelis.cluster.doctor import check, opencv, packages, pinned, python, writable


def test_this_machine_passes_and_every_problem_names_its_fix(tmp_path: Path) -> None:
    findings = check(tmp_path / "runs")
    names = {"python", "packages", "opencv", "ocr models", "cpu", "memory", "disk", "runs folder", "ray", "gpu"}
    assert names <= {f.what for f in findings}
    assert all(f.fix for f in findings if f.level != "ok")
    assert {f.level for f in findings if f.what in ("python", "packages", "opencv", "ocr models")} == {"ok"}
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


def test_a_folder_that_is_a_file_is_not_writable(tmp_path: Path) -> None:
    file = tmp_path / "runs"
    file.write_text("")
    assert writable(file).level == "bad" and writable(tmp_path / "x" / "y").level == "ok"


def test_the_command_line_reaches_it() -> None:
    script = "from pixelis.cluster.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, "doctor"], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1) and "opencv" in done.stdout and not done.stderr
