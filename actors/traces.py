"""Demonstrations from a file: traces.jsonl, thoughts and calls, played through the real tools (docs/traces.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from pixelis.actors.questions import Line, QuestionFile, mistyped
from pixelis.actors.score import fidelity
from pixelis.actors.teacher import Speaker, Step
from pixelis.memory.task import Evidence, GoldTask
from pixelis.memory.trajectory import Turn
from pixelis.tools.call import ToolCall, ToolResult, compact
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.prop import COUNTS
from pixelis.tools.toolbox import Toolbox

NEAR = 20
"""How far a number of a recorded observation may be from what the tool says now, in 1/1000 of a side or of the clip."""
AGREES = 0.5
"""Agreement of a call with boxes and windows of its evidence (VisFid) below which it does not show them."""
MARKS = ("<tool_call>", "</tool_call>", "<answer>", "</answer>", "<|")


def _unmarked(text: str) -> str:
    found = next((mark for mark in MARKS if mark in text), None)
    if found:
        raise ValueError(f"has {found} in it, which a policy reads as a mark of its own")
    return text


Said = Annotated[str, AfterValidator(_unmarked)]


class Part(BaseModel):
    """Base of what a line holds: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Call(Part):
    """A call as the policy writes it. Its arguments are checked by the tool, when it is played.

    Example: Call(name="OCR", arguments={"on": "img0"})
    """

    name: str = Field(min_length=1)
    arguments: dict[str, Any]

    @field_validator("arguments")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        compact(value).encode()  # refuses NaN, infinities and lone surrogates
        return value


class TraceStep(Part):
    """One turn: a thought and a call. Only the last may have no call: its thought stands before the answer.

    Example: TraceStep(thought="Look for red.", call=Call(name="OCR", arguments={"on": "img0"}))
    """

    thought: Said = ""
    call: Call | None = None
    observation: dict[str, Any] | None = None
    """What the tool said when this was recorded: as much of it as must come again."""
    evidence: dict[str, Any] = Field(default_factory=dict)
    """What this call must show, as in `memory.task.Evidence`."""
    erroneous: bool = False
    """An error that is recovered from: it is shown, and not imitated."""


class TraceLine(Line):
    """One line: a question, how it is answered, and the answer.

    Example: TraceLine(version=1, question="What is written?", media=["a.png"], answer="K7P", steps=[])
    """

    version: Literal[1]
    """Of the format."""
    answer: Annotated[str, Field(min_length=1), AfterValidator(_unmarked)]  # type: ignore[assignment]
    steps: list[TraceStep]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for number, step in enumerate(self.steps, 1):
            silent = step.observation is not None or step.evidence or step.erroneous
            if step.call is None and (number < len(self.steps) or silent):
                raise ValueError(f"step {number} has no call: only the last may have none, and then it is a thought alone")
        return self


@dataclass(frozen=True, slots=True)
class Trace:
    """A question with its key, and the steps to it. Example: file.trace(0).gold.answer == "K7P" """

    gold: GoldTask
    steps: tuple[TraceStep, ...]


class TraceFile(QuestionFile):
    """The traces of a file by index. TaskError as from a QuestionFile.

    Example:
        >>> TraceFile(Path("traces.jsonl"), MediaStore()).trace(0).steps[0].call.name     # doctest: +SKIP
        'OCR'
    """

    kind: ClassVar[type[Line]] = TraceLine

    def __init__(self, path: Path, store: MediaStore) -> None:
        super().__init__(path, store)
        self.order = interleaved(self.of)
        """The indices, families in turns: whoever learns from the first of them meets all."""

    @property
    def lines(self) -> list[TraceLine]:
        """What stands in the file."""
        return cast(list[TraceLine], self._lines)

    def trace(self, index: int) -> Trace:
        """One trace; its media are in the store afterwards. TaskError when they, or its evidence, cannot be used."""
        return Trace(self.gold(index), tuple(self.lines[index].steps))


def interleaved(families: Sequence[str]) -> tuple[int, ...]:
    """Indices by turns of the families.

    Example:
        >>> interleaved(("a", "a", "a", "b"))
        (0, 3, 1, 2)
    """
    seen: Counter[str] = Counter()
    turns = []
    for index, family in enumerate(families):
        turns.append((seen[family], index))
        seen[family] += 1
    return tuple(index for _, index in sorted(turns))


class Reciter:
    """Speaks the turns of a trace, and says what its calls did not prove.

    Example: ``Reciter(trace).next(workspace, []).call.name == "OCR"``
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.calls = [step for step in trace.steps if step.call is not None]
        self.erroneous = frozenset(i for i, step in enumerate(self.calls) if step.erroneous)

    def next(self, workspace: Workspace, results: Sequence[ToolResult]) -> Step:
        """The next turn, whatever the results were."""
        if len(results) < len(self.calls):
            step = self.calls[len(results)]
            assert step.call is not None
            return Step(step.thought, ToolCall(step.call.name, step.call.arguments))
        closing = self.trace.steps[-1] if self.trace.steps and self.trace.steps[-1].call is None else TraceStep()
        return Step(closing.thought, answer=self.trace.gold.answer)

    def fault(self, workspace: Workspace, results: Sequence[ToolResult]) -> str | None:
        """The first thing that is wrong, with the number of its step."""
        if wrong := mistyped(self.trace.gold.answer, self.trace.gold.task.answer_type):
            return wrong
        for number, (step, result) in enumerate(zip(self.calls, results, strict=False), 1):
            if wrong := _broken(step, result, workspace):
                return f"step {number}: {wrong}"
        if len(results) < len(self.calls):
            return f"step {len(results) + 1}: not played"
        shown = [step for step in zip(self.calls, results, strict=True) if not step[0].erroneous]
        marks = [m for m in (agreement(r, s, self.trace.gold.evidence, workspace) for s, r in shown) if m is not None]
        return "no call shows the evidence" if marks and max(marks) < AGREES else None


def play(speaker: Speaker, workspace: Workspace, toolbox: Toolbox) -> tuple[list[Step], list[ToolResult]]:
    """A demonstration through the real tools, without a policy's tokens: its turns up to the answer, and its results.

    It ends early where infrastructure fails.
    """
    steps: list[Step] = []
    results: list[ToolResult] = []
    while not steps or steps[-1].call is not None:
        steps.append(speaker.next(workspace, results))
        if (call := steps[-1].call) is not None:
            results.append(toolbox.run(workspace, call))
            if results[-1].failure is not None and results[-1].failure.cls == "infra":
                break
    return steps, results


def agreement(result: ToolResult, step: TraceStep, evidence: Evidence, workspace: Workspace) -> float | None:
    """How far a call shows its evidence, 0 to 1; None where evidence is silent. A text is read whole or not at all."""
    assert step.call is not None
    if step.call.name == "OCR" and result.ok and evidence.texts:
        read = _words(str(result.data.get("text", "")))
        return float(any(_words(text) in read for text in evidence.texts))
    call = ToolCall(step.call.name, step.call.arguments)
    return fidelity(Turn((), (), (), call=call, result=result), evidence, workspace)


def difference(recorded: Any, found: Any, where: str = "") -> str | None:
    """Where what a tool says now is not what was recorded; keys that were not recorded are not compared.

    Numbers may be NEAR, counts not at all; texts are equal but for case and spaces.

    Example:
        >>> difference({"text": "K7P", "box": [100, 0, 300, 99]}, {"text": "k7p", "box": [110, 0, 400, 90], "score": 1})
        'box.2: recorded 300, the tool says 400'
    """
    if isinstance(recorded, dict) and isinstance(found, dict):
        missing = [key for key in recorded if key not in found]
        if missing:
            return f"{_at(where, missing[0])}: recorded, the tool says nothing of it"
        parts = [(key, recorded[key], found[key]) for key in recorded]
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        parts = [(str(i), *both) for i, both in enumerate(zip(recorded, found, strict=True))]
    else:
        return None if _same(recorded, found, where) else f"{where}: recorded {_short(recorded)}, the tool says {_short(found)}"
    return next((wrong for key, a, b in parts if (wrong := difference(a, b, _at(where, key)))), None)


def _broken(step: TraceStep, result: ToolResult, workspace: Workspace) -> str | None:
    """What is wrong with one call."""
    assert step.call is not None
    failure = result.failure
    if failure is not None and (failure.cls == "infra" or not step.erroneous):
        return f"{step.call.name}: {failure.message or failure.code} ({failure.cls} {failure.code})"
    if step.observation is not None and (wrong := difference(step.observation, observed(result))):
        return f"{step.call.name}: {wrong}"
    if not step.evidence:
        return None
    try:
        found = agreement(result, step, Evidence.from_dict(step.evidence), workspace)
    except (TypeError, ValueError) as error:
        return f"evidence: {error}"
    if found is None:
        return f"{step.call.name}: this evidence says nothing about it"
    return f"{step.call.name}: agrees with its evidence by {found:.2f}, at least {AGREES} is needed" if found < AGREES else None


def observed(result: ToolResult) -> dict[str, Any]:
    """A result as a trace records it: what the policy reads, as an object."""
    if result.failure is not None:
        return {"ok": False, "error": result.failure.code}
    return {"ok": True} | ({"ref": result.ref} if result.ref else {}) | ({"data": result.data} if result.data else {})


def _same(recorded: Any, found: Any, where: str) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (recorded, found))
    if numbers:
        return bool(abs(recorded - found) <= (0 if where.split(".")[-1] in COUNTS else NEAR))
    if isinstance(recorded, str) and isinstance(found, str):
        return _words(recorded) == _words(found)
    return bool(recorded == found)


def _words(text: str) -> str:
    return " ".join(text.split()).casefold()


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _short(value: Any) -> str:
    text = compact(value)
    return text if len(text) <= 60 else text[:57] + "..."
