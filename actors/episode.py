"""One episode, single use: a question, its workspace of handles, and the turns so far."""

from __future__ import annotations

from dataclasses import dataclass

from pixelis.actors.engine import Completion, Request
from pixelis.actors.render import Observed, Parsed, Renderer
from pixelis.memory.task import Task
from pixelis.memory.trajectory import Status, Trajectory, Turn
from pixelis.tools.call import ToolResult
from pixelis.tools.handle import Workspace
from pixelis.tools.toolbox import Toolbox


@dataclass(frozen=True, slots=True)
class Limits:
    """When an episode is over budget (paper, section 2.4)."""

    calls: int = 8
    turn_tokens: int = 56
    temperature: float = 1.0


class Episode:
    """Turns sampled text into calls, runs them, and keeps what happened.

    Example:
        >>> while not episode.over:                                    # doctest: +SKIP
        ...     [completion] = engine.generate([episode.request()])
        ...     episode.step(completion)
        >>> episode.trajectory()                                       # doctest: +SKIP
    """

    def __init__(
        self, task: Task, name: str, seed: tuple[int, int, int], toolbox: Toolbox, renderer: Renderer, limits: Limits
    ) -> None:
        self.task, self.name, self.seed = task, name, seed
        self._toolbox, self._renderer, self._limits = toolbox, renderer, limits
        self.workspace = Workspace(toolbox.store, task.media[0])
        self.turns: list[Turn] = []
        self.answer: str | None = None
        self.status: Status | None = None
        self._pending: Observed = renderer.prompt(task, toolbox.store)
        self._tokens: tuple[int, ...] = self._pending.tokens
        self._views = self._pending.views

    @property
    def over(self) -> bool:
        """Whether the episode has ended."""
        return self.status is not None

    def request(self) -> Request:
        """What an engine needs to sample the next turn."""
        return Request(
            self.name, self._tokens, self._views, (*self.seed, len(self.turns)), self._limits.turn_tokens,
            self._limits.temperature,
        )  # fmt: skip

    def step(self, completion: Completion) -> ToolResult | None:
        """Take a sampled turn: run its call, or end. Returns the call's result."""
        parsed = self._renderer.parse(completion.tokens)
        spent = sum(turn.call is not None for turn in self.turns) >= self._limits.calls
        result = self._toolbox.run(self.workspace, parsed.call) if parsed.call and not spent else None
        self.turns.append(
            Turn(
                self._pending.tokens, completion.tokens, completion.logprobs, self._pending.views, parsed.call, result,
                completion.version, parsed.error,
            )
        )  # fmt: skip
        self._tokens += completion.tokens
        self._settle(parsed, result)
        if not self.over and result is not None:
            self._pending = self._renderer.observation(result, self.workspace)
            self._tokens += self._pending.tokens
            self._views += self._pending.views
        return result

    def _settle(self, parsed: Parsed, result: ToolResult | None) -> None:
        """Decide whether this turn was the last one."""
        if parsed.answer is not None or parsed.error is not None:
            self.answer, self.status = parsed.answer, "finished"
        elif result is not None and result.failure is not None and result.failure.cls == "infra":
            self.status = "infra"
        elif result is None:  # a call beyond the budget: it was not run
            self.status = "over_budget"

    def trajectory(self) -> Trajectory:
        """The episode as a value. ValueError while it is still going on."""
        if self.status is None:
            raise ValueError(f"episode {self.name} is not over")
        return Trajectory(
            id=self.name, task_id=self.task.id, question=self.task.question, media=self.task.media,
            turns=tuple(self.turns), answer=self.answer, status=self.status, rewards={}, family=self.task.family,
            seed=self.seed[-1],
        )  # fmt: skip
