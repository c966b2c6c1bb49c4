"""The toolbox: one door to all tools; validates, resolves handles, keeps budgets, remembers results, types failures."""

from collections.abc import Mapping, Sequence

from pixelis.tools.call import Failure, ToolCall, ToolFailure, ToolResult
from pixelis.tools.handle import Workspace
from pixelis.tools.local import Local
from pixelis.tools.media import MediaStore
from pixelis.tools.memo import COUNT, Memo
from pixelis.tools.tool import Answer, Ask, Backend

MAX_CALLS = 32
TRIES = 3
"""Attempts at a call that infrastructure fails, the first included."""


class Toolbox:
    """Runs calls on workspaces: every policy, tool and infra failure comes back typed; it raises only for bugs.

    `backend` is where the tools run (default: the classical ones in this process). `deadline` is seconds per attempt at a
    call; a call that infrastructure fails is tried again. `max_calls` bounds the attempted calls of one episode and
    `limits` those of single ops (infra failures do not count).
    """

    def __init__(
        self,
        store: MediaStore,
        backend: Backend | None = None,
        deadline: float = 10.0,
        max_calls: int = MAX_CALLS,
        limits: Mapping[str, int] | None = None,
        memo_count: int = COUNT,
    ):
        self.store = store
        self.backend = backend or Local()
        self.deadline = deadline
        self.max_calls = max_calls
        self.limits = dict(limits or {})
        self.memo = Memo(memo_count)
        self.hits = self.retried = 0

    def run(self, workspace: Workspace, call: ToolCall) -> ToolResult:
        """One call; handles that it makes are added to the workspace."""
        return self.run_all([(workspace, call)])[0]

    def run_all(self, calls: Sequence[tuple[Workspace, ToolCall]]) -> list[ToolResult]:
        """Calls of different episodes at once, results in their order; what several ask alike is computed once."""
        ids = self.backend.ids
        asked = [self._asked(workspace, call, ids) for workspace, call in calls]
        asks = [ask for ask in asked if isinstance(ask, Ask)]
        answers = self._answers({ask.key: ask for ask in asks})
        self.hits += len(asks) - len(answers)
        return [
            self._result(*one, answers[ask.key] if isinstance(ask, Ask) else Answer(ask), ids.get(one[1].name, ""))
            for one, ask in zip(calls, asked, strict=True)
        ]

    def _asked(self, workspace: Workspace, call: ToolCall, ids: Mapping[str, str]) -> Ask | Failure:
        try:
            self._spend(workspace, call.name)
            return Ask.of(workspace, call, ids)
        except ToolFailure as error:
            return Failure(error.cls, error.code, error.message)

    def _answers(self, waiting: dict[str, Ask]) -> dict[str, Answer]:
        answers = self._attempt(list(waiting.values()))
        for _ in range(TRIES - 1):
            again = [waiting[key] for key, answer in answers.items() if answer.infra]
            self.retried += len(again)
            answers |= self._attempt(again)
        return answers

    def _attempt(self, asks: Sequence[Ask]) -> dict[str, Answer]:
        known = {ask.key: Answer(found) for ask in asks if (found := self.memo.get(ask)) is not None}
        self.hits += len(known)
        new = [ask for ask in asks if ask.key not in known]
        answers = self.backend.run(self.store, new, self.deadline) if new else []
        for ask, answer in zip(new, answers, strict=True):
            self.memo.put(ask, answer.found)
            known[ask.key] = answer
        return known

    def _result(self, workspace: Workspace, call: ToolCall, answer: Answer, tool: str) -> ToolResult:
        found = answer.found
        if isinstance(found, Failure):
            if answer.infra:
                workspace.calls[call.name] -= 1  # may work next time: not charged
            return ToolResult(False, call.name, failure=found, tool=tool, ms=answer.ms)
        handles = [workspace.new(m.kind, m.view, m.payload) for m in found.made]
        return ToolResult(
            ok=True,
            op=call.name,
            ref=handles[0].name if handles else None,
            data=found.data,
            shown=tuple(h.name for h, m in zip(handles, found.made, strict=True) if m.shown),
            tool=tool,
            ms=answer.ms,
            views=tuple(h.view for h in handles),
            payloads=tuple(h.payload.digest() for h in handles if h.payload),
        )

    def _spend(self, workspace: Workspace, op: str) -> None:
        """Charges the budget; raises policy over_budget."""
        workspace.calls[op] = workspace.calls.get(op, 0) + 1
        if sum(workspace.calls.values()) > self.max_calls:
            raise ToolFailure("policy", "over_budget", f"more than {self.max_calls} calls")
        if op in self.limits and workspace.calls[op] > self.limits[op]:
            raise ToolFailure("policy", "over_budget", f"more than {self.limits[op]} calls of {op}")
