"""From what the policy saw and said to what the network reads: placeholders, sizes and rope positions.

This is the only file that knows how many placeholder tokens a view takes and which 3-D rope positions they get. The
engine and the learner both build their inputs here, so they cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixelis.memory.trajectory import Trajectory
from pixelis.tools.frame import View


@dataclass(frozen=True, slots=True)
class Layout:
    """How views become tokens for one policy. Sizes are in pixels, areas in square pixels.

    Example:
        >>> nano = Layout(patch=8, merge=2, image_area=9216, frame_area=2304, max_scale=0.4, start=3, pad=5, end=4)
        >>> nano.size(View("ab", (0, 0, 448, 448)))
        (96, 96)
        >>> len(nano.placeholders(View("ab", (0, 0, 448, 448))))  # start + 36 + end
        38
    """

    patch: int
    """Side of a vision patch."""
    merge: int
    """Patches merged into one token along each side."""
    image_area: int
    """Largest area at which an image, or a crop of one, is shown."""
    frame_area: int
    """Largest area at which a frame of a clip, or a crop of one, is shown."""
    max_scale: float
    """Largest ratio of shown to source side. Below 1 a crop stays coarse, so that reading needs OCR."""
    start: int
    pad: int
    end: int
    """Ids of the vision start, image placeholder and vision end tokens."""

    @property
    def unit(self) -> int:
        """Side in pixels of the square that becomes one token."""
        return self.patch * self.merge

    def size(self, view: View) -> tuple[int, int]:
        """(height, width) in pixels at which `view` is shown: multiples of `unit`, aspect kept as well as they allow."""
        x0, y0, x1, y1 = view.rect
        height, width = y1 - y0, x1 - x0
        area = self.image_area if view.frame is None else self.frame_area
        scale = min(self.max_scale, math.sqrt(area / (height * width)))
        rows, cols = (max(1, round(side * scale / self.unit)) for side in (height, width))
        while rows * cols * self.unit**2 > area and rows * cols > 1:
            rows, cols = (rows - 1, cols) if rows > cols else (rows, cols - 1)
        return rows * self.unit, cols * self.unit

    def cells(self, view: View) -> tuple[int, int]:
        """(rows, columns) of tokens that show `view`."""
        height, width = self.size(view)
        return height // self.unit, width // self.unit

    def placeholders(self, view: View) -> list[int]:
        """The tokens that stand for `view` in a sequence."""
        rows, cols = self.cells(view)
        return [self.start, *[self.pad] * (rows * cols), self.end]

    def positions(self, tokens: Sequence[int] | np.ndarray, views: Sequence[View]) -> np.ndarray:
        """Rope positions [3, len(tokens)] (time, row, column) of a sequence whose placeholders show `views` in order.

        Text advances all three axes by one; an image stands still in time, counts rows and columns, and the text after
        it goes on at the larger of the two (Qwen3-VL, `get_rope_index`). ValueError if placeholders and views disagree.
        """
        ids = np.asarray(tokens)
        where = np.flatnonzero(ids == self.pad)
        cells = [self.cells(view) for view in views]
        if len(where) != sum(rows * cols for rows, cols in cells):
            raise ValueError(f"{len(where)} placeholders for views of {cells} cells")
        parts: list[np.ndarray] = []
        done = taken = position = 0
        for rows, cols in cells:
            first = int(where[taken])
            parts.append(np.tile(np.arange(position, position + first - done), (3, 1)))
            position += first - done
            time = np.full(rows * cols, position)
            grid = np.indices((rows, cols)).reshape(2, -1) + position
            parts.append(np.stack([time, grid[0], grid[1]]))
            position += max(rows, cols)
            taken += rows * cols
            done = first + rows * cols
        parts.append(np.tile(np.arange(position, position + len(ids) - done), (3, 1)))
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True, slots=True)
class Laid:
    """One trajectory as the network reads it."""

    tokens: np.ndarray
    """int64 [L]"""
    mask: np.ndarray
    """bool [L], True on the tokens the policy sampled."""
    positions: np.ndarray
    """int64 [3, L]"""
    views: tuple[View, ...]
    """What the placeholders show, in order."""


def lay_out(trajectory: Trajectory, layout: Layout) -> Laid:
    """A trajectory's tokens, loss mask, rope positions and views."""
    tokens = np.asarray(trajectory.tokens, dtype=np.int64)
    views = tuple(trajectory.views)
    return Laid(tokens, np.asarray(trajectory.mask, dtype=bool), layout.positions(tokens, views), views)
