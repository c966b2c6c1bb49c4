"""A tool's contract: what it is asked, free of its episode, and what it finds, free of handle names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pixelis.tools.call import Args, Failure, ToolCall, ToolFailure, compact, validate
from pixelis.tools.frame import View
from pixelis.tools.handle import DanglingHandle, Handle, Kind, Payload, Workspace
from pixelis.tools.media import MediaStore


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


@dataclass(frozen=True, slots=True)
class Ask:
    """A validated call with the handles it names: all that a tool needs to know, in whatever process it runs.

    `key` is equal for calls that must give equal results: tool, arguments, and what the handles point to.

    Example:
        >>> ask = Ask("ZOOM", args, (img0,), '["ZOOM","zoom-crop@1",...]')     # doctest: +SKIP
        >>> ask.media                                                          # doctest: +SKIP
        ('9f86d0...',)
    """

    op: str
    args: Args
    handles: tuple[Handle, ...]
    key: str

    @staticmethod
    def of(workspace: Workspace, call: ToolCall, ids: Mapping[str, str]) -> "Ask":
        """What a call asks of the tools with these ids; raises ToolFailure(policy)."""
        args = validate(call)
        if call.name not in ids:
            raise ToolFailure("policy", "unknown_op", f"this toolbox has no {call.name}")
        handles = {argument: _handle(workspace, argument, name) for argument, name in args.handles().items()}
        named = {argument: handle.identity() for argument, handle in handles.items()}
        resolved = args.model_dump(mode="json", exclude_defaults=True) | named
        key = compact([call.name, ids[call.name], resolved], sort=True)
        return Ask(call.name, args, tuple(handles.values()), key)

    @property
    def media(self) -> tuple[str, ...]:
        """Hashes of the media that it looks at."""
        return tuple(dict.fromkeys(handle.view.source for handle in self.handles))

    def workspace(self, store: MediaStore) -> Workspace:
        """A workspace with these handles and no other."""
        return Workspace(store, self.handles[0].view.source, {handle.name: handle for handle in self.handles})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an ask, and the milliseconds of work it cost (its share, when several were answered together)."""

    found: Outcome | Failure
    ms: float = 0.0

    @property
    def infra(self) -> bool:
        """Whether infrastructure failed it: it may be asked again."""
        return isinstance(self.found, Failure) and self.found.cls == "infra"


class Backend(Protocol):
    """Where tools run: in this process (`tools.local`), or on a pool of actors (`cluster.tool_pool`).

    `ids` are the tools' ids by op. `run` answers all asks, in order, each within `seconds`: whatever fails is in the answer.
    """

    @property
    def ids(self) -> Mapping[str, str]: ...

    def run(self, store: MediaStore, asks: Sequence[Ask], seconds: float) -> list[Answer]: ...


def _handle(workspace: Workspace, argument: str, name: str) -> Handle:
    try:
        return workspace.get(name)
    except DanglingHandle as error:
        raise ToolFailure("policy", "dangling_handle", f"{argument}: no handle {name!r}") from error
