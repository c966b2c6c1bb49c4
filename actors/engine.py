"""The policy as a sampler: tokens and views in, tokens, log-probs and version out.

`Engine` is the whole interface; a request always carries its full sequence, so that an engine with prefix caching (vLLM)
fits behind it. `TransformersEngine` is the reference: it keeps the key/value rows of open sessions, reads a prompt that
several sessions share once, and decodes all of them together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pixelis.memory.model import FeatureCache, Model
from pixelis.memory.trajectory import Version
from pixelis.memory.weights import adopt
from pixelis.tools.frame import View
from pixelis.tools.media import MediaStore


@dataclass(frozen=True, slots=True)
class Request:
    """One turn to sample.

    Example:
        >>> Request("t7/0", (2, 17, 9), (), seed=(1, 7, 0, 0), max_tokens=24, temperature=1.0)  # doctest: +SKIP
    """

    session: str
    """Names the episode; its later turns extend the tokens of the earlier ones."""
    tokens: tuple[int, ...]
    """The whole sequence so far."""
    views: tuple[View, ...]
    """What its placeholders show, in order."""
    seed: tuple[int, ...]
    """(run, task, rollout, turn): sampling depends on nothing else."""
    max_tokens: int
    temperature: float


@dataclass(frozen=True, slots=True)
class Completion:
    """The sampled turn. `logprobs` are natural logs at temperature 1 of exactly these tokens, under `version`."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    version: Version


class Engine(Protocol):
    """Anything that samples turns."""

    version: Version

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Sample one turn for each request, in their order."""
        ...

    def close(self, sessions: Iterable[str]) -> None:
        """These sessions get no further turn."""
        ...


class _Slots:
    """Keys and values of B rows in preallocated memory; the layers of the network write into it through `update`."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]], used: int) -> None:
        self.layers, self.used = layers, used

    @classmethod
    def empty(cls, model: Model, rows: int, used: int, room: int) -> _Slots:
        """Zeros for `used` columns that are about to be filled and `room` more."""
        text: Any = model.net.config.text_config
        shape = (rows, text.num_key_value_heads, used + room, text.head_dim)
        like = model.net.model.language_model.embed_tokens.weight
        return cls([(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(text.num_hidden_layers)], used)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append the columns of one layer; returns all columns so far."""
        held_keys, held_values = self.layers[layer]
        end = self.used + keys.shape[2]
        held_keys[:, :, self.used : end] = keys
        held_values[:, :, self.used : end] = values
        return held_keys[:, :, :end], held_values[:, :, :end]

    def some(self, rows: Tensor | slice) -> _Slots:
        """The rows that a mask [B] names, copied, or those of a slice, in the same memory."""
        return _Slots([(keys[rows], values[rows]) for keys, values in self.layers], self.used)

    def take_back(self, other: _Slots, rows: Tensor, begin: int) -> None:
        """The columns of `rows` from `begin` on, as `other` has gone on with them."""
        self.used = other.used
        for held, new in zip(self.layers, other.layers, strict=True):
            for mine, theirs in zip(held, new, strict=True):
                if mine is not theirs:
                    mine[rows, :, begin : other.used] = theirs[:, :, begin : other.used]

    def get_seq_length(self, layer: int = 0) -> int:
        """Columns in use (asked for by transformers)."""
        return self.used


class _Bank:
    """Sessions that decode together: their rows, which columns hold what, and how many tokens each has."""

    def __init__(self, sessions: list[str], slots: _Slots, valid: Tensor, lengths: list[int]) -> None:
        self.sessions, self.slots, self.valid, self.lengths = sessions, slots, valid, lengths


class TransformersEngine:
    """`Engine` on a transformers model in this process."""

    def __init__(self, model: Model, store: MediaStore, stop: frozenset[int], version: Version = (0, 0)) -> None:
        self.model, self.stop, self.version = model.net.eval() and model, stop, version
        self.device = model.device
        self.features = FeatureCache(model, store)
        self._banks: dict[int, _Bank] = {}
        self._bank_of: dict[str, int] = {}
        self._next_bank = 0

    def load(self, state: dict[str, Tensor], version: Version, vision_changed: bool) -> None:
        """Take new weights between episodes, as they lie in memory (`adopt`).

        RuntimeError while sessions are open: an episode has one version a turn.
        """
        if self._bank_of:
            raise RuntimeError(f"{len(self._bank_of)} sessions are open; weights change between episodes only")
        adopt(dict(self.model.net.named_parameters()), state)
        self.version = version
        if vision_changed:
            self.features.clear()

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Sample one turn for each request, in their order."""
        waiting: dict[int, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            waiting[self._bank_of.get(request.session, -1)].append(i)
        done: dict[int, Completion] = {}
        for number, indices in waiting.items():
            some = [requests[i] for i in indices]
            bank, *start = self._open(some) if number < 0 else self._extend(self._banks.pop(number), some)
            done.update(zip(indices, self._decode(bank, some, *start), strict=True))
            self._next_bank += 1
            self._banks[self._next_bank] = bank
            self._bank_of.update(dict.fromkeys(bank.sessions, self._next_bank))
        return [done[i] for i in range(len(requests))]

    def close(self, sessions: Iterable[str]) -> None:
        """These sessions get no further turn; a bank without open sessions is freed."""
        for session in sessions:
            self._bank_of.pop(session, None)
        alive = set(self._bank_of.values())
        self._banks = {number: bank for number, bank in self._banks.items() if number in alive}

    def _open(self, requests: list[Request]) -> tuple[_Bank, Tensor, Tensor]:
        """Read prompts, each distinct one once, and give every session its own row.

        Returns the rows, and of each the scores [B, vocabulary] and the rope position [B] of its next token.
        """
        room = max(r.max_tokens for r in requests)
        prompts = sorted(dict.fromkeys((r.tokens, r.views) for r in requests), key=lambda prompt: len(prompt[0]))
        lengths = [len(tokens) for tokens, _ in prompts]
        slots = _Slots.empty(self.model, len(prompts), 0, lengths[-1])
        scores, after = zip(*(self._read(prompts[run], slots.some(run)) for run in _runs(lengths)), strict=True)
        slots.used = lengths[-1]
        index = {prompt: i for i, prompt in enumerate(prompts)}
        rows = [index[(r.tokens, r.views)] for r in requests]
        filled = torch.arange(slots.used) < torch.tensor(lengths)[:, None]
        bank = _Bank([], slots, filled.to(self.device), lengths)
        return self._packed(bank, rows, [r.session for r in requests], room), torch.cat(scores)[rows], torch.cat(after)[rows]

    def _read(self, prompts: list[tuple[tuple[int, ...], tuple[View, ...]]], slots: _Slots) -> tuple[Tensor, Tensor]:
        """Fill empty slots from whole prompts; the scores [B, vocabulary] and rope position [B] of each next token."""
        tokens, views = [tokens for tokens, _ in prompts], [views for _, views in prompts]
        ids, places, valid = self._padded(tokens, views, [0] * len(prompts))
        causal = self._causal(ids.shape[1]).expand(len(prompts), 1, -1, -1)
        hidden = self.model.hidden(ids, places, self.features.get([v for some in views for v in some]), causal, slots)
        return self.model.logits(_last(hidden, valid)), _after(places, valid)

    def _extend(self, bank: _Bank, requests: list[Request]) -> tuple[_Bank, Tensor, Tensor]:
        """Feed what the environment added since the last turn; rows of closed sessions are left behind."""
        row = {session: i for i, session in enumerate(bank.sessions)}
        rows = [row[r.session] for r in requests]
        starts = [bank.lengths[i] for i in rows]
        news = [r.tokens[start:] for r, start in zip(requests, starts, strict=True)]
        chunk = max(map(len, news))
        bank = self._packed(bank, rows, [r.session for r in requests], chunk + max(r.max_tokens for r in requests))
        ids, places, valid = self._padded([r.tokens for r in requests], [r.views for r in requests], starts)
        before = bank.slots.used
        seen = torch.cat([bank.valid[:, :before], valid], dim=1)
        mask = seen[:, None, None, :].expand(-1, 1, chunk, -1).clone()
        mask[..., before:] &= self._causal(chunk)
        own = torch.eye(chunk, before + chunk, dtype=torch.bool, device=self.device).roll(before, 1)
        mask |= own  # a padded query must see something
        views = [v for r, new in zip(requests, news, strict=True) for v in r.views[len(r.views) - self._shown(new) :]]
        hidden = self.model.hidden(ids, places, self.features.get(views), mask, bank.slots)
        bank.slots.used, bank.valid = before + chunk, seen
        bank.lengths = [len(r.tokens) for r in requests]
        return bank, self.model.logits(_last(hidden, valid)), _after(places, valid)

    def _shown(self, tokens: Sequence[int]) -> int:
        return sum(t == self.model.layout.start for t in tokens)

    def _padded(
        self, tokens: list[tuple[int, ...]], views: list[tuple[View, ...]], starts: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Ids [B, S], rope positions [3, B, S] and validity [B, S] of the tokens from `starts` on, padded on the right."""
        width = max(len(t) - start for t, start in zip(tokens, starts, strict=True))
        ids = np.zeros((len(tokens), width), dtype=np.int64)
        places = np.zeros((3, len(tokens), width), dtype=np.int64)
        valid = np.zeros((len(tokens), width), dtype=bool)
        for i, (row, shown, start) in enumerate(zip(tokens, views, starts, strict=True)):
            count = len(row) - start
            ids[i, :count] = row[start:]
            places[:, i, :count] = self.model.layout.positions(row, shown)[:, start:]
            valid[i, :count] = True
        return self._there(ids), self._there(places), self._there(valid)

    def _there(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _causal(self, size: int) -> Tensor:
        """What each of some tokens in a row may see: bool [size, size]."""
        return torch.ones(size, size, dtype=torch.bool, device=self.device).tril()

    def _packed(self, bank: _Bank, rows: list[int], sessions: list[str], room: int) -> _Bank:
        """A bank of the given rows without holes between their columns, with `room` for more."""
        valid = bank.valid[rows]
        counts = valid.sum(1)
        used = int(counts.max())
        order = valid.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :used]
        slots = _Slots.empty(self.model, len(rows), used, room)
        index = torch.tensor(rows, device=self.device)[:, None], order
        for (keys, values), (old_keys, old_values) in zip(slots.layers, bank.slots.layers, strict=True):
            keys[:, :, :used] = old_keys.transpose(1, 2)[index].transpose(1, 2)
            values[:, :, :used] = old_values.transpose(1, 2)[index].transpose(1, 2)
        packed = torch.arange(used, device=self.device)[None] < counts[:, None]
        return _Bank(sessions, slots, packed, [bank.lengths[i] for i in rows])

    def _decode(self, bank: _Bank, requests: list[Request], logits: Tensor, places: Tensor) -> list[Completion]:
        """Sample until every row has stopped. The last sampled token is fed too, so the row is ready to go on."""
        count, steps, begin = len(requests), max(r.max_tokens for r in requests), bank.slots.used
        where = self.device
        draws = self._there(np.stack([_uniform(r.seed, steps) for r in requests]))
        heat = torch.tensor([r.temperature for r in requests], device=where)
        limit = torch.tensor([r.max_tokens for r in requests], device=where)
        stop = torch.tensor(sorted(self.stop), device=where)
        tokens, logs = torch.zeros(count, steps, dtype=torch.long, device=where), torch.zeros(count, steps, device=where)
        bank.valid = torch.cat([bank.valid, torch.zeros(count, steps, dtype=torch.bool, device=where)], dim=1)
        live, rows, slots = torch.ones(count, dtype=torch.bool, device=where), torch.arange(count, device=where), bank.slots
        for step in range(steps):
            token, log = _sample(logits, heat[rows], draws[rows, step])
            tokens[rows, step], logs[rows, step] = token, log
            bank.valid[rows, begin + step] = live[rows]
            live[rows] &= ~torch.isin(token, stop) & (step + 1 < limit[rows])
            mask = bank.valid[rows, None, None, : begin + step + 1]
            mask[..., -1] = True
            next_places = (places[rows] + step)[None, :, None].expand(3, -1, -1)
            hidden = self.model.hidden(token[:, None], next_places, (), mask, slots)
            slots.used += 1
            if not live.any():
                break
            logits = self.model.logits(hidden[:, 0])
            going = live[rows]
            if 2 * going.sum() <= len(rows):  # a few long turns need not carry all the others
                bank.slots.take_back(slots, rows, begin)
                rows, slots, logits = rows[going], slots.some(going), logits[going]
        bank.slots.take_back(slots, rows, begin)
        counts = bank.valid[:, begin:].sum(1).tolist()
        bank.valid = bank.valid[:, : slots.used]
        bank.lengths = [length + n for length, n in zip(bank.lengths, counts, strict=True)]
        taken = zip(tokens.tolist(), logs.tolist(), counts, strict=True)
        return [Completion(tuple(t[:n]), tuple(v[:n]), self.version) for t, v, n in taken]


def _runs(lengths: list[int]) -> list[slice]:
    """Runs of ascending lengths in which nobody is padded to more than 4/3 of its length: padding costs as much as tokens."""
    begins = [0]
    for i, length in enumerate(lengths):
        if 3 * length > 4 * lengths[begins[-1]]:
            begins.append(i)
    return [slice(begin, end) for begin, end in zip(begins, [*begins[1:], len(lengths)], strict=True)]


def _last(hidden: Tensor, valid: Tensor) -> Tensor:
    """The last valid one of hidden states [B, S, d]: [B, d]."""
    return hidden[torch.arange(len(valid), device=valid.device), valid.sum(1) - 1]


def _after(places: Tensor, valid: Tensor) -> Tensor:
    """The rope position [B] that follows the last valid one of places [3, B, S]."""
    last = places[:, torch.arange(len(valid), device=valid.device), valid.sum(1) - 1]
    return last.amax(0) + 1


def _uniform(seed: tuple[int, ...], count: int) -> np.ndarray:
    """`count` numbers in [0, 1) that depend on `seed` alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([s & 0xFFFFFFFF for s in seed]))).random(count)


def _sample(logits: Tensor, heat: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row by inverse CDF (the best one at temperature 0), and its log-prob at temperature 1."""
    logs = logits.log_softmax(-1)
    warm = (logs / heat.clamp(min=1e-6)[:, None]).softmax(-1).double().cumsum(-1)
    drawn = torch.searchsorted(warm, draw[:, None].double() * warm[:, -1:], right=True)[:, 0]
    token = torch.where(heat > 0, drawn.clamp(max=logits.shape[-1] - 1), logits.argmax(-1))
    return token, logs.gather(-1, token[:, None])[:, 0]
