"""Curiosity: how little a dynamics head, trained beside the policy, foresees what a call will show (paper 5.3).

States are frozen features: those of the phase-1 vision tower for what is shown, mean word embeddings for what is told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pixelis.learners.running import Running
from pixelis.memory.chain import Step, repeated
from pixelis.memory.model import FeatureCache, Model
from pixelis.memory.trajectory import Trajectory, Turn

WIDEST = 384
"""Numbers of each part of a state: wider features are projected down, once and for all."""
OPS = ("SEG", "ZOOM", "TRK", "OCR", "TEMP", "PROP")
SLOTS = {"box": 0, "point": 4, "window": 6}
WAVES = 4
"""Frequencies of the Fourier features of an argument."""
CODE = 64
KEPT = 2048
"""Transitions that are trained on again."""
ROUNDS = 4
"""Training steps of the head an update."""
SLOW, FAST = 0.05, 0.3
"""How much the newest error counts in the two means whose difference is learning progress."""


@dataclass(frozen=True, slots=True)
class Transitions:
    """M calls: the state before, the call, the state after. A state has two parts, what was shown and what was told."""

    before: Tensor
    """float32 [M, 2, d]"""
    op: Tensor
    """int64 [M], index in OPS"""
    args: Tensor
    """float32 [M, 8 * 2 * WAVES], Fourier features of the arguments; 0 where there is none."""
    after: Tensor
    """float32 [M, 2, d]"""
    seen: Tensor
    """bool [M, 2]: whether the call showed something, and told something."""

    def __len__(self) -> int:
        return len(self.op)

    def some(self, rows: Tensor) -> Transitions:
        """Those of some rows."""
        return Transitions(self.before[rows], self.op[rows], self.args[rows], self.after[rows], self.seen[rows])

    def tensors(self) -> dict[str, Tensor]:
        """By name; `Transitions(**tensors)` is the inverse."""
        return {name: getattr(self, name) for name in ("before", "op", "args", "after", "seen")}


def joined(some: Sequence[Transitions]) -> Transitions:
    """Several as one."""
    return Transitions(**{name: torch.cat([one.tensors()[name] for one in some]) for name in some[0].tensors()})


class Senses:
    """Turns what an episode saw into states, with weights that never change."""

    def __init__(self, model: Model, features: FeatureCache) -> None:
        self.model, self.features = model, features
        width = model.net.model.language_model.embed_tokens.weight.shape[1]
        self.width = min(width, WIDEST)
        fixed = torch.Generator().manual_seed(0)
        self._down = torch.randn(width, self.width, generator=fixed) / math.sqrt(width) if width > WIDEST else None

    @torch.no_grad()
    def transitions(self, trajectory: Trajectory) -> tuple[Transitions, list[int]]:
        """The calls whose outcome was seen, and which turns they are."""
        turns = trajectory.turns
        at = [i for i, turn in enumerate(turns[:-1]) if turn.call is not None and turn.call.name in OPS]
        states, seen = zip(*(self._state(turn) for turn in turns), strict=True) if turns else ((), ())
        held: list[Tensor] = []
        for state, (shown, _) in zip(states, seen, strict=True):  # what is not shown anew is still in sight
            held.append(state if shown or not held else torch.stack([held[-1][0], state[1]]))
        empty = torch.zeros(0, 2, self.width)
        return Transitions(
            torch.stack([held[i] for i in at]) if at else empty,
            torch.tensor([OPS.index(_call(turns[i]).name) for i in at], dtype=torch.long),
            torch.stack([fourier(_call(turns[i]).arguments) for i in at]) if at else torch.zeros(0, 8 * 2 * WAVES),
            torch.stack([held[i + 1] for i in at]) if at else empty,
            torch.tensor([seen[i + 1] for i in at], dtype=torch.bool).reshape(-1, 2),
        ), at

    def _state(self, turn: Turn) -> tuple[Tensor, tuple[bool, bool]]:
        """[2, d] of what a turn began with, and which parts it had."""
        net = self.model.net.model.language_model
        told = torch.tensor([t for t in turn.observed if t != self.model.layout.pad], device=net.embed_tokens.weight.device)
        text = net.embed_tokens.weight[told].float().mean(0).cpu() if len(told) else None
        shown = [f.pooled.float().mean(0).cpu() for f in self.features.get(turn.views)]
        image = torch.stack(shown).mean(0) if shown else None
        return torch.stack([self._part(image), self._part(text)]), (image is not None, text is not None)

    def _part(self, value: Tensor | None) -> Tensor:
        if value is None:
            return torch.zeros(self.width)
        value = value if self._down is None else value @ self._down
        return nn.functional.layer_norm(value, value.shape)


class Dynamics(nn.Module):
    """Foresees the state after a call: the state before, plus what a small network says of it and the call."""

    def __init__(self, width: int, hidden: int = 256) -> None:
        super().__init__()
        self.op = nn.Embedding(len(OPS), CODE)
        self.body = nn.Sequential(nn.Linear(2 * width + CODE + 8 * 2 * WAVES, hidden), nn.GELU(), nn.Linear(hidden, 2 * width))
        self.gate = nn.Parameter(torch.full((1,), 0.1))

    def forward(self, of: Transitions) -> Tensor:
        """[M, 2, d]"""
        known = torch.cat([of.before.flatten(1), self.op(of.op), of.args], dim=1)
        return of.before + self.gate * self.body(known).view_as(of.before)

    def errors(self, of: Transitions) -> Tensor:
        """Mean squared error [M] over the parts that were seen; 0 where none was."""
        parts = (self(of) - of.after).square().mean(-1) * of.seen
        return parts.sum(1) / of.seen.sum(1).clamp(min=1)


class Curiosity:
    """What the calls of an episode earn by showing what was not foreseen.

    An error is scaled by the running deviation of its operation's; of operations in `progress`, whose outcome nobody can
    foresee, what counts is by how much their errors have lately become smaller instead.
    """

    def __init__(self, senses: Senses, progress: Sequence[str] = ("OCR",), lr: float = 1e-3, seed: int = 0) -> None:
        self.senses, self.progress = senses, frozenset(progress)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.head = Dynamics(senses.width)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=lr)
        self.scales: dict[str, Running] = {}
        self.means: dict[str, list[float]] = {}
        """Operation -> the slow and the fast mean of its errors."""
        self.learns = True
        """Whether what is seen changes the head, scales and means."""
        self._kept: Transitions | None = None
        self._draws = torch.Generator().manual_seed(seed)

    def earned(self, trajectories: Sequence[Trajectory]) -> tuple[list[tuple[float, float]], float]:
        """Of each trajectory the mean over its calls, raw and scaled, before the head learns from them; then it learns.

        Returns these, and the loss of the head. No call, no reward; nor for a failed, an empty or a repeated one, nor, when it
        does not learn, for an operation that it never saw.
        """
        found = [self.senses.transitions(t) for t in trajectories]
        every = joined([some for some, _ in found])
        with torch.no_grad():
            errors = self.head.errors(every).tolist()
        pays = [pay for t, (_, at) in zip(trajectories, found, strict=True) for pay in paying(t, at)]
        names = [OPS[op] for op in every.op.tolist()]
        if self.learns:
            self._watch([(name, error) for name, error, pay in zip(names, errors, pays, strict=True) if pay])
        pays = [pay and name in self.scales for pay, name in zip(pays, names, strict=True)]
        raws = [self._raw(name, error) if pay else 0.0 for name, error, pay in zip(names, errors, pays, strict=True)]
        scaled = [min(3.0, self.scales[name].scale(raw)) if raw else 0.0 for name, raw in zip(names, raws, strict=True)]
        ends = torch.tensor([len(some) for some, _ in found]).cumsum(0).tolist()
        spans = [slice(end - len(some), end) for end, (some, _) in zip(ends, found, strict=True)]
        return [(_mean(raws[span]), _mean(scaled[span])) for span in spans], self.learn(every) if self.learns else 0.0

    def learn(self, fresh: Transitions) -> float:
        """Train the head on these transitions, and as many old ones; the mean loss."""
        if not len(fresh):
            return 0.0
        kept = self._kept or fresh
        losses = []
        for _ in range(ROUNDS):
            again = torch.randint(len(kept), (len(fresh),), generator=self._draws)
            loss = self.head.errors(joined([fresh, kept.some(again)])).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            losses.append(float(loss.detach()))
        whole = joined([kept, fresh]) if self._kept else fresh
        self._kept = whole.some(torch.randperm(len(whole), generator=self._draws)[:KEPT])
        return _mean(losses)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON for a checkpoint."""
        tensors = {f"head.{name}": t for name, t in self.head.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"moments.{number}.{name}": t for name, t in moments.items()}
        tensors |= {f"kept.{name}": t for name, t in (self._kept.tensors() if self._kept else {}).items()}
        tensors["draws"] = self._draws.get_state()
        return tensors, {"scales": {op: one.state() for op, one in self.scales.items()}, "means": self.means}

    def restore(self, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        parts: dict[str, dict[str, Tensor]] = {"head": {}, "moments": {}, "kept": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor.clone()
        self.head.load_state_dict(parts["head"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["moments"].items():
            number, _, moment = name.partition(".")
            moments.setdefault(int(number), {})[moment] = tensor
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self._kept = Transitions(**parts["kept"]) if parts["kept"] else None
        self._draws.set_state(tensors["draws"])
        self.scales = {op: Running(**one) for op, one in state["scales"].items()}
        self.means = {op: list(pair) for op, pair in state["means"].items()}

    def _watch(self, errors: Sequence[tuple[str, float]]) -> None:
        """Take note of a batch's errors by operation."""
        for op in sorted({name for name, _ in errors}):
            mine = [error for name, error in errors if name == op]
            self.scales.setdefault(op, Running()).add(mine)
            slow, fast = self.means.setdefault(op, [_mean(mine)] * 2)
            self.means[op] = [slow + SLOW * (_mean(mine) - slow), fast + FAST * (_mean(mine) - fast)]

    def _raw(self, op: str, error: float) -> float:
        slow, fast = self.means[op]
        return max(0.0, slow - fast) if op in self.progress else error


def paying(trajectory: Trajectory, at: Sequence[int]) -> list[bool]:
    """Of the calls in some turns: whether they worked and are no repetition."""
    called = [i for i, turn in enumerate(trajectory.turns) if turn.call is not None]
    chain = [Step.of(_call(trajectory.turns[i]), trajectory.turns[i].result) for i in called]
    again = dict(zip(called, repeated(chain), strict=True))
    done = {i: step.ok for i, step in zip(called, chain, strict=True)}
    return [done[i] and not again[i] for i in at]


def fourier(arguments: Mapping[str, Any]) -> Tensor:
    """[8 * 2 * WAVES] features of a call's numbers: box, point and window have places of their own, 0 where absent."""
    values = torch.full((8,), math.nan)
    for name, first in SLOTS.items():
        given = arguments.get(name)
        if isinstance(given, list | tuple) and all(type(v) is int for v in given):
            count = min(len(given), (4, 2, 2)[list(SLOTS).index(name)])
            values[first : first + count] = torch.tensor(given[:count]) / 1000
    angles = values[:, None] * (2.0 ** torch.arange(WAVES)) * math.pi
    return torch.cat([angles.sin(), angles.cos()], dim=1).nan_to_num(0.0).flatten()


def _call(turn: Turn) -> Any:
    assert turn.call is not None
    return turn.call


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
