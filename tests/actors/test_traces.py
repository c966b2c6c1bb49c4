"""Traces from a file: what is one, what must not be learned from, and what an erroneous span is worth."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pixelis.actors import nano
from pixelis.actors.engine import TransformersEngine
from pixelis.actors.episode import Limits
from pixelis.actors.questions import TaskError
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutSettings, RolloutWorker
from pixelis.actors.traces import Reciter, TraceFile, TraceLine, difference, interleaved, play
from pixelis.learners.loss import RoleWeights
from pixelis.memory.trajectory import Trajectory
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox
from tests.fakes_media import avi, blank, moving_square, plate, png

READ = {"name": "OCR", "arguments": {"on": "img0", "box": [312, 343, 718, 625], "level": "line"}}
STEP = {"thought": "Look for red.", "call": READ}
LINE: dict[str, Any] = {"version": 1, "question": "What is written?", "media": ["plate.png"], "answer": "K7P", "steps": [STEP]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plate.png").write_bytes(png(plate("K7P")))
    (tmp_path / "blank.png").write_bytes(png(blank()))
    (tmp_path / "clip.avi").write_bytes(avi(moving_square(6)[0]))
    return tmp_path


def written(folder: Path, *lines: object) -> TraceFile:
    path = folder / "traces.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return TraceFile(path, MediaStore())


def fault(folder: Path, line: dict[str, Any]) -> str | None:
    """Of one trace, played through the real tools."""
    file = written(folder, line)
    trace = file.trace(0)
    workspace, reciter = Workspace(file.store, trace.gold.task.media[0]), Reciter(trace)
    return reciter.fault(workspace, play(reciter, workspace, Toolbox(file.store))[1])


def test_a_trace_that_shows_its_answer_passes(folder: Path) -> None:
    said = {"ok": True, "data": {"text": "k7p"}}
    zoomed = {"call": {"name": "ZOOM", "arguments": {"on": "img0", "box": [343, 375, 687, 593]}}}
    evidence = {"boxes": [[343, 375, 687, 583]], "texts": ["K7P"]}
    assert fault(folder, LINE) is None
    assert fault(folder, {**LINE, "evidence": evidence, "steps": [{**STEP, "observation": said}]}) is None
    assert fault(folder, {**LINE, "steps": [{**STEP, "evidence": evidence}, {**zoomed, "evidence": evidence}]}) is None
    assert fault(folder, {**LINE, "steps": []}) is None
    assert fault(folder, {**LINE, "steps": [STEP, {"thought": "It reads K7P."}]}) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"evidence": {"texts": ["K7Q"]}}, "no call shows the evidence"),
        ({"steps": [{**STEP, "evidence": {"texts": ["K7"]}}, {**STEP, "evidence": {"texts": ["K9"]}}]}, "step 2: OCR: agrees"),
        ({"steps": [{**STEP, "evidence": {"boxes": [[0, 0, 9, 9]]}}]}, "step 1: OCR: this evidence says nothing"),
        ({"steps": [{**STEP, "evidence": {"boxes": [[0, 0, 9, 1009]]}}]}, "outside 0..1000"),
        ({"steps": [{**STEP, "evidence": {"colour": "red"}}]}, "evidence: "),
        ({"steps": [{**STEP, "observation": {"data": {"text": "K7Q"}}}]}, 'data.text: recorded "K7Q", the tool says "K7P"'),
        ({"steps": [{**STEP, "observation": {"data": {"words": 1}}}]}, "data.words: recorded, the tool says nothing of it"),
        ({"steps": [{**STEP, "observation": {"ok": False, "error": "no_text"}}]}, "step 1: OCR: "),
        ({"media": ["blank.png"]}, "step 1: OCR: "),
        ({"steps": [{"call": {"name": "READ", "arguments": {}}}]}, "unknown_op"),
        ({"steps": [{"call": {"name": "OCR", "arguments": {"on": "img3"}}}]}, "dangling_handle"),
        ({"steps": [{"call": {"name": "ZOOM", "arguments": {"on": "img0", "box": [0, 0, 9, 2000]}}}]}, "box_out_of_range"),
        ({"answer": "three", "answer_type": "number"}, "answer 'three' is no number"),
        ({"answer": "nan", "answer_type": "number"}, "answer 'nan' is no finite number"),
        ({"answer": "K7P", "answer_type": "choice"}, "answer 'K7P' is not the letter of a choice"),
        ({"answer": " "}, "the answer is blank"),
    ],
)
def test_a_trace_whose_evidence_is_wrong_is_refused(folder: Path, changes: dict[str, Any], told: str) -> None:
    assert told in str(fault(folder, {**LINE, **changes}))


def test_boxes_and_windows_are_evidence_too(folder: Path) -> None:
    frame = {"name": "TEMP", "arguments": {"on": "img0", "window": [250, 250]}}
    clip = {**LINE, "media": ["clip.avi"], "steps": [{"call": frame, "evidence": {"windows": [[200, 300]]}}]}
    assert fault(folder, clip) is None
    assert "agrees" in str(fault(folder, {**clip, "steps": [{"call": frame, "evidence": {"windows": [[500, 900]]}}]}))
    late = {**clip, "evidence": {"windows": [[500, 900]]}, "steps": [{"call": frame}]}
    assert fault(folder, late) == "no call shows the evidence"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": 2}, "line 2: version: Input should be 1"),
        ({"version": None}, "line 2: version: "),
        ({"answer": None}, "line 2: answer: "),
        ({"steps": [{"thought": "so"}, STEP]}, "line 2: the line: .*step 1 has no call"),
        ({"steps": [{"thought": "so", "erroneous": True}]}, "line 2: the line: .*step 1 has no call"),
        ({"steps": [{**STEP, "thougth": ""}]}, r"line 2: steps\.0\.thougth: "),
        ({"steps": [{**STEP, "thought": "</tool_call>"}]}, r"line 2: steps\.0\.thought: .*</tool_call>"),
        ({"answer": "<|im_end|>"}, "line 2: answer: "),
        ({"steps": [{"call": {"name": "OCR"}}]}, r"line 2: steps\.0\.call\.arguments: "),
        ({"steps": [{"call": {"name": "OCR", "arguments": {"on": float("nan")}}}]}, r"line 2: steps\.0\.call\.arguments: "),
    ],
)
def test_what_is_no_trace_is_told_with_its_line(folder: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(TaskError, match=rf"traces\.jsonl: {told}"):
        written(folder, LINE, {**LINE, **changes})


words = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=20)
plain = st.none() | st.booleans() | st.integers(-9, 2000) | words
values = st.recursive(plain, lambda some: st.lists(some, max_size=3), max_leaves=5)
calls = st.fixed_dictionaries({"name": words.filter(bool), "arguments": st.dictionaries(words, values)})
steps = st.fixed_dictionaries(
    {"thought": words, "call": calls},
    optional={"observation": st.dictionaries(words, values), "erroneous": st.booleans()},
)


@given(st.lists(steps, max_size=4), words.filter(bool), words)
def test_what_is_written_is_read_back(some: list[dict[str, Any]], answer: str, closing: str) -> None:
    line = TraceLine.model_validate({**LINE, "answer": answer, "steps": [*some, {"thought": closing}]})
    assert TraceLine.model_validate(json.loads(json.dumps(line.model_dump(exclude_defaults=True)))) == line


def test_what_splits_lines_elsewhere_may_stand_in_a_thought(folder: Path) -> None:
    path = folder / "traces.jsonl"
    path.write_text(json.dumps({**LINE, "question": "one\u2028two\x85"}, ensure_ascii=False) + "\n")
    assert TraceFile(path, MediaStore()).lines[0].question == "one\u2028two\x85"


@given(values)
def test_a_result_does_not_differ_from_itself(value: Any) -> None:
    assert difference(value, value) is None


@pytest.mark.parametrize(
    ("recorded", "found", "told"),
    [
        ({"box": [100, 100, 200, 200]}, {"box": [120, 80, 200, 200]}, None),
        ({"box": [100, 100, 200, 200]}, {"box": [121, 100, 200, 200]}, "box.0: recorded 100, the tool says 121"),
        ({"count": 3}, {"count": 4}, "count: recorded 3, the tool says 4"),
        ({"boxes": [[1, 2]]}, {"boxes": [[1, 2], [3, 4]]}, "boxes: recorded [[1,2]], the tool says [[1,2],[3,4]]"),
        ({"ok": True}, {"ok": False}, "ok: recorded true, the tool says false"),
        ({"text": "A  b"}, {"text": "a B "}, None),
    ],
)
def test_recorded_results_are_compared_within_a_tolerance(recorded: Any, found: Any, told: str | None) -> None:
    assert difference(recorded, found) == told


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_families_are_learned_from_in_turns(families: list[str]) -> None:
    order = interleaved(families)
    assert sorted(order) == list(range(len(families)))
    first = [families[i] for i in order[: len(set(families))]]
    assert len(set(first)) == len(first)


def recited(folder: Path, *lines: dict[str, Any], calls: int = 8) -> tuple[list[Trajectory], list[str]]:
    """What a worker with an untrained policy makes of traces, and what it refuses."""
    file = written(folder, *lines)
    model = nano.build(0)
    renderer = Renderer(model)
    settings = RolloutSettings(limits=Limits(calls=calls))
    engine = TransformersEngine(model, file.store, renderer.stop)
    worker = RolloutWorker(file, Toolbox(file.store), renderer, engine, settings, run=0)
    return [group.trajectories[0] for group in worker.recite(range(len(file)))], worker.refused


def test_traces_are_recited_with_what_the_tools_say(folder: Path) -> None:
    told, refused = recited(folder, LINE, {**LINE, "family": "mine", "id": "one", "steps": [STEP, {"thought": "So."}]})
    assert not refused
    assert [(t.task_id, t.family, t.answer) for t in told] == [("traces/1", "task", "K7P"), ("one", "mine", "K7P")]
    assert all(t.turns[0].result is not None and t.turns[0].result.data == {"text": "K7P"} for t in told)
    assert "v" in told[0].roles and "x" not in told[0].roles
    assert told[1].turns[1].roles.startswith("ttt") and told[0].turns[1].roles.startswith("s")


def test_an_error_is_shown_and_its_recovery_imitated(folder: Path) -> None:
    """Erroneous spans have weight zero, token for token, though they failed; what follows counts."""
    nothing = {"name": "OCR", "arguments": {"on": "img0", "box": [0, 0, 250, 250]}}
    bad = {"thought": "Look for blue.", "call": nothing, "erroneous": True}
    (told,), refused = recited(folder, {**LINE, "steps": [bad, STEP]})
    assert not refused
    error, recovery, answer = told.turns
    assert error.result is not None and not error.result.ok
    assert set(error.roles) == {"x"} and "x" not in recovery.roles + answer.roles
    weights = RoleWeights().of(torch.frombuffer(bytearray("".join(t.roles for t in told.turns).encode()), dtype=torch.uint8))
    assert weights[: len(error.roles)].abs().max() == 0 and (weights[len(error.roles) :] > 0).all()
    assert "step 1: OCR" in recited(folder, {**LINE, "steps": [{**bad, "erroneous": False}, STEP]})[1][0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"media": ["gone.png"]}, "line 2: .*No such file"),
        ({"evidence": {"texts": ["K7Q"]}}, "line 2: no call shows the evidence"),
        ({"answer": "Κ7Π"}, "line 2: step 2: the policy's tokens cannot spell it"),
        ({"steps": [STEP] * 3}, "line 2: step 3: one call more than rollout.limits.calls allows"),
    ],
)
def test_what_fails_is_told_and_left_out(folder: Path, changes: dict[str, Any], told: str) -> None:
    kept, refused = recited(folder, LINE, {**LINE, **changes}, calls=2)
    assert [t.task_id for t in kept] == ["traces/1"]
    assert len(refused) == 1
    assert re.search(told, refused[0])
