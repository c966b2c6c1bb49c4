"""What the calls of a chain have to do with each other: repetitions, dependencies, hops (paper 5.3, 7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pixelis.memory.trajectory import Trajectory
from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.measure import box_iou, t_iou

SAME = 0.9
"""Calls whose places overlap by more than this are the same call."""
NEAR = 0.5
"""Calls of one operation whose places overlap by more than this look at the same thing."""
HANDLES = ("on", "of", "init", "to")


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a chain. `place` is a box, a point or a time window, 0..1000 of the handle it names; `made`: its handle."""

    op: str
    handles: tuple[str, ...]
    place: tuple[int, ...]
    rest: str
    """What else it asks."""
    made: str | None
    ok: bool

    @staticmethod
    def of(call: ToolCall, result: ToolResult | None) -> "Step":
        """A call and what came of it; arguments need not be valid."""
        given = call.arguments
        handles = tuple(str(given[key]) for key in HANDLES if key in given)
        place = next((tuple(given[key]) for key in ("box", "point", "window") if _numbers(given.get(key))), ())
        rest = {k: v for k, v in given.items() if k not in HANDLES and not (place and k in ("box", "point", "window"))}
        made, done = (result.ref, result.ok) if result else (None, False)
        return Step(call.name, handles, place, repr(sorted(rest.items())), made, done)

    def overlap(self, other: "Step") -> float:
        """How much two calls of one operation on the same handles ask for the same place: IoU, 0 for other calls."""
        if (self.op, self.handles, self.rest, len(self.place)) != (other.op, other.handles, other.rest, len(other.place)):
            return 0.0
        if self.place == other.place:
            return 1.0
        if len(self.place) == 4:
            return box_iou(self.place, other.place)  # type: ignore[arg-type]
        return t_iou(self.place, other.place) if len(self.place) == 2 and self.op == "TEMP" else 0.0  # type: ignore[arg-type]


def steps(trajectory: Trajectory) -> list[Step]:
    """The calls of a trajectory, in order."""
    return [Step.of(turn.call, turn.result) for turn in trajectory.turns if turn.call is not None]


def repeated(chain: Sequence[Step]) -> list[bool]:
    """Of each step: whether an earlier one asked the same (same operation, handles and place, IoU above 0.9).

    Example:
        >>> look = ToolCall("OCR", {"on": "img0", "box": [0, 0, 500, 500]})
        >>> repeated([Step.of(look, None), Step.of(look, None)])
        [False, True]
    """
    return [any(step.overlap(earlier) > SAME for earlier in chain[:i]) for i, step in enumerate(chain)]


def redundant(chain: Sequence[Step]) -> list[bool]:
    """Of each step: whether an earlier one of its operation looked at much of the same (IoU above 0.5)."""
    return [any(step.overlap(earlier) > NEAR for earlier in chain[:i]) for i, step in enumerate(chain)]


def depends(step: Step, earlier: Step) -> bool:
    """Whether a step takes a handle that an earlier one made, or looks where that one looked."""
    same = step.handles[:1] == earlier.handles[:1] and len(step.place) == len(earlier.place) == 4
    return earlier.made in step.handles or (same and box_iou(step.place, earlier.place) > 0)  # type: ignore[arg-type]


def hops(chain: Sequence[Step]) -> list[bool]:
    """Of each pair of neighbours: whether the operation changes though the second does not build on the first."""
    return [b.op != a.op and not depends(b, a) for a, b in pairwise(chain)]


def composite(trajectory: Trajectory) -> bool:
    """RaCPR: at least two operations that worked, one of which builds on an earlier one of another kind (paper 7)."""
    done = [step for step in steps(trajectory) if step.ok]
    return any(b.op != a.op and depends(b, a) for i, b in enumerate(done) for a in done[:i])


def _numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) in (2, 4) and all(type(v) is int for v in value)
