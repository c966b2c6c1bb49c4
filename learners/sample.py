"""A trajectory as one step of the learner takes it, and what its tokens count there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis.learners.advantage import Place
from pixelis.learners.batch import Batch
from pixelis.learners.loss import Lessons, Sampled
from pixelis.learners.questions import Questions
from pixelis.learners.reference import Read
from pixelis.memory.trajectory import Trajectory

REHEARSED = 1.0
"""What a rehearsed demonstration counts beside a question of the batch."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A trajectory with the credit it carries in this step."""

    trajectory: Trajectory
    advantage: float = 1.0
    place: Place = (0, 0)
    read: Read | None = None
    """What the reference says of it; None for what is imitated alone."""
    acted: float = 0.0
    """What it counts in the policy gradient of TTRL, as a share of the batch."""
    exemplar: float = 0.0
    """What it counts there as an exemplar."""
    rehearsal: float = 0.0
    """What it counts there as a labelled demonstration."""


def sampled(samples: Sequence[Sample], batch: Batch) -> Sampled:
    """What losses are told of the tokens of those that the reference has read."""
    device = batch.row.device
    reads = [s.read for s in samples if s.read is not None]
    mine = torch.tensor([s.read is not None for s in samples], device=device)[batch.row]
    credit = torch.tensor([s.advantage for s in samples], device=device)[batch.row]
    none = torch.zeros(0)
    anchor, choice = torch.cat([none, *(r.logprobs for r in reads)]), torch.cat([none.bool(), *(r.choice for r in reads)])
    parts = (batch.old[mine], credit[mine], anchor.to(device), choice.to(device), batch.row[mine], batch.roles[mine])
    return Sampled(*parts)


def lessons(samples: Sequence[Sample], batch: Batch, weights: Tensor) -> Lessons:
    """What each token counts in TTRL: evenly within a rollout, by `weights` [N] in what is imitated (paper 4.1)."""
    row = batch.row
    total = torch.zeros(len(samples), device=row.device).index_add_(0, row, weights).clamp(min=1e-8)
    even, rated = (1 / torch.bincount(row, minlength=len(samples)))[row], weights / total[row]
    shares = torch.tensor([(s.acted, s.exemplar, s.rehearsal) for s in samples], device=row.device)
    acted, exemplar, rehearsal = shares[row].T
    return Lessons(acted * even, exemplar * rated, rehearsal * rated)


def asked(
    questions: Questions,
    whole: Mapping[Place, Trajectory],
    credit: Mapping[Place, float],
    reads: Mapping[Place, Read],
    weight: float,
) -> list[Sample]:
    """The samples of TTRL's questions (paper 6.6), with what is imitated beside them at places below 0.

    `weight`: of the likelihood of exemplars. Rollouts without credit, whose group has no contrast, have an advantage of 0.
    """
    each = 1 / questions.size
    best = {n: one.verdict.exemplar for n, one in questions.accepted.items()}
    size = {n: sum(place[0] == n for place in whole) for n in best}
    shown = {place: each * weight * (t.id == best[place[0]]) for place, t in whole.items()}
    out = [
        Sample(t, credit.get(place, 0.0), place, reads[place], acted=each / size[place[0]], exemplar=shown[place])
        for place, t in whole.items()
    ]
    out += [Sample(t, place=(-1 - i, 0), exemplar=each * weight) for i, t in enumerate(questions.replayed)]
    after = -1 - len(questions.replayed)
    return out + [Sample(t, place=(after - i, 0), rehearsal=each * REHEARSED) for i, t in enumerate(questions.rehearsed)]
