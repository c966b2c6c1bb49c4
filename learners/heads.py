"""Argument heads: boxes, points, windows and ops foreseen by the states that come before them, for imitation only (paper 4.2).

A head reads the last hidden state at the last token of an op's name, where no coordinate of its call is visible yet; the
op's own head reads the state before the first token of the name, where the name is not. Read later, both would copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from pixelis.learners.loss import Told
from pixelis.memory.trajectory import Trajectory, Turn
from pixelis.tools.call import OPS, Args, ToolFailure, TrkArgs, validate
from pixelis.tools.frame import SCALE

BETA = 0.1
"""Error at which the smooth L1 loss turns from square to straight, in shares of the side or of the clip."""
NUMBERS = {"box": 4, "point": 2, "time": 2, "op": len(OPS)}
"""What each head says: corners or times in 0..1, or a score for each op."""
GOOD = 0.6
"""IoU that half of the boxes should reach (paper 4.3, exit gates)."""
FIGURES = {"box": ("box", "box_iou", "box_good"), "point": ("point",), "time": ("time",), "op": ("op", "op_right")}


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """What each head's loss counts beside imitation's; 0: there is no such head. The paper's: 0.2, 0.2, 0.2 and 0.05."""

    box: float = 0.0
    point: float = 0.0
    time: float = 0.0
    op: float = 0.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What one call asks for, and where it stands among the tokens of its trajectory.

    Example: Asked(before=40, named=41, targets={"op": (3.0,), "box": (0.1, 0.2, 0.5, 0.4)})
    """

    before: int
    """The last token before the name of its op."""
    named: int
    """The last token of the name."""
    targets: dict[str, tuple[float, ...]]
    """By head: corners and times in 0..1, or the number of the op."""

    def place(self, kind: str) -> int:
        """The token whose state a head reads."""
        return self.before if kind == "op" else self.named


class Heads(nn.Module):
    """The heads whose weight is not 0. They train beside the policy and stay behind when it leaves the learner."""

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        self.weights: dict[str, float] = {kind: weight for kind, weight in asdict(settings).items() if weight}
        self.figures = tuple(f"head_{name}" for kind in self.weights for name in FIGURES[kind])
        with torch.random.fork_rng():  # no other draw of a run moves when a head is switched on
            torch.manual_seed(0)
            self.parts = nn.ModuleDict({kind: _part(kind, width) for kind in self.weights})

    def count(self, trajectories: Sequence[Trajectory]) -> dict[str, int]:
        """Calls that each head has a target for, in all of a batch."""
        calls = self._asked(trajectories)
        return {kind: sum(kind in asked.targets for _, asked in calls) for kind in self.weights}

    def forward(self, kind: str, states: Tensor) -> Tensor:
        """What a head says [M, n] of states [M, d]: corners in order, a window's ends in order, a point, or scores of ops."""
        said: Tensor = self.parts[kind](states.float())
        if kind in ("op", "point"):
            return said if kind == "op" else said.sigmoid()
        ends = said.sigmoid().unflatten(-1, (2, -1))
        return torch.cat([ends.amin(1), ends.amax(1)], dim=-1)

    def loss(self, hidden: Tensor, trajectories: Sequence[Trajectory], counts: Mapping[str, int]) -> tuple[Tensor, Told]:
        """This micro-batch's part of the heads' loss, and its figures.

        hidden: [B, S, d], a row for each trajectory. The loss of each head is its sum over these calls, divided by the
        `counts` of the whole batch, so that the parts of all micro-batches and ranks add up.
        """
        calls = self._asked(trajectories)
        loss = hidden.new_zeros((), dtype=torch.float32)
        told: Told = {}
        for kind, weight in self.weights.items():
            mine = [(row, asked) for row, asked in calls if kind in asked.targets]
            places = torch.tensor([(row, asked.place(kind)) for row, asked in mine], dtype=torch.long).reshape(-1, 2)
            said = self(kind, hidden[tuple(places.T)])  # of no call too: then 0, on one rank as on many
            target = torch.tensor([asked.targets[kind] for _, asked in mine], device=said.device)
            target = target.reshape(len(mine), 1 if kind == "op" else NUMBERS[kind])
            each, more = LOSSES[kind](said, target)
            loss = loss + weight * each.sum() / max(1, counts[kind])
            found = dict(zip(FIGURES[kind], (each, *more), strict=True))
            told |= {f"head_{name}": (float(values.detach().sum()), float(len(mine))) for name, values in found.items()}
        return loss, told

    def _asked(self, trajectories: Sequence[Trajectory]) -> list[tuple[int, Asked]]:
        if not self.weights:
            return []
        return [(row, asked) for row, trajectory in enumerate(trajectories) for asked in calls_of(trajectory)]


def calls_of(trajectory: Trajectory) -> list[Asked]:
    """The calls that a trajectory may be imitated in: those without an erroneous token from the op on, and valid ones."""
    found, at = [], 0
    for turn in trajectory.turns:
        first, last = turn.roles.find("o"), turn.roles.rfind("o")
        targets = targets_of(turn) if first >= 0 and "x" not in turn.roles[first:] else {}
        if targets:
            begin = at + len(turn.observed)
            found.append(Asked(begin + first - 1, begin + last, targets))
        at += len(turn.observed) + len(turn.sampled)
    return found


def targets_of(turn: Turn) -> dict[str, tuple[float, ...]]:
    """What each head should say of a turn's call; nothing where there is none, or where its arguments are not valid."""
    if turn.call is None:
        return {}
    try:
        given = validate(turn.call)
    except ToolFailure:
        return {}
    spots = {kind: getattr(given, kind, None) for kind in ("box", "point")} | {"time": _window(given)}
    scaled = {kind: tuple(value / SCALE for value in values) for kind, values in spots.items() if values is not None}
    return {"op": (float(list(OPS).index(turn.call.name)),), **scaled}


def box_losses(said: Tensor, target: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """[M] smooth L1 + 0.5 (1 - GIoU) of boxes [M, 4]; and their IoU, and whether it is good."""
    from torchvision.ops import generalized_box_iou_loss  # a second to import

    iou = _iou(said, target, 2)
    return _smooth(said, target) + 0.5 * generalized_box_iou_loss(said, target), (iou, (iou >= GOOD).float())


def point_losses(said: Tensor, target: Tensor) -> tuple[Tensor, tuple[()]]:
    """[M] smooth L1 of points [M, 2]."""
    return _smooth(said, target), ()


def time_losses(said: Tensor, target: Tensor) -> tuple[Tensor, tuple[()]]:
    """[M] smooth L1 + (1 - tIoU) of windows [M, 2]. A window that is one moment overlaps nothing: of it only the first."""
    lasts = target[:, 1] > target[:, 0]
    return _smooth(said, target) + lasts * (1 - _iou(said, target, 1)), ()


def op_losses(said: Tensor, target: Tensor) -> tuple[Tensor, tuple[Tensor]]:
    """[M] cross entropy of scores [M, 6] and ops [M, 1]; and whether the likeliest op is the right one."""
    right = target[:, 0].long()
    return cross_entropy(said, right, reduction="none"), ((said.argmax(-1) == right).float(),)


LOSSES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, tuple[Tensor, ...]]]] = {
    "box": box_losses, "point": point_losses, "time": time_losses, "op": op_losses,
}  # fmt: skip


def _part(kind: str, width: int) -> nn.Module:
    if kind == "op":
        return nn.Linear(width, NUMBERS[kind])
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, NUMBERS[kind]))


def _window(given: Args) -> tuple[int, int] | None:
    if isinstance(given, TrkArgs):
        return given.t0, SCALE if given.t1 is None else given.t1  # to the end of the clip
    return getattr(given, "window", None)


def _smooth(said: Tensor, target: Tensor) -> Tensor:
    """[M], the mean over the numbers of each call."""
    return smooth_l1_loss(said, target, reduction="none", beta=BETA).mean(-1)


def _iou(said: Tensor, target: Tensor, axes: int) -> Tensor:
    """[M] intersection over union of boxes [M, 2 * axes], whose first half are the lower ends."""
    (low, high), (floor, ceiling) = said.split(axes, -1), target.split(axes, -1)
    shared = (torch.minimum(high, ceiling) - torch.maximum(low, floor)).clamp(min=0).prod(-1)
    return shared / ((high - low).prod(-1) + (ceiling - floor).prod(-1) - shared).clamp(min=1e-9)
