"""What an episode is worth: rewards for learning, and the figures a run is judged by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pixelis.memory.chain import composite, hops, redundant, repeated, steps
from pixelis.memory.task import Evidence, GoldTask
from pixelis.memory.trajectory import Trajectory, Turn
from pixelis.tools.frame import Box
from pixelis.tools.handle import Workspace
from pixelis.tools.measure import agrees, box_iou, cer, t_iou


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """Weights of the reward components (paper 5.2 and 5.5)."""

    answer: float = 1.0
    invalid: float = 0.1
    """Taken off for each step that is the policy's own fault."""
    length: float = 0.05
    """Taken off for each step beyond the `free` ones."""
    free: int = 3
    duplicate: float = 0.05
    """Taken off for each call that repeats an earlier one."""


def reward(trajectory: Trajectory, gold: GoldTask, settings: RewardSettings) -> dict[str, float]:
    """Reward by component. ValueError for an episode that ended by infrastructure: it has no reward."""
    return {"answer": settings.answer * correct(trajectory, gold), **costs(trajectory, settings)}


def costs(trajectory: Trajectory, settings: RewardSettings) -> dict[str, float]:
    """What a chain costs, by component (paper 5.5): all of the reward that needs no key. ValueError as `reward`."""
    if trajectory.status in ("infra", "cancelled"):
        raise ValueError(f"{trajectory.id} ended by {trajectory.status}: it must not be rewarded")
    return {
        "invalid": -settings.invalid * trajectory.n_invalid,
        "length": -settings.length * max(0, trajectory.chain_length - settings.free),
        "duplicate": -settings.duplicate * sum(repeated(steps(trajectory))),
    }


def correct(trajectory: Trajectory, gold: GoldTask) -> bool:
    """Whether the answer is the gold one."""
    return trajectory.answer is not None and agrees(trajectory.answer, gold.answer, gold.task.answer_type)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One evaluated episode.

    Example:
        >>> Outcome("code", True, steps=2, valid=2, calls=2, fidelity=0.91).success
        True
    """

    family: str
    success: bool
    steps: int
    """Chain length: calls, and attempts at one that did not parse."""
    valid: int
    """Steps that were no policy failure."""
    calls: int
    """Calls that succeeded."""
    fidelity: float | None
    """Mean agreement of the calls with the gold evidence, None without a call that evidence speaks about."""
    composite: bool = False
    """Whether one operation built on another."""
    hops: tuple[bool, ...] = ()
    """Of neighbouring calls: whether the operation changes though the second does not build on the first."""
    redundant: tuple[bool, ...] = ()
    """Of each call: whether an earlier one looked at much of the same."""


def outcome(trajectory: Trajectory, gold: GoldTask, workspace: Workspace) -> Outcome:
    """Measure one finished episode."""
    chain = steps(trajectory)
    marks = [m for m in (fidelity(turn, gold.evidence, workspace) for turn in trajectory.turns) if m is not None]
    return Outcome(
        gold.task.family,
        correct(trajectory, gold),
        trajectory.chain_length,
        trajectory.chain_length - trajectory.n_invalid,
        trajectory.n_valid,
        float(np.mean(marks)) if marks else None,
        composite(trajectory),
        tuple(hops(chain)),
        tuple(redundant(chain)),
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """What `summary.json` holds for each family and for all."""

    n: int
    success: float
    """Share of exactly right answers."""
    valid: float
    """Share of steps that were no policy failure (schema, handle, range, budget)."""
    chain_length: float
    """Mean steps before the answer."""
    rapr: float
    """Share of episodes with at least one successful call (RaPR `valid`, paper section 7)."""
    visfid: float
    """Mean over calls of their agreement with gold evidence (VisFid, paper section 7), averaged over episodes."""
    racpr: float
    """Share of episodes in which one operation built on another (RaCPR, paper section 7); never above `rapr`."""
    hop_rate: float
    """Share of neighbouring calls that change the operation without building on each other."""
    redundancy: float
    """Share of calls that look at much of what an earlier one of their operation did (IoU above 0.5)."""


def figures(outcomes: Sequence[Outcome]) -> Figures:
    """Aggregate some episodes. ValueError for none."""
    if not outcomes:
        raise ValueError("no episode to aggregate")
    marks = [o.fidelity for o in outcomes if o.fidelity is not None]
    taken = sum(o.steps for o in outcomes)
    hopped, again = [h for o in outcomes for h in o.hops], [r for o in outcomes for r in o.redundant]
    return Figures(
        n=len(outcomes),
        success=float(np.mean([o.success for o in outcomes])),
        valid=sum(o.valid for o in outcomes) / taken if taken else 1.0,
        chain_length=taken / len(outcomes),
        rapr=float(np.mean([o.calls > 0 for o in outcomes])),
        visfid=float(np.mean(marks)) if marks else 0.0,
        racpr=float(np.mean([o.composite for o in outcomes])),
        hop_rate=float(np.mean(hopped)) if hopped else 0.0,
        redundancy=float(np.mean(again)) if again else 0.0,
    )


def by_family(outcomes: Iterable[Outcome]) -> dict[str, dict[str, float]]:
    """`figures` for each family and for `all`, as plain numbers."""
    kept: dict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        kept[one.family].append(one)
        kept["all"].append(one)
    return {family: asdict(figures(some)) for family, some in sorted(kept.items())}


def fidelity(turn: Turn, evidence: Evidence, workspace: Workspace) -> float | None:
    """Agreement in [0, 1] of one call with the gold evidence; 0 for a failed call, None where evidence is silent."""
    if turn.call is None or turn.result is None:
        return None
    op = turn.call.name
    if op not in ("SEG", "ZOOM", "OCR", "TEMP", "TRK"):
        return None
    if not turn.result.ok:
        return 0.0
    data = turn.result.data
    if op == "OCR":
        return max(1 - min(1.0, cer(str(data.get("text", "")), text)) for text in evidence.texts) if evidence.texts else None
    if op == "TEMP":
        return _window_fidelity(turn, evidence)
    if not evidence.boxes or turn.result.ref is None:
        return None
    view = workspace.get(turn.result.ref).view
    if op == "ZOOM":
        return max(_coverage(_in_source(view.rect, workspace), box) for box in evidence.boxes)
    boxes = [data["box"]] if "box" in data else [b[1:] for b in data.get("boxes", [])]
    found = [_lifted(tuple(box), turn.call.arguments.get("on", "img0"), workspace) for box in boxes]
    return float(np.mean([max(box_iou(f, gold) for gold in evidence.boxes) for f in found])) if found else None


def _window_fidelity(turn: Turn, evidence: Evidence) -> float | None:
    """A shown frame counts as inside or outside the gold window; found windows by their best tIoU."""
    assert turn.result is not None
    if not evidence.windows:
        return None
    if "windows" in turn.result.data:
        return max(t_iou(tuple(w), gold) for w in turn.result.data["windows"] for gold in evidence.windows)
    times = turn.result.data.get("times", [])
    return float(np.mean([any(a <= t <= b for a, b in evidence.windows) for t in times])) if times else None


def _in_source(rect: tuple[int, int, int, int], workspace: Workspace) -> tuple[float, float, float, float]:
    """A pixel rectangle of the source in 0..1000 of img0."""
    whole = workspace.get("img0").view
    x0, y0 = whole.from_source(rect[0], rect[1])
    x1, y1 = whole.from_source(rect[2], rect[3])
    return x0, y0, x1, y1


def _lifted(box: Box, on: str, workspace: Workspace) -> tuple[float, float, float, float]:
    """A box of a handle in 0..1000 of img0."""
    view = workspace.get(on).view
    x0, y0 = view.to_source(box[0], box[1])
    x1, y1 = view.to_source(box[2], box[3])
    whole = workspace.get("img0").view
    return (*whole.from_source(x0, y0), *whole.from_source(x1, y1))


def _coverage(crop: tuple[float, float, float, float], gold: Box) -> float:
    """Share of the gold box inside a crop, times min(1, 4 gold area / crop area): a crop of everything earns little."""
    width = max(0.0, min(crop[2], gold[2]) - max(crop[0], gold[0]))
    height = max(0.0, min(crop[3], gold[3]) - max(crop[1], gold[1]))
    area = (gold[2] - gold[0]) * (gold[3] - gold[1])
    whole = (crop[2] - crop[0]) * (crop[3] - crop[1])
    return width * height / area * min(1.0, 4 * area / whole)
