"""The whole loop on a real Ray, tiny: SFT then RFT, interrupted and resumed. Nothing is learned here."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from bench.kills import Run
from pixelis.actors import nano
from pixelis.cluster.cli import main
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


def test_a_blind_policy_is_refused_before_the_first_step(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A start policy whose picture is lost on its way to the language model."""
    model = nano.build(0)
    for name, weight in model.net.model.visual.named_parameters():
        if "merger" in name:
            weight.data.zero_()
    model.save(tmp_path / "blind")
    sets = ["--set", f"start={tmp_path / 'blind'}", "--set", "name=blind"]
    monkeypatch.setattr(sys, "argv", ["pixelis", "train", str(CONFIGS / "tiny_sft.toml"), *sets])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capfd.readouterr().err
    assert ended.value.code == 2 and "does not see" in told and "Traceback" not in told
    assert not (workplace / "runs" / "blind" / "metrics.jsonl").exists()


def test_ctrl_c_leaves_a_checkpoint_that_resume_continues(
    untrained: Path, workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sets: dict[str, object] = {"start": untrained, "name": "stopped", "eval.n": 0}
    with Run(CONFIGS / "tiny_sft.toml", {**sets, "stop.steps": 100_000}) as run:
        run.start()
        while len(run.stamps()) <= 4:
            run.next_step(after=(run.stamps() or [0.0])[-1])
        assert run.stop() == 130
    assert "--resume" in run.told() and "Traceback" not in run.told()
    saved = latest(run.root / "checkpoints" / "sft")
    assert saved is not None
    step = load_checkpoint(saved).state["version"][1]
    capfd.readouterr()
    Run(CONFIGS / "tiny_sft.toml", {**sets, "stop.steps": step + 2}).finish(resume=True)
    assert f"checkpoints/sft/{saved.name}" in capfd.readouterr().out
    lines = [json.loads(line) for line in (run.root / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, step + 3))
