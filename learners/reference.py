"""The policy that training is held close to: a frozen copy, asked for log-probs and for what it makes of each step."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelis.learners.batch import Batch
from pixelis.learners.loss import CHOICE
from pixelis.learners.ranks import like
from pixelis.memory.lora import Unadapted, layers
from pixelis.memory.model import Features, Model
from pixelis.memory.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Read:
    """What the reference says of one trajectory with n sampled tokens and T steps."""

    logprobs: Tensor
    """float32 [n]"""
    choice: Tensor
    """bool [n]: whether it left one, or knew the token."""
    steps: Tensor
    """float32 [T, d]: mean last hidden state over each step's thought, call and observation (paper 5.4)."""


def logprobs(model: Model, batch: Batch, features: list[Features]) -> Tensor:
    """Log-probs [N] at temperature 1 of the sampled tokens of a batch."""
    return states_and_logprobs(model, batch, features)[1]


def states_and_logprobs(model: Model, batch: Batch, features: list[Features]) -> tuple[Tensor, Tensor]:
    """Last hidden states [B, S, d] of a batch, and `logprobs`, from one forward."""
    hidden, scores = _scores(model, batch, features)
    return hidden, _taken(scores, batch)


class Reference:
    """A frozen full copy of the text side of a policy, and of its vision tower where that trains.

    Of a policy with adapters it is the same network without them: no copy of anything.
    """

    def __init__(self, model: Model, share_vision: bool) -> None:
        if layers(model.net):
            self.model: Model = Unadapted(model.net, model.tokenizer, model.card)
            return
        memo = {id(model.net.model.visual): model.net.model.visual} if share_vision else {}
        net = copy.deepcopy(model.net, memo).requires_grad_(False).eval()
        self.model = Model(net, model.tokenizer, model.card)

    @torch.no_grad()
    def follow(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the values of some parameters, by name: those of a moving average, for one. KeyError for another name.

        Visual features that were kept of it are out of date when these are its vision tower's.
        """
        own = dict(self.model.net.named_parameters())
        for name, tensor in weights.items():
            own[name].copy_(like(tensor, own[name]))

    @torch.no_grad()
    def read(self, batch: Batch, features: list[Features], trajectories: Sequence[Trajectory]) -> list[Read]:
        """One forward over a batch of these trajectories."""
        hidden, scores = _scores(self.model, batch, features)
        counts = torch.bincount(batch.row, minlength=len(trajectories)).tolist()
        known = scores.amax(-1) > math.log(CHOICE)
        taken, choice = _taken(scores, batch).split(counts), (~known).split(counts)
        spans = [step_spans(t) for t in trajectories]
        begins = zip(batch.starts, spans, strict=True)
        steps = [[hidden[row, at + a : at + b].float().mean(0) for a, b in some] for (row, at), some in begins]
        empty = hidden.new_zeros((0, hidden.shape[-1]), dtype=torch.float32)
        return [Read(p, c, torch.stack(s) if s else empty) for p, c, s in zip(taken, choice, steps, strict=True)]


def step_spans(trajectory: Trajectory) -> list[tuple[int, int]]:
    """Where the tokens of each call stand, with its thought before it and its observation behind it."""
    spans, at = [], 0
    for turn, after in zip(trajectory.turns, [*trajectory.turns[1:], None], strict=True):
        begin = at + len(turn.observed)
        at = begin + len(turn.sampled)
        if turn.call is not None:
            spans.append((begin, at + (len(after.observed) if after else 0)))
    return spans


def _scores(model: Model, batch: Batch, features: list[Features]) -> tuple[Tensor, Tensor]:
    """Hidden states [B, S, d], and log-probs [N, vocabulary] where a token was sampled."""
    hidden = model.hidden(batch.tokens, batch.positions, features)
    rows, columns = batch.mask.nonzero(as_tuple=True)
    return hidden, model.logits(hidden[rows, columns - 1]).log_softmax(-1)


def _taken(scores: Tensor, batch: Batch) -> Tensor:
    return scores.gather(-1, batch.tokens[batch.mask][:, None])[:, 0]
