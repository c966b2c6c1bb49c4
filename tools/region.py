"""Regions of a picture: grown from a point by colour, cut out by GrabCut, and how well one stands out."""

from itertools import pairwise
from typing import Any

import numpy as np

from pixelis.tools.frame import Point

TOLERANCES = (6, 9, 13, 18, 25, 34)  # largest distance to the seed in each Lab channel (0..255)
SMALLEST = 8  # pixels; less is noise
NEAR = 7  # pixels: side of the square in which both sides of a border are compared
STARK = 30.0  # CIELAB distance across a border above which more does not count
LARGER = 0.1  # of two that stand out alike the larger is the better: area counts with this power


def flood(lab: np.ndarray, at: Point, tolerance: int) -> np.ndarray:
    """Pixels connected to `at` whose channels all lie within `tolerance` of its colour: HxW uint8 0/1."""
    import cv2

    mask = np.zeros((lab.shape[0] + 2, lab.shape[1] + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
    cv2.floodFill(lab, mask, at, 0, (tolerance,) * 3, (tolerance,) * 3, flags)
    return mask[1:-1, 1:-1]


def steadiest(grown: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """The region after which growth is least (the first on a tie); score 1000 = it does not grow at all."""
    areas = [int(np.count_nonzero(g)) for g in grown]
    if len(grown) == 1:
        return grown[0], 500
    ratios = [a / b if a >= SMALLEST else 0.0 for a, b in pairwise(areas)]
    best = int(np.argmax(np.round(ratios, 2)))
    return grown[best + 1], round(1000 * ratios[best])


def with_rim(mask: np.ndarray, pixels: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Adds the next ring of pixels where the unblurred colour still is the seed's: the blur cost the region its rim."""
    import cv2

    ring = cv2.dilate(mask, np.ones((3, 3), np.uint8)) > mask
    rows, columns = np.nonzero(ring)
    if rows.size == 0:
        return mask
    lab = cv2.cvtColor(pixels[rows, columns][None], cv2.COLOR_RGB2Lab)[0]
    near = np.abs(lab.astype(np.int16) - seed.astype(np.int16)).max(axis=1) <= TOLERANCES[-1]
    grown = mask.copy()
    grown[rows[near], columns[near]] = 1
    return grown


def filled(mask: np.ndarray, largest: float, stops: list[Point]) -> np.ndarray:
    """The mask without holes of up to `largest` of its area that hold no negative point: HxW uint8 0/1."""
    import cv2

    solid = np.array(mask)
    limit = largest * np.count_nonzero(mask)
    contours, tree = cv2.findContours(solid, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for index, contour in enumerate(contours):
        is_hole = tree[0][index][3] >= 0
        if is_hole and cv2.contourArea(contour) <= limit and not any(_encloses(contour, p) for p in stops):
            cv2.drawContours(solid, contours, index, 1, -1)
    return solid


def main_parts(mask: np.ndarray) -> np.ndarray:
    """The largest connected part and those of at least a tenth of it."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count <= 2:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    keep = 1 + np.flatnonzero(areas >= areas.max() / 10)
    return np.isin(labels, keep).astype(np.uint8)


def part_at(mask: np.ndarray, at: Point) -> np.ndarray:
    """The connected part that holds a pixel; the whole mask where that pixel is outside."""
    import cv2

    _, labels = cv2.connectedComponents(mask, connectivity=4)
    here = labels[at[1], at[0]]
    return (labels == here).astype(np.uint8) if here else mask


def grabcut(pixels: np.ndarray, labels: np.ndarray, rounds: int) -> np.ndarray | None:
    """HxW uint8 0/1 from starting labels (cv2.GC_*), or None when nothing is left or there is nothing to choose from."""
    import cv2

    kinds = set(np.unique(labels).tolist())
    if not kinds & {cv2.GC_FGD, cv2.GC_PR_FGD} or not kinds & {cv2.GC_BGD, cv2.GC_PR_BGD} or labels.size < 64:
        return None
    cv2.setRNGSeed(0)  # GrabCut seeds its colour clusters by OpenCV's generator
    models = np.zeros((1, 65)), np.zeros((1, 65))
    found = labels.copy()
    cv2.grabCut(np.ascontiguousarray(pixels[:, :, ::-1]), found, (0, 0, 1, 1), *models, rounds, cv2.GC_INIT_WITH_MASK)
    mask = found & 1  # GC_FGD is 1, GC_PR_FGD 3
    return mask if mask.any() else None


def stands_out(pixels: np.ndarray, mask: np.ndarray) -> float:
    """How well HxW 0/1 stands out of HxWx3 RGB, 0..1: colour contrast along its border, less for ragged shapes.

    Parts of the border that are the picture's own have no contrast.
    """
    import cv2

    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    inner = mask - cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=0)
    length = int(np.count_nonzero(inner))
    inner[[0, -1]] = 0
    inner[:, [0, -1]] = 0
    rows, columns = np.nonzero(inner)
    if rows.size == 0:
        return 0.0
    apart = (_mean_near(lab, mask) - _mean_near(lab, 1 - mask))[rows, columns]
    contrast = float(np.minimum(np.linalg.norm(apart, axis=1), STARK).sum()) / length / STARK
    return contrast * solidity(mask)


def solidity(mask: np.ndarray) -> float:
    """Area of the largest part over that of its convex hull, 0..1."""
    import cv2

    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest: Any = max(contours, key=cv2.contourArea, default=None)
    hull = 0.0 if largest is None else cv2.contourArea(cv2.convexHull(largest))
    return cv2.contourArea(largest) / hull if hull else 0.0


def full_size(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """An HxW 0/1 mask at another size, its edge interpolated: bool."""
    import cv2

    if mask.shape == (height, width):
        return mask > 0
    return cv2.resize(mask * np.uint8(255), (width, height), interpolation=cv2.INTER_CUBIC) > 127


def _mean_near(lab: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean colour of the mask's pixels in the square round every pixel: HxWx3."""
    import cv2

    square = (NEAR, NEAR)
    count = cv2.boxFilter(mask.astype(np.float32), -1, square, normalize=False)
    return cv2.boxFilter(lab * mask[..., None], -1, square, normalize=False) / np.maximum(count, 1)[..., None]


def _encloses(contour: np.ndarray, point: Point) -> bool:
    import cv2

    return cv2.pointPolygonTest(contour, point, False) > 0
