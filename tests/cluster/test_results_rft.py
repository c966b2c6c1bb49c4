"""The experiment of CC-RFT: which cells there are, what each changes, and what the page makes of them. Made-up runs; no Ray."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pixelis.actors.score import Outcome
from pixelis.cluster import results_page, results_rft
from pixelis.cluster.results_rft import Cell, Rft
from pixelis.learners.loss import K3

OUTCOME = Outcome("code", True, steps=2, valid=2, calls=2, fidelity=0.5, composite=True, hops=(True,), redundant=(False, True))


def finish(cell: Cell, right: int, of: int = 20, steps: int = 2) -> None:
    """A finished cell as `pixelis train` leaves it, as far as its rows are made of it."""
    cell.root.mkdir(parents=True, exist_ok=True)
    told = [replace(OUTCOME, family=("code", "clip")[i % 2], success=i < right, steps=steps) for i in range(of)]
    (cell.root / f"heldout-{cell.phase}.json").write_text(json.dumps([asdict(one) for one in told]))
    (cell.root / "summary.json").write_text(json.dumps({"phases": {cell.phase: {"cpu_s": 300.0}}}))
    lines = [json.dumps({"phase": cell.phase, "step": i, f"{K3}_token_mean": 0.1}) for i in range(20)]
    (cell.root / "metrics.jsonl").write_text("\n".join(lines))


def test_arms_differ_in_what_they_are_named_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    full = Rft().config(Cell("early", "full", 1))
    for arm, weight in (("no_curiosity", "curiosity"), ("no_coherence", "coherence")):
        found = Rft().config(Cell("early", arm, 1))
        zero = replace(full.learner.intrinsic, **{weight: 0.0})
        assert found == replace(full, name=found.name, learner=replace(full.learner, intrinsic=zero))
    assert full.start == "runs/results-rft-early/policy/sft" and full.seed == 1
    rollouts = full.stop.steps * full.rollout.groups * full.rollout.group
    assert 12_000 <= rollouts < 12_128


def test_a_cell_comes_after_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no start has been lost
    order = Rft().cells()
    assert len(order) == len(set(order)) == 37
    for cell in order:
        if cell.arm != "sft":
            assert order.index(Cell(cell.start, "sft")) < order.index(cell)
        if cell.arm == "sft_more":
            assert order.index(Cell(cell.start, "full", cell.seed)) < order.index(cell)


def test_rows_items_and_page_of_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = [Cell("early", "sft"), Cell("early", "full", 0), Cell("early", "full", 1)]
    for cell, right, steps in zip(done, (8, 16, 12), (6, 2, 2), strict=True):
        finish(cell, right, steps=steps)
    for cell in done[::-1]:
        Rft().keep(cell)
    page = Rft().gather().read_text()
    rows = json.loads(Path("docs/results/rft.json").read_text())
    assert [row["arm"] for row in rows] == ["sft"] * 3 + ["full"] * 6
    assert set(rows[0]) == {
        "arm", "start", "seed", "split", "n", "success", "valid", "chain_length", "excess_calls", "rapr", "racpr", "visfid",
        "hop_rate", "redundancy", "kl", "cpu_s",
    }  # fmt: skip
    assert rows[0]["kl"] is None and rows[3]["kl"] == pytest.approx(0.1)
    assert rows[3]["success"] == 0.8 and rows[3]["excess_calls"] == pytest.approx(0.5)
    assert "| `full` gains 15 points from the early start | success, full less sft, early | +0.300 [" in page
    assert "| early | full | 89% | +0.300 | 1.0000 |" in page
    assert page.count("not yet") == len(results_page.HYPOTHESES) - 3
    assert Path("docs/results/rft.svg").read_bytes().startswith(b"<?xml")


def test_a_start_that_was_lost_and_came_out_otherwise_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start, once, again = Cell("early", "sft"), Cell("early", "full", 0), Cell("early", "full", 1)
    for right, arm, gained in ((8, once, 16), (8, once, 20), (4, again, 16)):  # the second time it is the same
        finish(start, right)
        Rft().keep(start)
        finish(arm, gained)
        Rft().keep(arm)
    assert Rft().config(Cell("early", "sft", 1)) == Rft().config(start)  # by the same command
    rows = json.loads((Rft().gather(), Path("docs/results/rft.json").read_text())[1])
    assert [(row["arm"], row["seed"], row["success"]) for row in rows if row["split"] == "heldout"] == [
        ("sft", 0, 0.4), ("sft", 1, 0.2), ("full", 0, 0.8), ("full", 1, 0.8)]  # fmt: skip
    items = [json.loads(Rft().file(cell).read_text())["items"] for cell in Rft().cells() if Rft().file(cell).exists()]
    found = results_page.compared(items, results_page.HYPOTHESES[0])
    assert found is not None and found.mean == pytest.approx(0.5)
    assert "| early | full | 0% | +0.500 | 1.0000 |" in Path("docs/results/rft.md").read_text()


def test_figures_can_be_made_from_the_items_alone() -> None:
    item = results_rft.packed([OUTCOME, replace(OUTCOME, fidelity=None, hops=(), redundant=())])
    assert results_page.values(item, "hop_rate").sum(0).tolist() == [1.0, 1.0]
    assert results_page.values(item, "redundancy").sum(0).tolist() == [1.0, 2.0]
    assert results_page.values(item, "visfid").tolist() == [[0.5, 1.0], [0.0, 0.0]]
    assert results_page.values(item, "chain_length").tolist() == [2.0, 2.0]
