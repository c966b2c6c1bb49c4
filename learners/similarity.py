"""How alike two chains are: their operations, and where in the picture and the clip they looked (paper 6.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixelis.memory.look import BINS, Look, Region
from pixelis.tools.frame import SCALE

SIDE = 32
"""Rows and columns of a footprint."""


def sequence(a: Sequence[str], b: Sequence[str]) -> float:
    """1 - edit distance of two sequences of operations over the longer one's length, 0..1; 1 when both are empty.

    Example:
        >>> round(sequence(["ZOOM", "OCR"], ["ZOOM", "ZOOM", "OCR"]), 4)
        0.6667
    """
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_similarity(a, b))


def footprint(chain: Sequence[Look], clip: bool | None = None, side: int = SIDE) -> np.ndarray:
    """What a chain looked at: float64 [BINS, side, side] of a clip, [1, side, side] of a still.

    Each of T calls adds 1/T where it looked; a cell that it looked at in part, that part. Whether it is a clip is read from
    the looks if not told.

    Example:
        >>> from pixelis.memory.look import WHOLE
        >>> footprint([Look("OCR", (WHOLE.inner([0, 0, 500, 1000]),)), Look("OCR", (WHOLE,))], side=2)
        array([[[1. , 0.5],
                [1. , 0.5]]])
    """
    if clip is None:
        clip = timed(chain)
    grid = np.zeros((BINS if clip else 1, side, side))
    for look in chain:
        cells = [_cells(region, grid.shape) for region in look.regions]
        if cells:
            grid += (np.maximum.reduce(cells) if len(cells) > 1 else cells[0]) / len(chain)
    return grid


def _cells(region: Region, shape: tuple[int, ...]) -> np.ndarray:
    """Of each cell of a footprint the share that a region covers."""
    x0, y0, x1, y1 = region.box
    bins, rows, columns = shape
    t0, t1 = region.span or (0.0, float(SCALE))
    times = _covered(t0, t1, bins)
    return times[:, None, None] * _covered(y0, y1, rows)[:, None] * _covered(x0, x1, columns)


def timed(chain: Sequence[Look]) -> bool:
    """Whether any look has a span of time, as every look at a clip has."""
    return any(region.span is not None for look in chain for region in look.regions)


def ruzicka(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of the smaller over sum of the larger of two non-negative arrays of one shape, 0..1; 1 when both are empty.

    Example:
        >>> ruzicka(np.array([1, 1, 0, 0.5]), np.array([1, 0, 0, 1]))
        0.5
    """
    union = float(np.maximum(a, b).sum())
    return float(np.minimum(a, b).sum()) / union if union > 0 else 1.0


def _covered(low: float, high: float, parts: int) -> np.ndarray:
    """Of each of so many equal parts of 0..1000, the share [parts] that lies between two coordinates."""
    edges = np.arange(parts + 1) * (SCALE / parts)
    share = (np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)) * (parts / SCALE)
    return np.clip(share, 0.0, 1.0)
