"""The toolbox: one door to all tools; validates, resolves handles, keeps budgets, remembers results, types failures."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pixelis.tools.call import Args, Failure, ToolCall, ToolFailure, ToolResult, compact, validate
from pixelis.tools.frame import View
from pixelis.tools.handle import DanglingHandle, Kind, Payload, Workspace
from pixelis.tools.media import MediaError, MediaStore

MEMO_COUNT = 4096
MAX_CALLS = 32
TRIES = 3
"""Attempts at a call that infrastructure fails, the first included."""


@dataclass(frozen=True, slots=True)
class Made:
    """A handle that a tool wants to exist; the toolbox names it. `shown`: the policy is to see its pixels."""

    kind: Kind
    view: View
    payload: Payload | None = None
    shown: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tool found, free of handle names, so that it can be remembered across episodes.

    Example:
        >>> Outcome({"text": "K7P"}).made
        ()
    """

    data: dict[str, Any] = field(default_factory=dict)
    made: tuple[Made, ...] = ()


class Tool(Protocol):
    """One tool. `id` names backend, version and model, like "seg-flood@1#cv5.0.0"; equal ids give equal results.

    `run` gets validated arguments whose handles exist; it raises ToolFailure, and past the monotonic time `until` it
    gives up with ToolFailure(infra, timeout).
    """

    @property
    def id(self) -> str: ...

    def run(self, workspace: Workspace, args: Any, until: float) -> Outcome: ...


class BatchTool(Tool, Protocol):
    """A tool whose model takes several questions at once: one answer each, in order; a question's failure is its own.

    ToolFailure(infra) that is raised, not returned, fails all of them.
    """

    def batch(self, asked: Sequence[tuple[Workspace, Any]], until: float) -> list[Outcome | ToolFailure]: ...


class Toolbox:
    """Runs calls on a workspace: `run` returns every policy, tool and infra failure typed, and raises only for bugs.

    `deadline` is seconds per attempt at a call; a call that infrastructure fails is tried again. `max_calls` bounds the
    attempted calls of one episode and `limits` those of single ops (infra failures do not count). Learned backends take
    the place of the classical ones through `tools`.
    """

    def __init__(
        self,
        store: MediaStore,
        tools: Mapping[str, Tool] | None = None,
        deadline: float = 10.0,
        max_calls: int = MAX_CALLS,
        limits: Mapping[str, int] | None = None,
        memo_count: int = MEMO_COUNT,
    ):
        self.store = store
        self.tools = dict(classical() if tools is None else tools)
        self.deadline = deadline
        self.max_calls = max_calls
        self.limits = dict(limits or {})
        self.memo_count = memo_count
        self.hits = self.retried = 0
        self._memo: OrderedDict[str, Outcome | Failure] = OrderedDict()

    def run(self, workspace: Workspace, call: ToolCall) -> ToolResult:
        """One call; handles that it makes are added to the workspace."""
        start = time.monotonic()
        tool_id = self.tools[call.name].id if call.name in self.tools else ""
        try:
            outcome = self._tried(workspace, call)
        except (ToolFailure, MediaError) as error:
            failure = _failure(error)
            return ToolResult(False, call.name, failure=failure, tool=tool_id, ms=_ms(start))
        handles = [workspace.new(m.kind, m.view, m.payload) for m in outcome.made]
        return ToolResult(
            ok=True,
            op=call.name,
            ref=handles[0].name if handles else None,
            data=outcome.data,
            shown=tuple(h.name for h, m in zip(handles, outcome.made, strict=True) if m.shown),
            tool=tool_id,
            ms=_ms(start),
            views=tuple(h.view for h in handles),
            payloads=tuple(h.payload.digest() for h in handles if h.payload),
        )

    def _tried(self, workspace: Workspace, call: ToolCall) -> Outcome:
        for _ in range(TRIES - 1):
            try:
                return self._outcome(workspace, call, time.monotonic() + self.deadline)
            except ToolFailure as error:
                if error.cls != "infra":
                    raise
                self.retried += 1
        return self._outcome(workspace, call, time.monotonic() + self.deadline)

    def _outcome(self, workspace: Workspace, call: ToolCall, until: float) -> Outcome:
        self._spend(workspace, call.name)
        args = validate(call)
        tool = self.tools.get(call.name)
        if tool is None:
            raise ToolFailure("policy", "unknown_op", f"this toolbox has no {call.name}")
        key = memo_key(workspace, call.name, tool.id, args)
        found = self._memo.get(key)
        if found is None:
            found = self._compute(workspace, call.name, tool, args, until)
            self._remember(key, found)
        else:
            self.hits += 1
            self._memo.move_to_end(key)
        if isinstance(found, Failure):
            raise ToolFailure(found.cls, found.code, found.message)
        return found

    def _compute(self, workspace: Workspace, op: str, tool: Tool, args: Args, until: float) -> Outcome | Failure:
        try:
            outcome = tool.run(workspace, args, until)
        except ToolFailure as error:
            if error.cls == "infra":  # may work next time: not remembered, not charged
                workspace.calls[op] -= 1
                raise
            return _failure(error)
        if time.monotonic() > until:
            workspace.calls[op] -= 1
            raise ToolFailure("infra", "timeout", f"{op} took longer than {self.deadline:g} s")
        return outcome

    def _spend(self, workspace: Workspace, op: str) -> None:
        workspace.calls[op] = workspace.calls.get(op, 0) + 1
        if sum(workspace.calls.values()) > self.max_calls:
            raise ToolFailure("policy", "over_budget", f"more than {self.max_calls} calls")
        if workspace.calls[op] > self.limits.get(op, self.max_calls):
            raise ToolFailure("policy", "over_budget", f"more than {self.limits[op]} calls of {op}")

    def _remember(self, key: str, found: Outcome | Failure) -> None:
        self._memo[key] = found
        while len(self._memo) > self.memo_count:
            self._memo.popitem(last=False)


def memo_key(workspace: Workspace, op: str, tool_id: str, args: Args) -> str:
    """Canonical text of a call with handle names replaced by what they point to; raises policy dangling_handle."""
    resolved = args.model_dump(mode="json", exclude_defaults=True)
    for argument, name in args.handles().items():
        try:
            resolved[argument] = workspace.get(name).identity()
        except DanglingHandle as error:
            raise ToolFailure("policy", "dangling_handle", f"{argument}: no handle {name!r}") from error
    return compact([op, tool_id, resolved], sort=True)


def classical() -> dict[str, Tool]:
    """The tools that work on any machine without a download: OpenCV, RapidOCR, PyAV.

    Keeps OpenCV to one thread in this process: many rollouts share a machine, and results must not depend on its cores.
    """
    import cv2

    from pixelis.tools.ocr import Ocr
    from pixelis.tools.prop import Prop
    from pixelis.tools.seg import Seg
    from pixelis.tools.temp import Temp
    from pixelis.tools.trk import Trk
    from pixelis.tools.zoom import Zoom

    cv2.setNumThreads(1)
    return {"SEG": Seg(), "ZOOM": Zoom(), "TRK": Trk(), "OCR": Ocr(), "TEMP": Temp(), "PROP": Prop()}


def _failure(error: ToolFailure | MediaError) -> Failure:
    if isinstance(error, ToolFailure):
        return Failure(error.cls, error.code, error.message)
    return Failure("infra", "bad_media", str(error))


def _ms(start: float) -> float:
    return round((time.monotonic() - start) * 1000, 3)
