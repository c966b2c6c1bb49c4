"""Text and views to tokens, and sampled tokens back to a call or an answer.

The template is Qwen's chat format. Each piece is tokenised once and only joined as tokens: tokens are the truth, text is
never re-tokenised (architecture, section 3).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from pixelis.memory.model import Model
from pixelis.memory.task import Task
from pixelis.tools.call import ToolCall, ToolFailure, ToolResult, parse_call
from pixelis.tools.frame import View, frame_at
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.prop import COUNTS

CALL_END = "</tool_call>"
TURN_END = "<|im_end|>"
CALLED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
ANSWERED = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)
NAMED = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"]*)"')
GIVEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|(-?\d+(?:\.\d+)?)')
"""A string of JSON, a key when its second group is there, or a number."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the environment adds to a sequence: tokens, and the views their placeholders show."""

    tokens: tuple[int, ...]
    views: tuple[View, ...] = ()


@dataclass(frozen=True, slots=True)
class Parsed:
    """What sampled text means: one call, one answer, or an error code (a `policy` failure)."""

    call: ToolCall | None = None
    answer: str | None = None
    error: str | None = None


def seen_times(frames: int) -> list[int]:
    """Times (0..1000 of the clip) of the frames shown with the question: evenly spaced from the start."""
    return [i * 1000 // frames for i in range(frames)]


class Renderer:
    """One policy's way of writing episodes."""

    def __init__(self, model: Model) -> None:
        self.tokenizer, self.layout, self.card = model.tokenizer, model.layout, model.card
        self._grid = np.asarray(self.card.grid)
        self._piece = cache(lambda token: self.decode([token]))
        vocabulary = self.tokenizer.get_vocab()
        self.stop = frozenset(i for token, i in vocabulary.items() if token.endswith((CALL_END, TURN_END)))
        """Tokens that end a turn."""

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))

    def prompt(self, task: Task, store: MediaStore) -> Observed:
        """The question with the whole image, or with evenly spaced frames of the clip, each after its time."""
        system = f"<|im_start|>system\n{self.card.system}{TURN_END}\n" if self.card.system else ""
        tokens = self.encode(system + "<|im_start|>user\n")
        views: list[View] = []
        for source in task.media:
            info = store.info(source)
            whole = (0, 0, info.width, info.height)
            if info.kind == "image":
                views.append(View(source, whole))
                tokens += self.layout.placeholders(views[-1])
                continue
            for time in seen_times(self.card.clip_frames):
                views.append(View(source, whole, frame_at(time, info.frames)))
                tokens += self.encode(str(time)) + self.layout.placeholders(views[-1])
        tokens += self.encode(task.question) + self.encode(f"{TURN_END}\n<|im_start|>assistant\n")
        return Observed(tuple(tokens), tuple(views))

    def ask(self, question: str) -> Observed:
        """A further question in the same dialogue, after an answer that ended its turn."""
        text = f"\n<|im_start|>user\n{question}{TURN_END}\n<|im_start|>assistant\n"
        return Observed(tuple(self.encode(text)))

    def observation(self, result: ToolResult, workspace: Workspace) -> Observed:
        """A result as the policy reads it: its JSON and the pixels of every handle it shows."""
        tokens = self.encode(f"{TURN_END}\n<|im_start|>user\n<tool_response>\n")
        tokens += self.encode(self._snapped(result.observation()))
        views = tuple(workspace.get(name).view for name in result.shown)
        for view in views:
            tokens += self.layout.placeholders(view)
        tokens += self.encode(f"\n</tool_response>{TURN_END}\n<|im_start|>assistant\n")
        return Observed(tuple(tokens), views)

    def parse(self, tokens: Sequence[int]) -> Parsed:
        """What a turn's sampled tokens mean."""
        text = self.decode(tokens)
        called = re.search(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
        if called:
            try:
                return Parsed(call=parse_call(called.group(1)))
            except ToolFailure as failure:
                return Parsed(error=failure.code)
        answered = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
        return Parsed(answer=answered.group(1).strip()) if answered else Parsed(error="no_call_or_answer")

    def roles(self, tokens: Sequence[int]) -> str:
        """A letter of `memory.trajectory.ROLES` for each token of a sampled turn: the role of most of its characters."""
        pieces = [self._piece(token) for token in tokens]
        marks = iter(marked("".join(pieces)))
        parts = ["".join(islice(marks, len(piece))) for piece in pieces]
        return "".join(max("ogats", key=part.count) if part else "s" for part in parts)

    def recite(self, thought: str, call: ToolCall | None, answer: str | None) -> list[int]:
        """The tokens of a demonstrated turn, ending where a sampled turn would end."""
        if call is not None:
            return self.encode(f"{thought}<tool_call>{call.to_json()}{CALL_END}")
        return self.encode(f"{thought}<answer>{answer}</answer>{TURN_END}")

    def writes(self, tokens: Sequence[int], call: ToolCall | None, answer: str | None) -> bool:
        """Whether tokens of a demonstrated turn read back as the call or the answer that was meant."""
        found, unknown = self.parse(tokens), self.tokenizer.unk_token_id
        if (unknown is not None and unknown in tokens) or (found.call is None) != (call is None):
            return False
        if found.call is not None and call is not None:
            return found.call.to_json() == call.to_json()
        return found.answer == (answer or "").strip()

    def _snapped(self, text: str) -> str:
        """Observation JSON with every coordinate moved to the nearest that the tokenizer has a token for; not counts."""
        if not len(self._grid):
            return text
        return json.dumps(self._snap(json.loads(text)), separators=(",", ":"), ensure_ascii=False)

    def _snap(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item if key in COUNTS else self._snap(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._snap(item) for item in value]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        return int(self._grid[np.abs(self._grid - value).argmin()])


def marked(text: str) -> str:
    """The role of each character of a turn's text, as a letter of `memory.trajectory.ROLES`.

    Example:
        >>> marked('so<answer>K7</answer>')
        'ttssssssssaasssssssss'
    """
    found = CALLED.search(text) or ANSWERED.search(text)
    start = found.start() if found else len(text.removesuffix(TURN_END))
    marks = ["t"] * start + ["s"] * (len(text) - start)
    if found is None:
        return "".join(marks)
    if found.re is ANSWERED:
        return _mark(marks, "a", *found.span(1))
    named = NAMED.match(text, *found.span(1))
    if named:
        _mark(marks, "o", *named.span(1))
    for given in GIVEN.finditer(text, named.end() if named else found.start(1), found.end(1)):
        if not given[2]:
            _mark(marks, "g", *given.span(1 if given[1] is not None else 3))
    return "".join(marks)


def _mark(marks: list[str], letter: str, start: int, end: int) -> str:
    marks[start:end] = letter * (end - start)
    return "".join(marks)
