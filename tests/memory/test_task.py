import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import text

from pixelis.memory.task import Evidence, GoldTask, Task

unit = st.integers(0, 1000)
box = st.tuples(unit, unit, unit, unit)


def some(part):
    return st.lists(part, max_size=2).map(tuple)


tasks = st.builds(Task, text, text, some(text), st.sampled_from(["text", "choice", "number"]), text)
evidence = st.builds(
    Evidence,
    some(box),
    some(text),
    some(st.tuples(unit, unit)),
    some(some(st.tuples(unit, unit))),
    some(some(st.tuples(unit, unit, unit, unit, unit))),
)


@settings(max_examples=30)
@given(st.builds(GoldTask, tasks, text, evidence, text))
def test_json_round_trip(gold):
    assert GoldTask.from_dict(json.loads(json.dumps(gold.to_dict()))) == gold
    assert Task.from_dict(json.loads(json.dumps(gold.task.to_dict()))) == gold.task


def test_a_task_cannot_carry_its_answer():
    gold = GoldTask(Task("a", "what?", ("sha",)), "K7P", Evidence(texts=("K7P",)))
    assert "K7P" not in repr(gold.task) and "K7P" not in json.dumps(gold.task.to_dict())
    assert not isinstance(gold, Task)
    with pytest.raises(TypeError):
        Task.from_dict({**gold.task.to_dict(), "answer": "K7P"})


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="task a: answer type 'essay'"):
        Task("a", "what?", (), "essay")
    with pytest.raises(ValueError, match="evidence boxes: coordinate 1001"):
        Evidence(boxes=((0, 0, 10, 1001),))
