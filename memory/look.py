"""What each call of a chain looked at, in img0's own coordinates, and what it found there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pixelis.memory.trajectory import Trajectory
from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.frame import SCALE
from pixelis.tools.measure import Rectangle, Span, box_iou, t_iou

BINS = 16
"""Parts of a clip's duration that are told apart."""
MOMENT = SCALE / BINS
"""What a single frame counts as, in time 0..1000."""


@dataclass(frozen=True, slots=True)
class Region:
    """A box of the picture and a span of the clip, 0..1000 of img0, not rounded; no span: a still.

    Example:
        >>> Region((500, 500, 1000, 1000)).inner([0, 0, 500, 500])
        Region(box=(500.0, 500.0, 750.0, 750.0), span=None)
    """

    box: Rectangle
    span: Span | None = None

    def inner(self, box: Sequence[float]) -> Region:
        """The region that a box 0..1000 of this one is."""
        x0, y0, x1, y1 = self.box
        w, h = (x1 - x0) / SCALE, (y1 - y0) / SCALE
        return Region((x0 + box[0] * w, y0 + box[1] * h, x0 + box[2] * w, y0 + box[3] * h), self.span)

    def overlap(self, other: Region) -> float:
        """IoU in the picture times IoU in time, 0..1."""
        if self.span is None or other.span is None:
            return box_iou(self.box, other.box) if self.span is other.span else 0.0
        together = t_iou(self.span, other.span)
        return together and together * box_iou(self.box, other.box)


WHOLE = Region((0.0, 0.0, float(SCALE), float(SCALE)))


@dataclass(frozen=True, slots=True)
class Look:
    """One call: where it looked, and what the tool says it found there.

    Example:
        >>> Look("OCR", (WHOLE,), text="K7P", sure=0.98).overlap(Look("OCR", (WHOLE,)))
        1.0
    """

    op: str
    regions: tuple[Region, ...] = ()
    """Of a mask its box, of a track where it was in sight, of TEMP frames or windows; none for a call that was invalid."""
    ok: bool = True
    text: str | None = None
    """What was read (OCR)."""
    values: dict[str, Any] = field(default_factory=dict)
    """What was measured (PROP)."""
    sure: float | None = None
    """The tool's own score 0..1 (SEG, OCR of blocks)."""

    def like(self, other: Look) -> bool:
        """Whether what the two found can be compared: one operation that worked, and for PROP the same keys."""
        return self.op == other.op and self.ok and other.ok and self.values.keys() == other.values.keys()

    def overlap(self, other: Look) -> float:
        """How much two looks have in common of where they looked, 0..1: the IoU of single regions.

        Of several, the mean of each one's best, from both sides.
        """
        if not self.regions or not other.regions:
            return 0.0
        if len(self.regions) == len(other.regions) == 1:
            return self.regions[0].overlap(other.regions[0])
        best = [[a.overlap(b) for b in other.regions] for a in self.regions]
        there = sum(map(max, best)) / len(best)
        back = sum(map(max, zip(*best, strict=True))) / len(best[0])
        return (there + back) / 2

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Look:
        """Reads what `dataclasses.asdict` and JSON made of one."""
        regions = tuple(Region(tuple(r["box"]), tuple(r["span"]) if r["span"] else None) for r in raw["regions"])
        return cls(**{**raw, "regions": regions})


def looks(trajectory: Trajectory) -> tuple[Look, ...]:
    """The calls of a trajectory in order, one Look each; it needs no pixels."""
    places: dict[str, tuple[Region, ...]] = {"img0": (WHOLE,)}
    found = []
    for turn in trajectory.turns:
        if turn.call is None:
            continue
        look = _look(turn.call, turn.result, places)
        found.append(look)
        if turn.result is not None and look.ok and turn.result.ref is not None:
            made = turn.result.shown if turn.call.name == "TEMP" else (turn.result.ref,)
            one_each = len(made) == len(look.regions)
            places |= {name: (look.regions[i],) if one_each else look.regions for i, name in enumerate(made)}
    return tuple(found)


def _look(call: ToolCall, result: ToolResult | None, places: dict[str, tuple[Region, ...]]) -> Look:
    if result is None or (result.failure is not None and result.failure.cls != "tool"):
        return Look(call.name, ok=False)
    if not result.ok:
        return Look(call.name, _asked(call, places), ok=False)
    data = result.data
    if call.name == "PROP":
        of = (places.get(str(call.arguments.get(key)), ()) for key in ("of", "to"))
        return Look("PROP", sum(of, ()), values=data)
    if call.name == "OCR":
        marks = [item["conf"] for item in data.get("items", ())]
        sure = sum(marks) / len(marks) / SCALE if marks else None
        return Look("OCR", _asked(call, places), text=str(data.get("text", "")), sure=sure)
    if call.name == "TEMP":
        spans = data["windows"] if "windows" in data else [[t, t] for t in data.get("times", ())]
        return Look("TEMP", tuple(Region(WHOLE.box, _wide(*span)) for span in spans))
    if call.name == "TRK":
        return Look("TRK", tuple(Region(WHOLE.inner(box).box, _wide(t, t)) for t, *box in data.get("boxes", ())))
    if call.name == "SEG":
        return Look("SEG", _inside(call, places, data.get("box")), sure=data["score"] / SCALE if "score" in data else None)
    return Look(call.name, _asked(call, places))


def _asked(call: ToolCall, places: dict[str, tuple[Region, ...]]) -> tuple[Region, ...]:
    """Where a valid call asks to look."""
    window, t0 = call.arguments.get("window"), call.arguments.get("t0")
    if window is not None:
        return (Region(WHOLE.box, _wide(*window)),)
    if call.name == "TRK" and t0 is not None and call.arguments.get("box") is not None:
        return (Region(WHOLE.inner(call.arguments["box"]).box, _wide(t0, t0)),)
    return _inside(call, places, call.arguments.get("box"))


def _inside(call: ToolCall, places: dict[str, tuple[Region, ...]], box: Sequence[float] | None) -> tuple[Region, ...]:
    on = places.get(str(call.arguments.get("on")), ())
    return on if box is None else tuple(region.inner(box) for region in on)


def _wide(t0: float, t1: float) -> Span:
    """A span of time that is no shorter than a moment."""
    middle, half = (t0 + t1) / 2, max(t1 - t0, MOMENT) / 2
    return max(0.0, middle - half), min(float(SCALE), middle + half)
