"""A workspace on some bytes and one-line calls, shared by the tool tests."""

from typing import Any

from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.handle import Workspace
from pixelis.tools.local import Local
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox


class Bench:
    """One source, one episode."""

    def __init__(self, data: bytes, tools: dict[str, Any] | None = None, **settings: Any):
        self.store = MediaStore()
        self.box = Toolbox(self.store, Local(tools), **settings)
        self.workspace = Workspace(self.store, self.store.put(data))

    def __call__(self, op: str, **arguments: Any) -> ToolResult:
        return self.box.run(self.workspace, ToolCall(op, arguments))


def refusal(result: ToolResult) -> tuple[str, str]:
    """Class and code of a failure."""
    assert result.failure is not None, result
    return result.failure.cls, result.failure.code
