"""Dense vision pre-training of the nano policy: the stand-in for a pretrained backbone.

For each token of a view: what lies in its cell, told in the language model's own word embeddings, and where, told in its
number embeddings. The vision tower thereby speaks the language model's words, which has only to match and copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pixelis.memory.model import Model


@dataclass(frozen=True, slots=True)
class Target:
    """One object in a view: its words (kind, colour) and its box in 0..1000 of the view."""

    kind: str
    color: str | None
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Example:
    """A view, already at the size the policy sees, and what it shows."""

    pixels: np.ndarray
    """uint8 [height, width, 3]"""
    targets: tuple[Target, ...]


class DenseHeads(nn.Module):
    """Turns visual tokens into scores over words and numbers that live in the language model's embedding."""

    def __init__(self, model: Model, kinds: Sequence[str], colors: Sequence[str], numbers: Sequence[int]) -> None:
        super().__init__()
        ids = model.tokenizer.get_vocab().__getitem__
        self.kinds, self.colors = {k: i + 1 for i, k in enumerate(kinds)}, {c: i for i, c in enumerate(colors)}
        self.embed = model.net.model.language_model.embed_tokens.weight
        self.rows = {
            "kind": torch.tensor([ids(k) for k in kinds]),
            "color": torch.tensor([ids(c) for c in colors]),
            "number": torch.tensor([ids(str(n)) for n in numbers]),
        }
        width = self.embed.shape[1]
        self.nothing = nn.Parameter(torch.zeros(1, width))
        self.sides = nn.Linear(width, 4 * width, bias=False)
        self.scale = nn.Parameter(torch.full((3,), 10.0 / width**0.5))

    def forward(self, tokens: Tensor, centres: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the kind [n, 1 + kinds] for all tokens [n, d]; colour and box sides [m, 4, numbers] at the centres."""
        # normalised as the language model's layers read them; without this the tokens grow until no layer can move them
        tokens = nn.functional.rms_norm(tokens, tokens.shape[-1:])
        kinds = torch.cat([self.nothing, self.embed[self.rows["kind"]]])
        at = tokens[centres]
        sides = self.sides(at).view(len(at), 4, -1)
        return (
            self.scale[0] * tokens @ kinds.T,
            self.scale[1] * at @ self.embed[self.rows["color"]].T,
            self.scale[2] * sides @ self.embed[self.rows["number"]].T,
        )


def _labels(
    example: Example, unit: int, heads: DenseHeads, grid: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, int, list[int]]]]:
    """Kind of every token of a view, and (token, colour or -1, four grid indices) of every object centre."""
    rows, cols = example.pixels.shape[0] // unit, example.pixels.shape[1] // unit
    kinds = np.zeros(rows * cols, dtype=np.int64)
    objects: list[tuple[int, int, list[int]]] = []
    for target in example.targets:
        x0, y0, x1, y1 = target.box
        col = min(cols - 1, int((x0 + x1) / 2000 * cols))
        row = min(rows - 1, int((y0 + y1) / 2000 * rows))
        kinds[row * cols + col] = heads.kinds[target.kind]
        # outward on the grid, as the teacher writes boxes
        low = [int(np.searchsorted(grid, v, side="right")) - 1 for v in (x0, y0)]
        high = [int(np.searchsorted(grid, v, side="left")) for v in (x1, y1)]
        sides = [min(len(grid) - 1, max(0, v)) for v in (*low, *high)]
        objects.append((row * cols + col, heads.colors[target.color] if target.color else -1, sides))
    return kinds, objects


def pretrain(
    model: Model, examples: Iterator[Sequence[Example]], heads: DenseHeads, grid: Sequence[int], steps: int, lr: float = 2e-3
) -> Iterable[dict[str, float]]:
    """Train the vision tower and the word embeddings for some steps; yields the figures of each.

    `examples` gives a batch a step. Loss: cross-entropy of kind (background weighted 0.3), colour and box sides. The
    learning rate falls to a tenth along a cosine.
    """
    visual = model.net.model.visual.requires_grad_(True)
    trained = [*visual.parameters(), heads.embed, *heads.parameters()]
    trained = list({id(p): p for p in trained}.values())
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _rate(s, steps))
    points = np.asarray(grid)
    for _ in range(steps):
        figures = _step(model, next(examples), heads, points, optimizer, trained)
        schedule.step()
        yield figures


def _rate(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / 30)
    return warm * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * step / steps)))


def _step(
    model: Model, batch: Sequence[Example], heads: DenseHeads, grid: np.ndarray, optimizer: torch.optim.Optimizer, trained: list
) -> dict[str, float]:
    patches, grids = zip(*(model.patchify(e.pixels) for e in batch), strict=True)
    tokens = torch.cat([f.pooled for f in model.encode(patches, grids)])
    kinds, centres, colors, sides, start = [], [], [], [], 0
    for example in batch:
        kind, objects = _labels(example, model.layout.unit, heads, grid)
        kinds.append(kind)
        for at, color, box in objects:
            centres.append(start + at)
            colors.append(color)
            sides.append(box)
        start += len(kind)
    kind_of, color_of, box_of = torch.from_numpy(np.concatenate(kinds)), torch.tensor(colors), torch.tensor(sides)
    said_kind, said_color, said_box = heads(tokens, torch.tensor(centres))
    weight = torch.ones(said_kind.shape[1])
    weight[0] = 0.3
    loss = 3 * nn.functional.cross_entropy(said_kind, kind_of, weight)  # kinds are learned last: a square passes for a lamp
    loss = loss + nn.functional.cross_entropy(said_color, color_of, ignore_index=-1)
    loss = loss + nn.functional.cross_entropy(said_box.flatten(0, 1), box_of.flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    colored = color_of >= 0
    return {
        "loss": float(loss.detach()),
        "kind": float((said_kind.argmax(1) == kind_of)[kind_of > 0].float().mean()),
        "color": float((said_color.argmax(1) == color_of)[colored].float().mean()),
        "side_within_1": float(((said_box.argmax(2) - box_of).abs() <= 1).float().mean()),
    }
