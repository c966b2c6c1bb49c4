"""The policy that training is held close to: a frozen copy, asked for log-probs and for what it makes of each step."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
    """A policy that does not train, asked for log-probs and for what it makes of each step."""

    def __init__(self, model: Model) -> None:
        """`model` is used as it is: see `copied`."""
        self.model = model

    @torch.no_grad()
    def follow(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the values of some parameters, by name: those of a moving average, for one. KeyError for another name.

        Visual features that were kept of it are out of date when these are its vision tower's. Beside a policy with adapters
        it becomes, the first time, another model: the network with these adapters in place of the policy's.
        """
        own = dict(self.model.net.named_parameters())
        if layers(self.model.net):
            if not isinstance(self.model, Wearing):
                self.model = Wearing(self.model.net, self.model.tokenizer, self.model.card)
            self.model.worn |= {name: like(tensor, own[name]).to(own[name].device) for name, tensor in weights.items()}
            return
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


def copied(model: Model, share_vision: bool) -> Model:
    """A frozen full copy of the text side of a policy, and of its vision tower unless that is shared.

    Of a policy with adapters it is the same network without them: no copy of anything.
    """
    if layers(model.net):
        return Unadapted(model.net, model.tokenizer, model.card)
    memo = {id(model.net.model.visual): model.net.model.visual} if share_vision else {}
    return Model(copy.deepcopy(model.net, memo).requires_grad_(False).eval(), model.tokenizer, model.card)


class Wearing(Model):
    """A network that computes, without gradients, with other values of some of its parameters."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.worn: dict[str, Tensor] = {}

    @torch.no_grad()
    def encode(self, *args: Any, **kwargs: Any) -> list[Features]:
        """As `Model.encode`."""
        with worn(self.net, self.worn):
            return super().encode(*args, **kwargs)

    @torch.no_grad()
    def hidden(self, *args: Any, **kwargs: Any) -> Tensor:
        """As `Model.hidden`."""
        with worn(self.net, self.worn):
            return super().hidden(*args, **kwargs)


@contextmanager
def worn(net: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Other values of some parameters by name, for as long as this lasts; afterwards they are as before, to the bit."""
    own = dict(net.named_parameters())
    before = {name: own[name].detach().clone() for name in values}
    try:
        for name, tensor in values.items():
            own[name].data.copy_(like(tensor, own[name]))  # in place, as layers may hold on to where their parameters lie
        yield
    finally:
        for name, tensor in before.items():
            own[name].data.copy_(tensor)


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
