"""An experiment: which cells are begun, when, and what becomes of one that fails. Made-up cells; no processes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pixelis.cluster import cells
from pixelis.cluster.cells import Experiment

HERE: set[str] = set()
"""Names of cells whose run is here."""


@dataclass(frozen=True)
class Cell:
    """`base` is what `start` is the policy of."""

    own: str
    base: str = ""

    @property
    def name(self) -> str:
        return f"results-made-{self.own}"

    @property
    def trained(self) -> bool:
        return self.name in HERE

    def __str__(self) -> str:
        return self.own


A, B = Cell("a"), Cell("b")
A1, A2, B1 = Cell("a1", "a"), Cell("a2", "a"), Cell("b1", "b")


class Made(Experiment[Cell]):
    """Two starts, and cells that go on from them; `a2` waits for `b1` too."""

    module = "made"

    def __init__(self, folder: Path) -> None:
        self.out = folder / "made.json"
        HERE.clear()

    def cells(self) -> list[Cell]:
        return [A, B, A1, A2, B1]

    def start(self, cell: Cell) -> Cell | None:
        return {"a": A, "b": B}.get(cell.base)

    def needed(self, cell: Cell) -> list[Cell]:
        return [*super().needed(cell), *([B1] if cell == A2 else [])]

    def train(self, cell: Cell) -> None:
        HERE.add(cell.name)

    def told(self, cell: Cell) -> dict[str, Any]:
        assert cell.trained
        return {"rows": [{"cell": cell.own}]}

    def page(self, kept: dict[Cell, dict[str, Any]]) -> Path:
        assert json.loads(self.out.read_text()) == [{"cell": cell.own} for cell in kept]
        return self.out

    def finished(self) -> set[str]:
        return {path.stem for path in self.out.with_suffix("").glob("*.json")}


class Ended:
    """A cell's process that is done when it is looked at the second time."""

    def __init__(self, code: int = 0) -> None:
        self.code, self.looks = code, 0

    def poll(self) -> int | None:
        self.looks += 1
        return self.code if self.looks > 1 else None


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells.time, "sleep", lambda _: None)


def test_what_has_a_file_is_passed_over(tmp_path: Path) -> None:
    """Of a start that came with the repository the policy is made again, if a cell still needs it."""
    made, asked = Made(tmp_path), list[Cell]()

    def begin(cell: Cell) -> Ended:
        asked.append(cell)
        made.train(cell)
        return Ended()

    for cell in (A, B, B1, A2):
        made.train(cell)
        made.keep(cell)
    HERE.clear()
    made.run(begin=begin)
    assert asked == [A, A1]
    made.run(begin=begin)
    assert len(asked) == 2


def test_another_world_restarts_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path)
    for cell in made.cells():
        made.train(cell)
        made.keep(cell)
    assert made.todo() == []
    monkeypatch.setattr(cells, "world", lambda: "where plates are round")
    assert made.todo() == made.cells() and made.read(A) is None
    made.keep(A)
    assert made.read(A) and made.gather() and json.loads(made.out.read_text()) == [{"cell": "a"}]


def test_cells_side_by_side_wait_for_what_they_need(tmp_path: Path) -> None:
    made, going, most = Made(tmp_path), dict[Cell, Ended](), 0

    def begin(cell: Cell) -> Ended:
        nonlocal most
        assert all(one.trained and going[one].looks > 1 for one in made.needed(cell))
        made.train(cell)
        going[cell] = Ended()
        most = max(most, sum(one.looks < 2 for one in going.values()))
        return going[cell]

    made.run(beside=2, begin=begin)
    assert set(going) == set(made.cells()) and most == 2
    assert list(going).index(B1) < list(going).index(A2)


def test_a_cell_that_fails_is_begun_again_and_then_given_up(tmp_path: Path) -> None:
    """What is finished stays finished, and what goes on beside it comes to its end."""
    made, begun = Made(tmp_path), list[Cell]()

    def begin(cell: Cell) -> Ended:
        begun.append(cell)
        made.train(cell)
        return Ended(code=int(cell == A1 or (cell == B and begun.count(B) == 1)))

    with pytest.raises(SystemExit, match=r"a1 failed 3 times: see runs/results-made-a1\.log"):
        made.run(beside=2, begin=begin)
    assert begun.count(A1) == 3 and begun.count(B) == 2
    assert {"a", "b"} <= made.finished() and "a1" not in made.finished()
