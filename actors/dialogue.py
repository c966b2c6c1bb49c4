"""Dialogues of other formats as traces: Pixel-Reasoner's SFT data, and chat messages with tool calls (docs/traces.md)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pixelis.actors.clip import avi
from pixelis.actors.foreign import Mapper, Unmapped
from pixelis.actors.questions import mistyped
from pixelis.actors.traces import TraceLine
from pixelis.memory.task import AnswerType
from pixelis.tools.call import ToolFailure, parse_call
from pixelis.tools.decode import MediaError
from pixelis.tools.media import MediaStore

Layout = Literal["pixel-reasoner", "chat"]
CALLED = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
ANSWERED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
TAGS = re.compile(r"</?(?:think|answer)>")
GUIDELINES = "\n\nGuidelines:"
"""What Pixel-Reasoner's questions end with: it names its own tools."""
IMITATED = 2
"""Assistant turns from the end that Pixel-Reasoner's trainer counts in its loss: those before are shown only."""
OFFERED = re.compile(r"\n\s*choices:|\n\s*\(?[A-H][).:]", re.IGNORECASE)


@dataclass(slots=True)
class Turn:
    """What an assistant said in one message.

    Example: Turn("Look closer.", [("crop_image", {"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1})])
    """

    text: str
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    results: list[dict[str, Any] | None] = field(default_factory=list)
    """What the tools were recorded to say, where it is an observation of ours."""
    erroneous: bool = False


@dataclass(slots=True)
class Dialogue:
    """One record, whichever its layout: a question about media, and the turns to its answer."""

    question: str
    media: list[Path]
    frames: list[Path]
    """Of a clip that is given as pictures; empty when it is a file, or when there is none."""
    turns: list[Turn]
    name: str = ""
    answer: str = ""
    answer_type: AnswerType | None = None
    family: str = "task"


def records(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each record of a file stands, and what it is: a JSON list, or an object a line. Unmapped is the value where
    a line is no JSON."""
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        for number, record in enumerate(json.loads(text), 1):
            yield f"record {number}", record
        return
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except ValueError as error:
                yield f"line {number}", Unmapped(f"not JSON: {error}")


class Importer:
    """Records of one layout to lines of a traces file; media are named relative to it.

    Example:
        >>> Importer("chat", Path("data"), Path("out.jsonl")).line(record)         # doctest: +SKIP
    """

    def __init__(self, layout: Layout, source: Path, out: Path) -> None:
        self.layout, self.source, self.out = layout, source, out
        self.clips = 0

    def line(self, record: Any) -> TraceLine:
        """The trace that a record is. Unmapped with the reason when it is none."""
        if isinstance(record, Unmapped):
            raise record
        if not isinstance(record, dict):
            raise Unmapped("not an object")
        dialogue = _pixel_reasoner(record, self.source) if self.layout == "pixel-reasoner" else _chat(record, self.source)
        media = self._media(dialogue)
        answer = dialogue.answer or _answer(dialogue.turns[-1].text)
        said: dict[str, Any] = {
            "version": 1,
            "id": dialogue.name,
            "question": dialogue.question,
            "media": [self._beside(path) for path in media],
            "answer": answer,
            "answer_type": dialogue.answer_type or _kind(dialogue.question, answer),
            "family": dialogue.family,
            "steps": self._steps(dialogue.turns, self._mapper(media)),
        }
        try:
            return TraceLine.model_validate(said)
        except ValidationError as error:
            first = error.errors()[0]
            raise Unmapped(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error

    def _steps(self, turns: list[Turn], mapper: Mapper) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = []
        for number, turn in enumerate(turns, 1):
            last = number == len(turns)
            if bool(turn.calls) == last:
                raise Unmapped("the last message calls a tool" if last else f"assistant message {number} calls no tool")
            thought = _thought(turn.text, last)
            try:
                ours = [mapper.calls(name, arguments) for name, arguments in turn.calls]
            except Unmapped as error:
                raise Unmapped(f"assistant message {number}: {error}") from error
            for calls, result in zip(ours, [*turn.results, *[None] * len(ours)], strict=False):
                for call in calls:
                    step = {"thought": thought, "call": {"name": call.name, "arguments": call.arguments}}
                    told = {"observation": result} if result is not None and len(calls) == 1 else {}
                    steps.append({**step, **told, **({"erroneous": True} if turn.erroneous else {})})
                    thought = ""
            if last and thought:
                steps.append({"thought": thought})
        return steps

    def _media(self, dialogue: Dialogue) -> list[Path]:
        """The media files; pictures that are the frames of a clip become one, beside the traces."""
        for path in (*dialogue.media, *dialogue.frames):
            if not path.is_file():
                raise Unmapped(f"{path}: no such file")
        if not dialogue.media and not dialogue.frames:
            raise Unmapped("no picture and no clip")
        if not dialogue.frames:
            return dialogue.media
        data = packed(dialogue.frames)
        self.clips += 1
        path = self.out.parent / f"{self.out.stem}-clips" / f"{self.clips}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return [path]

    def _mapper(self, media: list[Path]) -> Mapper:
        store = MediaStore()
        try:
            info = store.info(store.add_file(media[0]))
        except (MediaError, OSError) as error:
            raise Unmapped(str(error)) from error
        return Mapper((info.width, info.height), info.frames if info.kind == "clip" else 0, len(media) - 1)

    def _beside(self, path: Path) -> str:
        """A path from the folder of the traces file."""
        return os.path.relpath(path, self.out.parent)


def packed(frames: list[Path]) -> bytes:
    """Pictures of one size as a clip. Unmapped when they differ."""
    import cv2

    pictures, sizes = [], set()
    for path in frames:
        pixels = cv2.imread(str(path))
        if pixels is None:
            raise Unmapped(f"{path}: not a picture")
        sizes.add((pixels.shape[1], pixels.shape[0]))
        data = path.read_bytes()
        pictures.append(data if data[:2] == b"\xff\xd8" else cv2.imencode(".jpg", pixels)[1].tobytes())
    if len(sizes) > 1:
        raise Unmapped(f"frames of different sizes: {', '.join(f'{w}x{h}' for w, h in sorted(sizes))}")
    return avi(pictures, sizes.pop())


def _pixel_reasoner(record: dict[str, Any], source: Path) -> Dialogue:
    """One record of release.json: system, question with its medium, then assistant and tool in turns."""
    messages = record.get("message_list")
    if not isinstance(messages, list) or len(messages) < 3:
        raise Unmapped("no message_list of at least three messages")
    parts = [_parts(message) for message in messages]
    asked = parts[1]
    question = "".join(part["text"] for part in asked if part.get("text")).split(GUIDELINES)[0].strip()
    media = [_file(part["image"], source) for part in asked if part.get("image")]
    videos = [part["video"] for part in asked if part.get("video")]
    if len(videos) > 1 or (videos and media):
        raise Unmapped("a clip among other media")
    if videos and not isinstance(videos[0], list):
        raise Unmapped("a video that is not a list of its frames")
    frames = [_file(name, source) for name in videos[0]] if videos else []
    said = [some for message, some in zip(messages, parts, strict=True) if message.get("role") == "assistant"]
    if not said:
        raise Unmapped("no assistant message")
    turns = [_turn("".join(part.get("text") or "" for part in one)) for one in said]
    for turn in turns[:-IMITATED]:
        turn.erroneous = True
    if not _answer(turns[-1].text, whole=False):
        raise Unmapped("no \\boxed{} and no <answer> in the last message")
    return Dialogue(question, media, frames, turns, name=str(record.get("qid") or ""))


def _chat(record: dict[str, Any], source: Path) -> Dialogue:
    """One record of chat messages, as OpenAI's API and its fine-tuning files write them."""
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Unmapped("no list of messages")
    begun = next((i for i, m in enumerate(messages) if isinstance(m, dict) and m.get("role") == "assistant"), None)
    if begun is None:
        raise Unmapped("no assistant message")
    asked = [part for m in messages[:begun] for part in _parts(m) if m.get("role") == "user"]
    text = "".join(part.get("text") or "" for part in asked)
    question = re.sub(r"<image>|<video>", "", text).strip()
    named = [_address(part) for part in asked if part.get("type", "text") != "text"] or _listed(record, text)
    turns: list[Turn] = []
    for message in messages[begun:]:
        said = "".join(part.get("text") or "" for part in _parts(message))
        if message.get("role") == "assistant":
            turns.append(_turn(said, message.get("tool_calls") or []))
            turns[-1].erroneous = message.get("weight") == 0
        elif message.get("role") in ("tool", "user") and turns[-1].calls:
            turns[-1].results.append(_observation(said))
        else:
            raise Unmapped(f"a message of {message.get('role')!r} that answers no call: only one question is asked")
    return Dialogue(
        question, [_file(name, source) for name in named], [], turns, str(record.get("id") or ""),
        str(record.get("answer") or ""), record.get("answer_type"), str(record.get("family") or "task"),
    )  # fmt: skip


def _parts(message: Any) -> list[dict[str, Any]]:
    """The content of a message as parts; text alone is one."""
    if not isinstance(message, dict):
        raise Unmapped("a message that is not an object")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content or ""}]
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise Unmapped(f"a message of {message.get('role')!r} whose content is neither text nor a list of parts")
    return content


def _listed(record: Mapping[str, Any], text: str) -> list[Any]:
    """The media that a record lists beside its messages: as many as the question has marks for, the rest being results."""
    found: list[Any] = []
    for key, mark in (("images", "<image>"), ("videos", "<video>")):
        listed = record.get(key) or []
        if not isinstance(listed, list):
            raise Unmapped(f"{key} that are not a list")
        found += listed[: text.count(mark)] if mark in text else listed
    return found


def _address(part: Mapping[str, Any]) -> Any:
    """Where a part of a message says that its medium lies."""
    kind = part.get("type")
    found = part.get(str(kind))
    return found.get("url") if isinstance(found, dict) else found


def _file(name: Any, source: Path) -> Path:
    """A medium beside the source file; Unmapped for what is no path."""
    if not isinstance(name, str) or not name:
        raise Unmapped(f"a medium that is not a path: {name!r}"[:200])
    if re.match(r"data:|[a-z]+://", name):
        raise Unmapped(f"{name[:80]}: an address, and nothing is fetched: download it and name the file")
    return source.parent / name


def _turn(text: str, tool_calls: Any = ()) -> Turn:
    """What an assistant's message says and calls, as tool_calls or in its text."""
    turn = Turn(CALLED.sub("", text))
    for written in CALLED.findall(text):
        try:
            call = parse_call(written)
        except ToolFailure as failure:
            raise Unmapped(f"a call that is none: {failure.message}") from failure
        turn.calls.append((call.name, call.arguments))
    for one in tool_calls:
        function = one.get("function") if isinstance(one, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        try:
            given = json.loads(arguments) if isinstance(arguments, str) else arguments
        except ValueError as error:
            raise Unmapped(f"arguments that are not JSON: {error}") from error
        if not isinstance(function, dict) or not isinstance(given, dict) or not isinstance(function.get("name"), str):
            raise Unmapped("a tool call without a function's name and arguments")
        turn.calls.append((function["name"], given))
    return turn


def _observation(text: str) -> dict[str, Any] | None:
    """A tool's message where it is an observation as our tools write it; others' are made anew by playing."""
    try:
        found = json.loads(re.sub(r"</?tool_response>", "", text))
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("ok"), bool) else None


def _answer(text: str, whole: bool = True) -> str:
    """What stands in <answer> or in a \\boxed{}, else (with `whole`) all of it."""
    if found := ANSWERED.findall(text):
        return str(found[-1]).strip()
    if (span := _boxed(text)) is not None:
        return text[span[0] + len("\\boxed{") : span[1] - 1].strip()
    return TAGS.sub("", text).strip() if whole else ""


def _thought(text: str, last: bool) -> str:
    """What is said beside the calls, or before the answer."""
    if last and not _answer(text, whole=False):
        return ""
    text = ANSWERED.sub("", text) if last else text
    if last and (span := _boxed(text)) is not None:
        text = text[: span[0]] + text[span[0] + len("\\boxed{") : span[1] - 1] + text[span[1] :]
    return TAGS.sub("", text).strip()


def _boxed(text: str) -> tuple[int, int] | None:
    """Where the last \\boxed{} starts and ends, its braces balanced."""
    start = text.rfind("\\boxed{")
    depth = 0
    for end in range(start, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0 and text[end] == "}":
            return start, end + 1
    return None


def _kind(question: str, answer: str) -> AnswerType:
    """The type of an answer whose record does not say it: a letter where the question offers some, a number, or text."""
    if OFFERED.search(question) and mistyped(answer, "choice") is None:
        return "choice"
    return "number" if mistyped(answer, "number") is None else "text"
