"""The whole loop on a real Ray, tiny: SFT then RFT, interrupted and resumed. Nothing is learned here."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pixelis.actors import nano
from pixelis.cluster.config import load
from pixelis.cluster.run import train_all
from pixelis.memory.checkpoint import latest
from pixelis.memory.checkpoint import load as load_checkpoint
from pixelis.memory.codec import decode
from pixelis.memory.ledger import Ledger, account
from pixelis.memory.replay import ReplayShard, catalogs
from pixelis.tools.media import MediaStore

CONFIGS = Path(__file__).parents[2] / "configs"

pytestmark = [pytest.mark.ray, pytest.mark.slow]
FIGURES = {"n", "success", "valid", "chain_length", "rapr", "visfid", "racpr", "hop_rate", "redundancy"}


@pytest.fixture(scope="module")
def run(untrained: Path, workplace: Path) -> Path:
    """Both phases, one Ray session."""
    sft = load(CONFIGS / "tiny_sft.toml", [f"start={untrained}", "save_every=2"])
    return train_all([sft, load(CONFIGS / "tiny_rft.toml", ["start=''"])])


def test_the_summary_has_its_schema(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["phases"]) == {"sft", "rft"}
    for phase in summary["phases"].values():
        assert set(phase["heldout"]) == {"code", "clip", "all"}
        assert all(set(row) == FIGURES for row in phase["heldout"].values())
        assert phase["heldout"]["all"]["n"] == 8
        assert phase["wall_s"] > 0 and phase["cpu_s"] > 0
        assert {"cores", "load_1"} <= set(phase["load_end"])


def test_every_step_is_in_the_metrics(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["phase"] == "sft"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if line["phase"] == "rft"] == [1, 2]
    assert {"reward", "valid", "rollouts", "infra"} <= set(lines[-1])


def test_versions_of_phases_do_not_overlap(run: Path) -> None:
    phases = json.loads((run / "summary.json").read_text())["phases"]
    assert phases["sft"]["version"] == [0, 6]
    assert phases["rft"]["version"][0] == 1


def test_what_was_acted_is_durable_and_whole(run: Path) -> None:
    shard = ReplayShard(run / "replay" / "rft", [MediaStore(run / "media")])
    groups = [group for groups in shard.read(range(len(shard.records))) for group in groups]
    assert len(groups) == len(shard) == 4 and all(len(group) == 4 for group in groups)
    assert {t.versions[0] for group in groups for t in group.trajectories} <= {(1, 0), (1, 1)}
    ledger = Ledger(run / "ledger" / "rft")
    found = account(catalogs(run / "replay" / "rft"), ledger.entries, once=True)
    assert found.balanced and (found.stored, found.pending) == (16, 0)
    shard.close()
    ledger.close()


def test_evaluated_episodes_are_kept_with_their_media(run: Path) -> None:
    groups = decode((run / "heldout-sft.arrow").read_bytes())
    assert len(groups) == 8
    assert all(sha in MediaStore(run / "media") for g in groups for sha in g.media)


def test_a_resumed_run_equals_the_uninterrupted_one(run: Path, untrained: Path) -> None:
    again = run.with_name("again")
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "sft" / "step-000006")
    shutil.rmtree(again / "checkpoints" / "rft")
    (again / "summary.json").unlink()
    train_all([load(CONFIGS / "tiny_sft.toml", [f"start={untrained}", "name=again", "eval.n=0"])], resume=True)
    one, other = (load_checkpoint(r / "checkpoints/sft/step-000006") for r in (run, again))
    assert other.state["version"] == [1, 6]
    for file in ("model", "optimizer"):
        assert set(one.tensors[file]) == set(other.tensors[file])
        assert all((one.tensors[file][k] == other.tensors[file][k]).all() for k in one.tensors[file])


def test_a_blind_policy_is_refused_before_the_first_step(workplace: Path, tmp_path: Path) -> None:
    """A start policy whose picture is lost on its way to the language model."""
    model = nano.build(0)
    for name, weight in model.net.model.visual.named_parameters():
        if "merger" in name:
            weight.data.zero_()
    model.save(tmp_path / "blind")
    command = [sys.executable, "-m", "pixelis.cluster.cli", "train", str(CONFIGS / "tiny_sft.toml")]
    sets = ["--set", f"start={tmp_path / 'blind'}", "--set", "name=blind"]
    done = subprocess.run([*command, *sets], capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and "does not see" in done.stderr and "Traceback" not in done.stderr
    assert not (workplace / "runs" / "blind" / "metrics.jsonl").exists()


def test_ctrl_c_leaves_a_checkpoint_that_resume_continues(untrained: Path, workplace: Path) -> None:
    command = [sys.executable, "-m", "pixelis.cluster.cli", "train", str(CONFIGS / "tiny_sft.toml")]
    sets = ["--set", f"start={untrained}", "--set", "name=stopped", "--set", "eval.n=0"]
    first = subprocess.Popen([*command, *sets, "--set", "stop.steps=100000"], stderr=subprocess.PIPE, text=True)
    metrics = workplace / "runs" / "stopped" / "metrics.jsonl"
    until = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text().count("\n") > 4):
        assert first.poll() is None, first.stderr.read() if first.stderr else ""
        assert time.monotonic() < until, "no step within 240 s"
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    _, told = first.communicate(timeout=120)
    assert first.returncode == 130
    assert "--resume" in told and "Traceback" not in told
    saved = latest(workplace / "runs" / "stopped" / "checkpoints" / "sft")
    assert saved is not None
    step = load_checkpoint(saved).state["version"][1]
    more = ["--set", f"stop.steps={step + 2}", "--resume"]
    second = subprocess.run([*command, *sets, *more], capture_output=True, text=True, timeout=240)
    assert second.returncode == 0, second.stderr
    assert f"checkpoints/sft/{saved.name}" in second.stdout
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, step + 3))
