"""A disk without room: one line, exit status 2, and what was there before is whole.

RLIMIT_FSIZE stands for the full disk: the kernel itself refuses the write (EFBIG), wherever in the code it is made.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bench.kills import PARTS, Run, below
from pixelis.cluster.audit import audit
from pixelis.cluster.errors import is_users, told
from pixelis.cluster.track import Track
from pixelis.memory import checkpoint
from pixelis.memory.log import replace_file
from pixelis.tools.media import MediaStore
from tests.cluster.runs import make_run
from tests.fakes_media import plate, png

COMMAND = [sys.executable, "-m", "pixelis.cluster.cli"]
LITTLE = (200, 200)
"""Bytes that a file may have (soft and hard limit)."""


def _little_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, LITTLE)


def test_what_is_said_of_a_full_disk() -> None:
    full = OSError(28, "No space left on device", "runs/x")
    assert is_users(full) and "runs/x" in told(full) and "--resume" in told(full) and "\n" not in told(full)
    assert not is_users(OSError(5, "Input/output error"))


@pytest.mark.slow
def test_a_report_that_finds_no_room_leaves_the_old_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, 4)
    subprocess.run([*COMMAND, "report", str(run)], check=True, capture_output=True, timeout=300)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = subprocess.run([*COMMAND, "report", str(run)], capture_output=True, text=True, timeout=300, preexec_fn=_little_room)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "File too large" in done.stderr and "make room" in done.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


WRITE = """
import sys
from pathlib import Path
from pixelis.memory.log import Log, replace_file
from pixelis.memory.replay import ReplayShard
from pixelis.memory.trajectory import Group, Trajectory
from pixelis.tools.media import MediaStore
root, big = Path(sys.argv[1]), bytes(9000)
def fails(act):
    try:
        act()
    except OSError as error:
        assert error.errno == 27, error
    else:
        raise SystemExit("there was room")
def save():
    import torch
    from pixelis.memory import checkpoint
    checkpoint.save(root / "step-2", {"model": {"w": torch.zeros(9000)}}, {})
log = Log(root / "log")
fails(lambda: log.append(b"2", big))
fails(lambda: replace_file(root / "summary.json", big))
fails(lambda: MediaStore(root / "media").put(big))
fails(save)
shard = ReplayShard(root / "shard")
fails(lambda: shard.add("p", 1, [Group("t", (Trajectory("t", "t", "?", (), ()),))]))
shard.close()
log.append(b"3", b"small")
log.close()
"""


@pytest.mark.slow
def test_every_store_is_as_before_after_a_write_that_found_no_room(tmp_path: Path) -> None:
    """Log, small files, media, checkpoints and a replay shard: the ways in which a run writes what it must not lose."""
    import torch

    from pixelis.memory.log import Log
    from pixelis.memory.replay import ReplayShard
    from pixelis.memory.trajectory import Group, Trajectory

    groups = [Group("t", (Trajectory("t", "t", "?", (), ()),))]
    shard = ReplayShard(tmp_path / "shard")
    shard.add("p", 0, groups)
    shard.close()
    log = Log(tmp_path / "log")
    log.append(b"1", b"first")
    log.close()
    replace_file(tmp_path / "summary.json", b"{}")
    picture = MediaStore(tmp_path / "media").put(png(plate("K7P")))
    checkpoint.save(tmp_path / "step-1", {"model": {"w": torch.ones(2)}}, {})
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, preexec_fn=_little_room)
    assert done.returncode == 0, done.stderr
    again = Log(tmp_path / "log")
    assert [again.read(i) for i in range(len(again))] == [b"first", b"small"]
    again.close()
    shard = ReplayShard(tmp_path / "shard")
    assert shard.read([0]) == [groups] and len(shard.records) == 1 and shard.add("p", 1, groups) == 1
    shard.close()
    assert (tmp_path / "summary.json").read_bytes() == b"{}"
    assert MediaStore(tmp_path / "media").get(picture) == png(plate("K7P"))
    assert checkpoint.load(tmp_path / "step-1").tensors["model"]["w"].tolist() == [1, 1]
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_half_a_line_of_figures_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    Track(tmp_path, "sft", "", {}).log(2, {"nll": 1.0})
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


@pytest.mark.ray
@pytest.mark.slow
def test_a_checkpoint_that_finds_no_room_ends_the_run_and_resume_goes_on(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learner's process may write no more (RLIMIT_FSIZE), from its second checkpoint on."""
    monkeypatch.chdir(tmp_path)
    sets: dict[str, object] = {"name": "full", "start": untrained, "eval.n": 0}
    with Run("tiny_sft", {**sets, "stop.steps": 100_000}) as run:
        run.start()
        run.next_step(after=0.0)
        assert run.process is not None
        for pid in below(run.process.pid, PARTS["learner rank"]):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, LITTLE)
        assert run.process.wait(240) == 2, run.told()
    last = run.told().splitlines()[-1]
    assert "File too large" in last and "make room" in last and "Traceback" not in run.told()
    folder = run.root / "checkpoints" / "sft"
    saved = checkpoint.latest(folder)
    assert saved is not None and not list(folder.glob(".*"))
    steps = checkpoint.load(saved).state["version"][1] + 2
    Run("tiny_sft", {**sets, "stop.steps": steps}).finish(resume=True)
    assert checkpoint.load(folder / f"step-{steps:06d}").state["version"][1] == steps
    assert audit(run.root)["sft"].balanced
