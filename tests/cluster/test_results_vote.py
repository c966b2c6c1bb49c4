"""The vote table: which streams there are, what its arms are made of, what is kept and what the page says. Made-up votes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.cluster import results_vote
from pixelis.cluster.attack import Attack
from pixelis.cluster.results_vote import COUNTED, SINGLE, STREAMS, Cell, Votes, verdicts_of
from pixelis.cluster.vote_page import ADVERSARIAL, HYPOTHESES, Counted, area
from pixelis.learners.arm import ARMS, VoteSettings, arm
from pixelis.learners.vote import Ballot, Neighbour, vote
from pixelis.memory.look import Look
from pixelis.memory.task import Task

BALLOTS = [Ballot(f"r{i}", "AAB" if i % 3 else "KKH", looks=(Look("OCR", text="KKH"),), tokens=f"t{i}") for i in range(16)]
NEAR = [Neighbour(Ballot(f"n{i}", "FFN"), 0.5 + i / 20) for i in range(8)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results_vote.results_rft, "started", lambda: Path("runs/start/policy/rft"))


def finish(cell: Cell, n: int = 40) -> None:
    """A finished cell: `full` and all but hard majority know which of their answers are wrong."""
    rng = np.random.default_rng(0)
    right = rng.random(n) < 0.7
    sure = {name: rng.random(n) if name == "hard_majority" else 0.5 + right / 2 for name in (*ARMS, *SINGLE)}
    kept = {name: Counted(one, right, right) for name, one in sure.items()}
    cell.root.mkdir(parents=True)
    (cell.root / COUNTED).write_text(json.dumps({name: one.pack() for name, one in kept.items()}))


def test_every_stream_is_a_cell_and_comes_after_the_rollouts_that_it_takes() -> None:
    order = Votes().cells()
    assert {cell.stream for cell in order} == set(STREAMS) and set(ADVERSARIAL) <= set(STREAMS)
    for cell in order:
        assert all(order.index(one) < order.index(cell) for one in Votes().needed(cell))
        of = STREAMS[cell.stream].of
        assert not of or STREAMS[of].shift == STREAMS[cell.stream].shift
    assert {one.stream for one in HYPOTHESES} <= set(STREAMS) and {one.theirs for one in HYPOTHESES} <= set(ARMS)


@pytest.mark.usefixtures("here")
def test_rows_and_page_of_what_is_finished() -> None:
    made = Votes()
    for name in ("lighting", "copied"):
        finish(Cell(name))
        made.keep(Cell(name))
    page = made.gather().read_text()
    rows = json.loads(made.out.read_text())
    assert {"arm", "stream", "n", "accuracy", "aurc", "coverage", "err_at_sel"} <= set(rows[0])
    assert [row["arm"] for row in rows if row["stream"] == "copied"] == [*ARMS, *SINGLE]
    [line] = [line for line in page.splitlines() if "errs 10 % less than hard majority under copied" in line]
    assert line.endswith("| yes |")
    assert page.count("not yet") == sum(one.stream not in ("lighting", "copied") for one in HYPOTHESES)
    assert made.out.with_suffix(".svg").read_bytes().startswith(b"<?xml")


@pytest.mark.usefixtures("here")
def test_before_the_first_run_the_page_has_its_hypotheses() -> None:
    assert Votes().gather().read_text().count("not yet") == len(HYPOTHESES)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.booleans()), min_size=1))
def test_what_is_kept_of_each_question_ranks_as_it_did(some: list[tuple[float, bool, bool]]) -> None:
    one = Counted(*map(np.array, zip(*some, strict=True)))
    again = Counted.unpack(json.loads(json.dumps(one.pack())))
    assert (again.right == one.right).all() and (again.selected == one.selected).all()
    assert np.abs(again.confidence - one.confidence).max() <= 0.5 / 65535 + 1e-9


def test_each_arm_is_a_vote_of_its_own_on_the_same_rollouts() -> None:
    task = Task("q", "?", (), "text", "code")
    told = verdicts_of(BALLOTS, NEAR, task, VoteSettings())
    for name, verdict in told.items():
        assert verdict == vote(BALLOTS, NEAR, "text", arm(name, VoteSettings()))
    assert told["full"].answer == "KKH" and told["hard_majority"].answer == "AAB"


def test_the_area_is_that_of_the_coverages_in_between() -> None:
    right = np.arange(100) < 80
    assert area(np.linspace(1, 0, 100), right) == pytest.approx(np.mean([max(0, n - 80) / n for n in range(71, 96)]))


@given(st.floats(0, 1), st.integers(0, 100))
def test_wrong_neighbours_say_what_a_wrong_rollout_said(share: float, seed: int) -> None:
    found = Attack(neighbours=share).neighbours_of(NEAR, BALLOTS, "KKH", ["MMM"], np.random.default_rng(seed))
    assert len(found) == len(NEAR)
    changed = [one for one, before in zip(found, NEAR, strict=True) if one != before]
    assert all((one.ballot.answer, one.similarity) == ("AAB", NEAR[-1].similarity) for one in changed)
    assert len(changed) == {0.0: 0, 1.0: 8}.get(share, len(changed))
    alone = Attack(neighbours=1.0).neighbours_of(NEAR, [Ballot("r", "KKH")], "KKH", ["MMM"], np.random.default_rng(seed))
    assert {one.ballot.answer for one in alone} == {"MMM"}


@given(st.integers(0, 100))
def test_a_wrong_rollout_stands_in_the_place_of_half_of_them(seed: int) -> None:
    found = Attack(copied=1.0).rollouts(BALLOTS, "KKH", np.random.default_rng(seed))
    assert [one.id for one in found] == [one.id for one in BALLOTS]
    most = max(found, key=lambda one: sum(one.tokens == other.tokens for other in found))
    assert most.answer == "AAB" and sum(one.tokens == most.tokens for one in found) == 9
    assert Attack().rollouts(BALLOTS, "KKH", np.random.default_rng(seed)) == BALLOTS
    assert Attack(copied=1.0).rollouts(BALLOTS[:1], "KKH", np.random.default_rng(seed)) == BALLOTS[:1]


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_one(share: float) -> None:
    for name in ("neighbours", "copied"):
        with pytest.raises(ValueError, match="between 0 and 1"):
            Attack(**{name: share})
