"""Replay of exemplars: what is kept, what comes back, and how often."""

import json
from collections import Counter

import pytest

from pixelis.learners.exemplars import Recall, due
from pixelis.memory.trajectory import Trajectory, Turn
from pixelis.tools.call import ToolCall


def exemplar(name: str, *ops: str) -> Trajectory:
    turns = [Turn((5,), (6,), (-0.5,), call=ToolCall(op, {"on": "img0"})) for op in ops]
    return Trajectory(name, f"task {name}", "?", (), (*turns, Turn((5,), (7, 8), (-0.5, -0.25), roles="aa")), "K")


def names(some: list[Trajectory]) -> list[str]:
    return [one.id for one in some]


def test_the_newest_are_kept_and_old_ones_go() -> None:
    recall = Recall(most=3, age=10)
    for step in range(5):
        recall.add(step, [exemplar(str(step))])
    assert sorted(names(recall.draw(9, step=5))) == ["2", "3", "4"]
    assert sorted(names(recall.draw(9, step=13))) == ["3", "4"] and recall.draw(9, step=15) == []
    nothing = Recall(most=0, age=10)
    nothing.add(0, [exemplar("a")])
    assert nothing.draw(1, 1) == []


def test_rare_chains_come_back_as_often_as_common_ones() -> None:
    recall = Recall(most=100, age=1000)
    recall.add(0, [exemplar(f"often{i}", "OCR") for i in range(9)] + [exemplar("rare", "ZOOM", "OCR")])
    drawn = Counter(recall.draw(1, step)[0].id for step in range(400))
    assert drawn["rare"] == pytest.approx(200, abs=40)
    assert len({one.id for one in recall.draw(10, 3)}) == 10, "none twice"


def test_a_draw_depends_on_the_step_and_on_what_is_kept_alone() -> None:
    recall = Recall(most=100, age=1000)
    recall.add(0, [exemplar(str(i), *["OCR"] * (i % 3)) for i in range(20)])
    other = Recall(most=100, age=1000)
    state, tables = recall.state()
    other.restore(json.loads(json.dumps(state)), tables)
    draws = [recall.draw(4, step) for step in range(8)]
    assert [other.draw(4, step) for step in range(7, -1, -1)] == draws[::-1]
    assert len({tuple(names(draw)) for draw in draws}) > 1
    empty = Recall(most=1, age=1)
    empty.restore(*Recall(most=1, age=1).state())
    assert empty.kept == []


@pytest.mark.parametrize("fresh", [1, 3, 4, 16])
def test_shares_are_right_in_the_long_run(fresh: int) -> None:
    steps = 1000
    counts = {share: sum(len(due(share, 0.65, fresh, step)) for step in range(steps)) for share in (0.25, 0.1, 0.0)}
    whole = fresh * steps + sum(counts.values())
    assert [n / whole for n in counts.values()] == pytest.approx([0.25, 0.1, 0.0], abs=1e-3)
    assert [due(0.1, 0.65, fresh, step).stop for step in range(steps)] == [
        due(0.1, 0.65, fresh, step + 1).start for step in range(steps)
    ]
