"""The results page: how long the equal-cost control runs, and what the rows say. The runs are made up; no Ray."""

import json
from pathlib import Path

import pytest

from pixelis.cluster import results
from pixelis.memory import checkpoint

FIGURES = {"n": 1000, "success": 0.5, "valid": 1.0, "chain_length": 2.0, "rapr": 1.0, "visfid": 0.5}


def finish(name: str, phase: str, cpu_s: float, success: float = 0.5) -> None:
    """A finished run as `pixelis train` leaves it, as far as the page reads it."""
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    heldout = {family: {**FIGURES, "success": success} for family in ("code", "clip", "all")}
    (folder / "summary.json").write_text(json.dumps({"phases": {phase: {"heldout": heldout, "steps": 1400, "cpu_s": cpu_s}}}))


def save(name: str, step: int, cpu_s: float) -> None:
    folder = Path("runs") / name / "checkpoints" / "sft"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(folder / f"step-{step:06d}", {}, {"loop": {"step": step}, "spent": {"cpu_s": cpu_s}})


def test_sft_more_costs_what_rft_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """700 CPU s less an evaluation of 100 buy 1 200 steps at half a second each."""
    monkeypatch.chdir(tmp_path)
    finish("loop-sft-4", "sft", 600.0)
    save("loop-sft-4", 1350, 475.0)
    save("loop-sft-4", 1400, 500.0)
    assert results.equal_steps(Path("runs/loop-sft-4"), 700.0) == 1200


def test_rows_name_phase_family_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finish("loop-sft_more-1", "sft", 600.0)
    rows = list(results.rows("sft_more", 1))
    assert [row["family"] for row in rows] == ["code", "clip", "all"]
    assert rows[0] == {"phase": "sft_more", "family": "code", "seed": 1, **FIGURES, "cpu_s": 600.0}


def test_the_page_gives_mean_and_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, success in enumerate((0.5, 0.75, 1.0)):
        finish(f"loop-rft-{seed}", "rft", 100.0, success)
    page = results.write_page([row for seed in range(3) for row in results.rows("rft", seed)])
    assert "| rft | 3 x 1000 | 0.750 [0.500, 1.000] |" in page
