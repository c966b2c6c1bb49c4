"""Other formats' dialogues as traces: a hand-written sample of each, taken over and played."""

import json
from pathlib import Path
from typing import Any

import pytest

from pixelis.actors.dialogue import Importer, Layout, records
from pixelis.actors.foreign import Unmapped
from pixelis.actors.traces import Reciter, TraceFile, TraceLine, play
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox
from tests.fakes_media import blank, jpeg, plate, png

GUIDE = "\n\nGuidelines: Understand the given visual information. For an image, we can look closer by `crop_image`."


def text(words: str) -> dict[str, Any]:
    """A part as the published rows have it: every key, one of them filled."""
    return {"type": "text", "text": words, "image": None, "video": None}


def called(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def cropped(box: list[float]) -> str:
    return called("crop_image", bbox_2d=box, target_image=1)


def said(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


def image(name: str) -> dict[str, Any]:
    return {"type": "image", "text": None, "image": name, "video": None}


def picture() -> dict[str, Any]:
    """A record about a still, with an error that is corrected."""
    return {
        "qid": "p-1",
        "message_list": [
            said("system", text("You are a helpful assistant.")),
            said("user", text("What does the plate say?\nchoices:\nA: K7P\nB: R3D" + GUIDE), image("images/plate.png")),
            said("assistant", text("<think>Top left.</think>" + cropped([0, 0, 0.2, 0.2]))),
            said("user", text("Here is the crop:"), image("images/crop-1.png")),
            said("assistant", text("Not there. " + cropped([0.3, 0.35, 0.7, 0.6]))),
            said("user", text("Here is the crop:"), image("images/crop-2.png")),
            said("assistant", text("It says K7P, so \\boxed{A}.")),
        ],
    }


def film() -> dict[str, Any]:
    """A record about a clip, which is a list of its frames."""
    frames = [f"videos/7/{n}.jpg" for n in range(16)]
    return {
        "qid": "v-7",
        "message_list": [
            said("system", text("You are a helpful assistant.")),
            said("user", text("How red is it?" + GUIDE), {"type": "video", "text": None, "image": None, "video": frames}),
            said("assistant", text("Look at some. " + called("select_frames", target_frames=[3, 9, 16]))),
            said("user", text("Here are the selected frames:"), *map(image, (frames[2], frames[8], frames[15]))),
            said("assistant", text("Very. \\boxed{\\text{200 of {255}}}")),
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "plate.png").write_bytes(png(plate("K7P")))
    (tmp_path / "data" / "videos" / "7").mkdir(parents=True)
    for n in range(16):
        (tmp_path / "data" / "videos" / "7" / f"{n}.jpg").write_bytes(jpeg(blank(96, 64, (15 * n, 0, 0))))
    return tmp_path


def taken(folder: Path, layout: Layout, record: Any) -> TraceLine:
    out = folder / "out" / "traces.jsonl"
    out.parent.mkdir(exist_ok=True)
    return Importer(layout, folder / "data" / "release.json", out).line(record)


def replayed(folder: Path, line: TraceLine) -> str | None:
    """Written, read and played: why it must not be learned from."""
    path = folder / "out" / "traces.jsonl"
    path.write_text(json.dumps(line.model_dump()) + "\n")
    file = TraceFile(path, MediaStore())
    trace = file.trace(0)
    workspace, reciter = Workspace(file.store, trace.gold.task.media[0]), Reciter(trace)
    return reciter.fault(workspace, play(reciter, workspace, Toolbox(file.store))[1])


def test_a_picture_of_pixel_reasoner(folder: Path) -> None:
    line = taken(folder, "pixel-reasoner", picture())
    assert line.question == "What does the plate say?\nchoices:\nA: K7P\nB: R3D"
    assert (line.id, line.media, line.answer, line.answer_type) == ("p-1", ["../data/images/plate.png"], "A", "choice")
    assert [step.call.arguments for step in line.steps if step.call] == [
        {"on": "img0", "box": [0, 0, 200, 200]}, {"on": "img0", "box": [300, 350, 700, 600]},
    ]  # fmt: skip
    assert [step.thought for step in line.steps] == ["Top left.", "Not there.", "It says K7P, so A."]
    assert [step.erroneous for step in line.steps] == [True, False, False]
    assert replayed(folder, line) is None


def test_a_clip_of_pixel_reasoner_is_made_of_its_frames(folder: Path) -> None:
    line = taken(folder, "pixel-reasoner", film())
    assert line.media == ["traces-clips/1.avi"] and line.answer == "\\text{200 of {255}}" and line.answer_type == "text"
    assert [step.call.name for step in line.steps if step.call] == ["TEMP"] * 3
    store = MediaStore()
    info = store.info(store.add_file(folder / "out" / line.media[0]))
    assert (info.kind, info.frames, info.width, info.height) == ("clip", 16, 96, 64)
    assert replayed(folder, line) is None


PLATE = {"type": "image_url", "image_url": {"url": "images/plate.png"}}
ZOOM = {"name": "ZOOM", "arguments": {"on": "img0", "box": [312, 343, 718, 625]}}
OPENAI = {
    "id": "chat-1",
    "messages": [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": [PLATE, {"type": "text", "text": "What code?"}]},
        {"role": "assistant", "content": "Wrong place.", "weight": 0, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "OCR", "arguments": '{"on":"img0","box":[0,0,200,200]}'}}]},
        {"role": "tool", "tool_call_id": "a", "content": '{"ok":false,"error":"no_text"}'},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "b", "type": "function", "function": ZOOM},
            {"id": "c", "type": "function", "function": {"name": "OCR", "arguments": '{"on":"img1"}'}}]},
        {"role": "tool", "tool_call_id": "b", "content": '{"ok":true,"ref":"img1"}'},
        {"role": "tool", "tool_call_id": "c", "content": '{"ok":true,"data":{"text":"K7P"}}'},
        {"role": "assistant", "content": "K7P"},
    ],
}  # fmt: skip


def test_chat_messages_with_tool_calls(folder: Path) -> None:
    line = taken(folder, "chat", OPENAI)
    assert (line.id, line.question, line.media, line.answer) == ("chat-1", "What code?", ["../data/images/plate.png"], "K7P")
    assert [(step.thought, step.call.name if step.call else "", step.erroneous) for step in line.steps] == [
        ("Wrong place.", "OCR", True), ("", "ZOOM", False), ("", "OCR", False),
    ]  # fmt: skip
    assert [step.observation for step in line.steps] == [
        {"ok": False, "error": "no_text"}, {"ok": True, "ref": "img1"}, {"ok": True, "data": {"text": "K7P"}},
    ]  # fmt: skip


def test_an_observation_that_is_not_what_the_tool_says_is_found(folder: Path) -> None:
    changed = json.loads(json.dumps(OPENAI).replace('K7P\\"', 'K7Q\\"'))
    assert 'recorded "K7Q", the tool says "K7P"' in str(replayed(folder, taken(folder, "chat", changed)))


def test_chat_messages_with_calls_in_their_text(folder: Path) -> None:
    messages = [
        {"role": "user", "content": "<image>How many plates?"},
        {"role": "assistant", "content": "<think>Closer.</think>" + cropped([96, 84, 224, 144])},
        {"role": "user", "content": "<tool_response><image></tool_response>"},
        {"role": "assistant", "content": "<think>One.</think><answer>1</answer>"},
    ]
    line = taken(folder, "chat", {"messages": messages, "images": ["images/plate.png", "crop.png"], "family": "count"})
    assert (line.question, line.answer, line.answer_type, line.family) == ("How many plates?", "1", "number", "count")
    assert line.media == ["../data/images/plate.png"]  # the other one is what a tool showed
    assert line.steps[0].call is not None and line.steps[0].call.arguments["box"] == [300, 350, 700, 600]
    assert [step.thought for step in line.steps] == ["Closer.", "One."]
    assert replayed(folder, line) is None


def cut(record: dict[str, Any], number: int, message: dict[str, Any] | None = None) -> dict[str, Any]:
    """The record with one of its messages replaced, or ended before it."""
    messages = record["message_list"]
    return {**record, "message_list": messages[:number] + ([message, *messages[number + 1 :]] if message else [])}


PYTHON = said("assistant", text(called("python", code="1")))
SHORT = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "A"}]


@pytest.mark.parametrize(
    ("layout", "record", "told"),
    [
        ("pixel-reasoner", {"messages": []}, "no message_list"),
        ("pixel-reasoner", [], "not an object"),
        ("pixel-reasoner", cut(picture(), 4), "no .*boxed"),
        ("pixel-reasoner", cut(picture(), 4, said("assistant", text("Hm."))), "assistant message 2 calls no tool"),
        ("pixel-reasoner", cut(picture(), 4, PYTHON), "assistant message 2: no tool of ours"),
        ("pixel-reasoner", cut(picture(), 4, said("assistant", text("<tool_call>{</tool_call>"))), "a call that is none"),
        ("pixel-reasoner", cut(picture(), 1, said("user", text("What?"), image("images/gone.png"))), "gone.png: no such file"),
        ("pixel-reasoner", cut(picture(), 1, said("user", text("What?"))), "no picture and no clip"),
        ("pixel-reasoner", cut(film(), 1, said("user", text("?"), {"video": "videos/7.mp4"})), "not a list of its frames"),
        ("chat", {"messages": OPENAI["messages"][:-1]}, "the last message calls a tool"),
        ("chat", {"messages": [*OPENAI["messages"], {"role": "user", "content": "Sure?"}]}, "only one question"),
        ("chat", {"messages": [{"role": "user", "content": "What?"}]}, "no assistant message"),
        ("chat", {"messages": SHORT, "images": ["data:x"]}, "an address"),
        ("chat", {**OPENAI, "answer_type": "essay"}, "answer_type: "),
    ],
)  # fmt: skip
def test_what_cannot_be_mapped_is_told(folder: Path, layout: Layout, record: Any, told: str) -> None:
    with pytest.raises(Unmapped, match=told):
        taken(folder, layout, record)


def test_records_stand_in_a_list_or_on_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}, {"a": 2}]')
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n\n{"a"\n')
    assert list(records(tmp_path / "a.json")) == [("record 1", {"a": 1}), ("record 2", {"a": 2})]
    (first, one), (third, broken) = records(tmp_path / "b.jsonl")
    assert (first, one, third) == ("line 1", {"a": 1}, "line 3") and isinstance(broken, Unmapped)
