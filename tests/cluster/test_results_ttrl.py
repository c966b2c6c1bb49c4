"""The experiments of test-time training: which cells there are, what each changes, what the page says of them. Made-up runs."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from pixelis.actors.stream import Answer, Key
from pixelis.cluster import results_ttrl, ttrl_page
from pixelis.cluster.results_ttrl import ARMS, LR, STREAMS, Cell, Ttrl, drift
from pixelis.learners.loss import k3_to
from pixelis.learners.probe import probed
from pixelis.memory.journal import Frozen, Journal, RolledBack

NONE = Cell("lighting", "none")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results_ttrl.results_rft, "started", lambda: Path("runs/start/policy/rft"))
    monkeypatch.setattr(results_ttrl, "ceiling", lambda *_: 1.0)


def finish(cell: Cell, unseen: float, clean: float = 0.9, kl: float = 0.1, of: int = 100, fell: bool = False) -> None:
    """A finished cell as it leaves its run, as far as its row is made of it: every fifth question abstained from."""
    cell.root.mkdir(parents=True, exist_ok=True)
    for name, share in (("unseen", unseen), ("clean", clean)):
        (cell.root / f"{name}.json").write_text(json.dumps([int(i < share * of) for i in range(of)]))
    if cell.arm == "none":
        return
    keys = [Key(f"q{i}", "A", "text", "code") for i in range(40)]
    Path(f"runs/results-ttrl-{cell.stream}-{cell.seed}.key.jsonl").write_text("\n".join(json.dumps(asdict(k)) for k in keys))
    rounds = STREAMS[cell.stream].rounds
    asked = [f"q{i}" + (f"@{number}" if number > 1 else "") for number in range(1, rounds + 1) for i in range(40)]
    told = [Answer(name, "A" if i % 2 else "B", abstained=i % 5 == 0) for i, name in enumerate(asked)]
    (cell.root / "answers.jsonl").write_text("\n".join(json.dumps(asdict(one)) for one in told))
    (cell.root / "summary.json").write_text(json.dumps({"phases": {"ttrl": {"cpu_s": 300.0}}}))
    anchor = Ttrl().config(cell).learner.ttrl.anchor
    journal = Journal(cell.root / "journal.jsonl")
    for entry in [RolledBack("canary", 8, "b", "a"), Frozen("canary", 8, "a")] if fell else []:
        journal.write(entry)
    journal.close()
    line = {"groups": 4.0, "abstained": 1.0, f"{k3_to(anchor)}_token_mean": kl, probed(anchor): 2 * kl}
    lines = [json.dumps({**line, "step": i, "skipped": float(i % 4 == 3)}) for i in range(40)]
    (cell.root / "metrics.jsonl").write_text("\n".join(lines))


def test_every_cell_is_one_run_and_comes_after_its_stream() -> None:
    order = Ttrl().cells()
    assert len(order) == len(set(order)) == len({cell.name for cell in order})
    assert {cell.stream for cell in order} == set(STREAMS) and {cell.arm for cell in order} == {"none", *ARMS}
    for cell in order:
        assert all(order.index(one) < order.index(cell) for one in Ttrl().needed(cell))


def test_arms_differ_in_what_they_are_named_after() -> None:
    full = Ttrl().config(Cell("motion", "full", LR))
    for arm, differs in (
        ("no_ema", lambda c: c.learner.ttrl.anchor == "start"),
        ("no_abstain", lambda c: not c.learner.ttrl.gate.abstain),
        ("no_kl", lambda c: c.learner.grpo.beta == c.learner.corridor.high == 0),
        ("answer_only", lambda c: c.learner.ttrl.vote.behaviour == c.learner.ttrl.vote.fidelity == 0),
    ):
        found = Ttrl().config(Cell("motion", arm, LR))
        assert differs(found) and not differs(full)
        assert replace(found, name=full.name, learner=full.learner) == full
    assert full.tasks.file == "runs/results-ttrl-motion-none/stream-0/tasks.jsonl"


def test_rows_and_page_of_what_is_finished() -> None:
    made = Ttrl()
    cells = [NONE, *(Cell("lighting", arm, LR, seed) for arm in ("full", "answer_only") for seed in (0, 1))]
    for cell, unseen in zip(cells, (0.6, 0.8, 0.8, 0.7, 0.7), strict=True):
        finish(cell, unseen)
        made.keep(cell)
    page = made.gather().read_text()
    rows = json.loads(made.out.read_text())
    assert {
        "arm", "stream", "severity", "seed", "lr", "n", "updates", "success_unseen", "success_clean", "ceiling", "kl_median",
        "kl_p95", "under", "inside", "over", "abstain_rate", "rollbacks",
    } <= set(rows[0])  # fmt: skip
    assert rows[1]["updates"] == 30 and rows[1]["abstain_rate"] == 0.25 and rows[1]["inside"] == 1.0
    assert "| `full` closes 40 % of the gap under lighting | unseen, full less none, lighting | +0.200 [" in page
    assert "| 50% | yes |" in page
    assert page.count("not yet") == len(ttrl_page.HYPOTHESES) - 3
    assert (made.out.with_suffix(".svg")).read_bytes().startswith(b"<?xml")


def test_gains_are_over_the_start_that_an_arm_went_on_from() -> None:
    made, arms = Ttrl(), [Cell("lighting", "full", LR, seed) for seed in (0, 1)]
    for none, arm in zip((0.6, 0.5), arms, strict=True):  # the start policy was lost, and made again it is another
        (NONE.root / "unseen.json").unlink(missing_ok=True)
        (NONE.root / "clean.json").unlink(missing_ok=True)
        finish(NONE, none)
        made.keep(NONE)
        finish(arm, 0.8)
        made.keep(arm)
    page = made.gather().read_text()
    assert [(row["arm"], row["seed"]) for row in json.loads(made.out.read_text())] == [
        ("none", 0), ("none", 1), ("full", 0), ("full", 1)]  # fmt: skip
    assert "unseen, full less none, lighting | +0.250 [" in page and "| 56% | yes |" in page


def test_a_folder_that_is_revisited_has_one_answer_a_round() -> None:
    for cell in (Cell("folder", "none"), Cell("folder", "full", LR)):
        finish(cell, 0.7)
        Ttrl().keep(cell)
    kept = json.loads(Ttrl().file(Cell("folder", "full", LR)).read_text())
    assert len(kept["items"]["served"]) == 40 * STREAMS["folder"].rounds


def test_the_best_rate_is_among_those_of_all_seeds() -> None:
    def kept(lr: float, seed: int, success: float) -> dict[str, dict[str, object]]:
        return {"row": {"stream": "lighting", "arm": "full", "lr": lr, "seed": seed, "success_unseen": success}}

    some = [kept(1e-5, 0, 0.7), kept(1e-5, 1, 0.7), kept(2e-5, 0, 0.6), kept(2e-5, 1, 0.9), kept(4e-5, 0, 1.0)]
    assert [one["row"]["lr"] for one in ttrl_page.best(some, "lighting", "full")] == [2e-5, 2e-5]


def test_endurance_is_long_and_every_run_ends_with_its_stream() -> None:
    steps = {name: Ttrl().config(Cell(name, "full", LR)).stop.steps for name in STREAMS}
    assert steps == {"lighting": 300, "motion": 300, "switch": 300, "folder": 300, "endurance": 2000}


def test_the_page_says_whether_the_corridor_held_and_which_rates_are_borne() -> None:
    made = Ttrl()
    rates = [("full", LR, 0.88), ("full", 2 * LR, 0.86), ("full", 4 * LR, 0.7), ("unsafe", LR, 0.86), ("unsafe", 2 * LR, 0.8)]
    finish(Cell("motion", "none"), 0.5)
    made.keep(Cell("motion", "none"))
    for arm, lr, clean in rates:
        finish(Cell("motion", arm, lr), 0.6, clean=clean)
        made.keep(Cell("motion", arm, lr))
    page = made.gather().read_text()
    assert f"`full` bears {2 * LR:g} and `unsafe` {LR:g}: the margin of `full` is at least a step larger." in page
    assert "at least 100% in each of its 3 runs" in page and "is 0.200 (none" in page and "(90 % were expected: yes)" in page


def test_parts_of_full_are_compared_at_their_own_rate() -> None:
    def kept(arm: str, lr: float, unseen: str) -> dict[str, object]:
        row = {"stream": "lighting", "arm": arm, "lr": lr, "seed": 0, "success_unseen": unseen.count("1") / 4}
        return {"row": row, "items": {"unseen": unseen}, "origin": 0}

    some = [
        kept("full", LR, "1000"),
        kept("full", 2 * LR, "1111"),
        kept("no_abstain", LR, "1100"),
        kept("answer_only", LR, "1110"),
    ]
    part, rival = (
        ttrl_page.compared(some, ttrl_page.Hypothesis("", "lighting", arm, "unseen", lambda *_: True))
        for arm in ("no_abstain", "answer_only")
    )
    assert part and rival and (part.mean, rival.mean) == (-0.25, 0.25)


def test_weights_that_were_put_back_after_the_last_update_count() -> None:
    cell = Cell("motion", "full", LR)
    for fell in (False, True):
        finish(cell, 0.5, fell=fell)
        assert drift(cell.root, Ttrl().config(cell))["rollbacks"] == int(fell)


def test_an_arm_of_another_start_than_its_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    finish(NONE, 0.5)
    Ttrl().keep(NONE)
    monkeypatch.setattr(results_ttrl.results_rft, "started", lambda: Path("runs/other/policy/rft"))
    finish(Cell("lighting", "full", LR), 0.6)
    with pytest.raises(ValueError, match="went on from runs/other/policy/rft, and `none` of its stream is of runs/start"):
        Ttrl().keep(Cell("lighting", "full", LR))


def test_drift_is_told_by_the_same_edges_for_all_arms() -> None:
    cells = [Cell("motion", "full", LR), Cell("motion", "unsafe", LR)]
    for cell in cells:
        finish(cell, 0.5, kl=0.25)
    found = [drift(cell.root, Ttrl().config(cell)) for cell in cells]
    assert found[0] == found[1] and found[0]["over"] == found[0]["over_window"] == 1.0
    assert np.isclose(found[0]["probe_max"], 0.5)
