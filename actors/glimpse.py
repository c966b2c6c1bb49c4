"""Answers from the few pixels that the policy sees first, without a tool: the strongest that the controls know."""

from collections.abc import Sequence

import cv2
import numpy as np

from pixelis.actors.scene import COLORS, Pixels, tint_on
from pixelis.tools.ocr import read_line

IMAGE_SIDE, FRAME_SIDE = 96, 48  # what the nano policy sees of an image and of each frame of a clip
ENLARGED = 48  # pixels of height that the recogniser likes
NEAR = 110  # grey levels: a pixel this near to a plate's colour is the plate's


def thumbnail(pixels: Pixels, side: int = IMAGE_SIDE) -> Pixels:
    """A picture as the policy sees it first."""
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def read_enlarged(part: Pixels) -> str:
    """The text in a few RGB pixels, enlarged smoothly to the recogniser's height."""
    scale = ENLARGED / part.shape[0]
    large = cv2.resize(np.ascontiguousarray(part[..., ::-1]), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return read_line(np.asarray(large, dtype=np.uint8))[0]


class Counter:
    """Guesses how many dots a plate carries that is a few pixels large: kernel ridge classification of `features`.

    Example:
        >>> Counter(parts, dots).count([part])      # fitted on plates of known numbers     # doctest: +SKIP
        [4]
    """

    def __init__(self, parts: Sequence[Pixels], dots: Sequence[int], ridge: float = 1.0) -> None:
        raw = np.array([features(part) for part in parts])
        self._mean, self._scale = raw.mean(axis=0), raw.std(axis=0) + 1e-9
        self._known = (raw - self._mean) / self._scale
        self._numbers = np.unique(dots)
        kernel = self._kernel(self._known) + ridge * np.eye(len(raw))
        self._weights = np.linalg.solve(kernel, (np.asarray(dots)[:, None] == self._numbers).astype(float))

    def count(self, parts: Sequence[Pixels]) -> list[int]:
        """The likeliest number for each part."""
        rows = (np.array([features(part) for part in parts]) - self._mean) / self._scale
        return [int(n) for n in self._numbers[(self._kernel(rows) @ self._weights).argmax(axis=1)]]

    def _kernel(self, rows: np.ndarray) -> np.ndarray:
        apart = (rows**2).sum(axis=1)[:, None] + (self._known**2).sum(axis=1) - 2 * rows @ self._known.T
        return np.exp(-apart / (2 * rows.shape[1]))


def features(part: Pixels) -> np.ndarray:
    """What the pixels of a plate say about its marks: ink in all, its moments, peaks, edges, area, and each pixel's by rank."""
    ink = ink_of(part)
    around = cv2.dilate(ink, np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8))
    peaks = (ink > around) & (ink > 0.03)
    edges = cv2.Laplacian(ink, cv2.CV_64F)
    total, squares = float(ink.sum()), float((ink**2).sum())
    ranked = np.sort(ink.ravel())[::-1][:40]
    ranked = np.pad(ranked, (0, 40 - len(ranked)))
    some = [
        total, squares**0.5, float(np.cbrt((ink**3).sum())), squares / max(total, 1e-6), total**2 / max(squares, 1e-6),
        peaks.sum(), float((ink[peaks] ** 2).sum()) ** 0.5, np.abs(edges).sum(), float((edges**2).sum()) ** 0.5,
        *((ink > level).sum() for level in (0.03, 0.06, 0.12, 0.25)), ink.size,
    ]  # fmt: skip
    return np.concatenate([some, ranked, ranked / max(float(ranked[0]), 1e-6)])


def ink_of(part: Pixels) -> np.ndarray:
    """How far each pixel of the plate in a part went from the plate's colour (0) to its ink's (1): HxW."""
    names = np.array(list(COLORS.values()), dtype=float)
    apart = np.abs(part[None].astype(float) - names[:, None, None]).max(axis=3)  # [colours, H, W]
    best = int((apart < 40).sum(axis=(1, 2)).argmax())
    rows, columns = (np.flatnonzero((apart[best] < 40).mean(axis=axis) > 0.3) for axis in (1, 0))
    if len(rows) < 3 or len(columns) < 3:
        return np.zeros((3, 3))
    inner = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(float)
    color = names[best]
    toward = np.array(tint_on(list(COLORS.values())[best])) - color
    return np.clip((inner - color) @ toward / (toward @ toward), 0, 1)
