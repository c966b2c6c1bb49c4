"""Tools by hand: one call, or a chain of calls, on one file."""

from pathlib import Path
from typing import Any

from pixelis.tools.call import OPS, Failure, ToolCall, ToolResult
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.tool import Backend
from pixelis.tools.toolbox import Toolbox

DEADLINE = 120.0  # seconds: a person waits longer than a rollout


def run_file(
    path: str | Path, op: str, arguments: dict[str, Any], backend: Backend | None = None
) -> tuple[ToolResult, Workspace]:
    """One call on a file; `on` may be left out (`of` for PROP) and then means img0.

    Raises OSError when the file cannot be read and MediaError when it cannot be decoded.

    Example: run_file("truck.jpg", "SEG", {"point": [500, 400]})
    """
    results, workspace = run_steps(path, [{"name": op, "arguments": arguments}], backend)
    return results[-1], workspace


def run_steps(
    path: str | Path, steps: list[dict[str, Any]], backend: Backend | None = None
) -> tuple[list[ToolResult], Workspace]:
    """A chain [{"name": op, "arguments": {...}}, ...] on one file; later steps use the handles of earlier ones.

    Stops after the first step that fails (its result is the last). Raises like `run_file`.
    """
    store = MediaStore()
    workspace = Workspace(store, store.add_file(path))
    toolbox = Toolbox(store, backend, deadline=DEADLINE)
    results: list[ToolResult] = []
    for step in steps:
        results.append(toolbox.run(workspace, whole_call(str(step.get("name", "")), step.get("arguments", {}))))
        if not results[-1].ok:
            break
    if not results:
        results.append(ToolResult(False, "", failure=Failure("policy", "bad_args", "no step given")))
    return results, workspace


def whole_call(name: str, arguments: dict[str, Any]) -> ToolCall:
    """The call with img0 where it names no handle."""
    arguments = dict(arguments)
    if name in OPS:
        arguments.setdefault("of" if name == "PROP" else "on", "img0")
    return ToolCall(name, arguments)
