"""Demonstrations: a teacher that knows the scene recites chains of calls, and the real tools answer them.

Chains are 2 to 8 calls long (a family's shortest at least), 6.6 on average, with redundant ones among them (a plate read
twice, a mask whose colour is asked): reinforcement has something to shorten. Direct chains are the rarest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from pixelis.actors.scene import Recital, Scene
from pixelis.actors.world import FAMILIES
from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.handle import Workspace

Style = Literal["tools", "no_tools"]
LENGTHS = {2: 0.02, 3: 0.03, 4: 0.05, 5: 0.10, 6: 0.20, 7: 0.25, 8: 0.35}  # calls -> share of the demonstrations


@dataclass(frozen=True, slots=True)
class Step:
    """What the teacher writes in one turn: a thought and either a call or the answer.

    Example: ``Step("Look for red.", ToolCall("OCR", {...}))``, ``Step("", None, "K7P")``
    """

    thought: str
    call: ToolCall | None = None
    answer: str | None = None


class Speaker(Protocol):
    """Who speaks in place of the policy, in one episode: a teacher, or a trace that was written down."""

    erroneous: frozenset[int]
    """Turns (from 0) that show an error: what recovers from it is imitated, they are not."""

    def next(self, workspace: Workspace, results: Sequence[ToolResult]) -> Step:
        """The next turn, given the results of all calls so far."""
        ...

    def fault(self, workspace: Workspace, results: Sequence[ToolResult]) -> str | None:
        """Why what was demonstrated must not be learned from; None when it is evidence for its answer."""
        ...


class Teacher:
    """Recites one demonstration of a scene; style ``no_tools`` answers at once, for the control without tools.

    Example: ``Teacher(scene, rng).next(workspace, []).call.name == "OCR"``
    """

    erroneous: frozenset[int] = frozenset()

    def __init__(self, scene: Scene, rng: np.random.Generator, style: Style = "tools") -> None:
        self.scene = scene
        self.rng = rng
        self.style: Style = style
        self.recital: Recital | None = None

    def next(self, workspace: Workspace, results: Sequence[ToolResult]) -> Step:
        """The next turn, given the results of all calls so far; the answer is the last one they speak for."""
        if self.style == "no_tools":
            return Step("", answer=self.scene.answer)
        family = FAMILIES[self.scene.family]
        try:
            if self.recital is None:
                calls = max(family.shortest_calls, int(self.rng.choice(list(LENGTHS), p=list(LENGTHS.values()))))
                self.recital = family.moves(self.scene, self.rng, calls, workspace)
                return Step(family.thought(self.scene), next(self.recital))
            return Step("", self.recital.send(results[-1]))
        except StopIteration:
            return Step("", answer=(family.answers(self.scene, results) or [""])[-1])

    def fault(self, workspace: Workspace, results: Sequence[ToolResult]) -> str | None:
        """Whether the calls say the gold answer; without tools there is nothing to prove."""
        proven = self.style == "no_tools" or verify(self.scene, results)
        return None if proven else f"{self.scene.id}: the calls do not say {self.scene.answer}"


def verify(scene: Scene, results: Sequence[ToolResult]) -> bool:
    """Whether a demonstration is evidence for the gold answer: every call worked and all say the answer."""
    said = FAMILIES[scene.family].answers(scene, results)
    return all(result.ok for result in results) and set(said) == {scene.answer}
