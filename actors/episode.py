"""One episode, single use: a question, its workspace of handles, and the turns so far."""

from __future__ import annotations

from dataclasses import dataclass

from pixelis.actors.engine import Completion, Request
from pixelis.actors.render import Observed, Parsed, Renderer
from pixelis.memory.task import Task
from pixelis.memory.trajectory import Status, Trajectory, Turn
from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore


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
        ...     call = episode.take(completion)
        ...     episode.give(toolbox.run(episode.workspace, call) if call else None)
        >>> episode.trajectory()                                       # doctest: +SKIP
    """

    def __init__(
        self, task: Task, name: str, seed: tuple[int, int, int], store: MediaStore, renderer: Renderer, limits: Limits
    ) -> None:
        self.task, self.name, self.seed = task, name, seed
        self._renderer, self._limits = renderer, limits
        self.workspace = Workspace(store, task.media[0])
        self.turns: list[Turn] = []
        self.answer: str | None = None
        self.status: Status | None = None
        self._pending: Observed = renderer.prompt(task, store)
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

    def take(self, completion: Completion) -> ToolCall | None:
        """Take a sampled turn; returns the call to run on `workspace`, if it made one that is within the budget."""
        self._said = completion, self._renderer.parse(completion.tokens)
        spent = sum(turn.call is not None for turn in self.turns) >= self._limits.calls
        return None if spent else self._said[1].call

    def give(self, result: ToolResult | None) -> None:
        """End the turn with the result of its call (None: there was none to run)."""
        completion, parsed = self._said
        self.turns.append(
            Turn(
                self._pending.tokens, completion.tokens, completion.logprobs, self._pending.views, parsed.call, result,
                completion.version, parsed.error, self._renderer.roles(completion.tokens),
            )
        )  # fmt: skip
        self._tokens += completion.tokens
        self._settle(parsed, result)
        if not self.over and result is not None:
            self._pending = self._renderer.observation(result, self.workspace)
            self._tokens += self._pending.tokens
            self._views += self._pending.views

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
