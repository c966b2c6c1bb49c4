"""Does the policy see? Swap the picture under some prompts: if the next token's log-probs stay, it is blind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import torch

from pixelis.actors.render import Observed, Renderer
from pixelis.memory.model import FeatureCache, Model
from pixelis.memory.task import Task
from pixelis.tools.frame import View
from pixelis.tools.media import MediaStore

LEAST = 1e-3


class BlindPolicy(RuntimeError):
    """The policy's log-probs do not depend on the picture."""


@torch.no_grad()
def vision_moves(model: Model, renderer: Renderer, store: MediaStore, tasks: Sequence[Task]) -> float:
    """How far, in nats, the next token's log-probs move at most when a prompt gets another task's picture.

    The least over the prompts that could be swapped (pictures that take the same placeholders). ValueError without one.
    """
    features = FeatureCache(model, store, torch.float32)
    alike: dict[tuple[tuple[int, int], ...], list[Observed]] = defaultdict(list)
    for task in tasks:
        prompt = renderer.prompt(task, store)
        alike[tuple(model.layout.cells(v) for v in prompt.views)].append(prompt)
    moves: list[float] = []
    for prompts in alike.values():
        for own, other in pairwise(prompts):
            before, after = (_next(model, features, own, views) for views in (own.views, other.views))
            moves.append(float((before - after)[before.isfinite()].abs().max()))  # banned tokens are at -inf
    if not moves:
        raise ValueError("no two pictures of the same size to swap")
    return min(moves)


def check_vision(model: Model, renderer: Renderer, store: MediaStore, tasks: Sequence[Task]) -> float:
    """`vision_moves`, or BlindPolicy when that is at most 0.001 nats (or not a number)."""
    moves = vision_moves(model, renderer, store, tasks)
    if not moves > LEAST:
        raise BlindPolicy(
            f"the policy does not see: swapping the picture moves its log-probs by {moves:.1e} nats (more than {LEAST:g} "
            "expected); check the start policy and the vision input"
        )
    return moves


def _next(model: Model, features: FeatureCache, prompt: Observed, views: Sequence[View]) -> torch.Tensor:
    """Log-probs [vocabulary] of the token after a prompt that shows `views`."""
    tokens = torch.tensor([prompt.tokens], device=model.device)
    positions = torch.from_numpy(model.layout.positions(prompt.tokens, prompt.views))[:, None].to(model.device)
    hidden = model.hidden(tokens, positions, features.get(views))
    return model.logits(hidden[:, -1]).log_softmax(-1)[0]
