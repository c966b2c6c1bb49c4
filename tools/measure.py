"""Measures of evidence and answers: pure functions, formulas and golden values in paper.md 7 and 15."""

import math
from collections.abc import Sequence

import numpy as np

Span = tuple[float, float]
Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1, any unit


def box_iou(a: Rectangle, b: Rectangle) -> float:
    """Area of the overlap over area of the union, 0..1; 0 when both are empty.

    Example:
        >>> round(box_iou((0, 0, 50, 50), (20, 20, 70, 70)), 4)
        0.2195
    """
    overlap = _overlap((a[0], a[2]), (b[0], b[2])) * _overlap((a[1], a[3]), (b[1], b[3]))
    union = _area(a) + _area(b) - overlap
    return overlap / union if union > 0 else 0.0


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two HxW masks of equal shape; 0 when both are empty. ValueError on other shapes."""
    if a.shape != b.shape:
        raise ValueError(f"masks of different shape: {a.shape} and {b.shape}")
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 0.0


def t_iou(a: Span, b: Span) -> float:
    """Overlap of two time windows over their union (not their hull), 0..1.

    Example:
        >>> t_iou((2, 9), (4, 12))
        0.5
    """
    overlap = _overlap(a, b)
    union = (a[1] - a[0]) + (b[1] - b[0]) - overlap
    return overlap / union if union > 0 else 0.0


Boxes = Sequence[Rectangle | None]  # where one thing is, frame by frame; None: out of sight
ALPHAS = np.arange(0.05, 0.99, 0.05)  # IoU thresholds of HOTA


def hota(found: Boxes, gold: Boxes) -> float:
    """HOTA of one thing's track, 0..1 (Luiten et al. 2021, as TrackEval computes it); 0 when neither was ever in sight.

    Mean over the thresholds of sqrt(DetA * AssA). With one thing and one track both are TP / (TP + FN + FP), TP being the
    frames whose boxes overlap by the threshold at least. ValueError when the tracks differ in length.

    Example:
        >>> hota([(0, 0, 10, 10), None], [(0, 0, 10, 10), (0, 0, 10, 10)])
        0.5
    """
    overlaps = _overlaps(found, gold)
    total = sum(b is not None for b in found) + sum(b is not None for b in gold)
    hits = [sum(o is not None and o >= a - 1e-9 for o in overlaps) for a in ALPHAS]
    return float(np.mean([h / (total - h) if h else 0.0 for h in hits]))


def success(found: Boxes, gold: Boxes) -> float:
    """Share of frames that are right: IoU of at least 0.5, or out of sight and said to be. ValueError on other lengths."""
    right = [o is not None and o >= 0.5 for o in _overlaps(found, gold)]
    hidden = [f is None and g is None for f, g in zip(found, gold, strict=True)]
    return float(np.mean([r or h for r, h in zip(right, hidden, strict=True)]))


def found_again(found: Boxes, gold: Boxes) -> tuple[int, int]:
    """(found, gaps): after how many of the gaps in sight the track is back (IoU >= 0.5 in half of the frames to the next gap).

    Example:
        >>> box = (0, 0, 10, 10)
        >>> found_again([box, None, None, box], [box, None, box, box])
        (1, 1)
    """
    overlaps = _overlaps(found, gold)
    seen = [g is not None for g in gold]
    starts = [i for i in range(1, len(seen)) if seen[i] and not seen[i - 1]]
    starts = [i for i in starts if any(seen[:i])]
    back = 0
    for start in starts:
        end = next((i for i in range(start, len(seen)) if not seen[i]), len(seen))
        back += sum((o or 0) >= 0.5 for o in overlaps[start:end]) * 2 >= end - start
    return back, len(starts)


def cer(read: str, gold: str) -> float:
    """Character error rate: edit distance over the gold's length (may exceed 1); gold "" gives 0 or 1."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.distance(read, gold) / len(gold) if gold else float(bool(read))


def anls(read: str, golds: str | list[str], floor: float = 0.5) -> float:
    """ANLS of one answer: best 1 - edit distance / longer length, 0 below `floor`; case and outer space ignored.

    Example:
        >>> round(anls("12.450", "12,450"), 4)
        0.8333
    """
    from rapidfuzz.distance import Levenshtein

    best = 0.0
    for gold in [golds] if isinstance(golds, str) else golds:
        a, b = read.strip().lower(), gold.strip().lower()
        longest = max(len(a), len(b))
        best = max(best, 1 - Levenshtein.distance(a, b) / longest if longest else 1.0)
    return best if best >= floor else 0.0


def mra(said: float, gold: float) -> float:
    """Mean relative accuracy of a number (VSI-Bench): over th = .50, .55 .. .95, the share for which the relative error is
    below 1 - th. A gold 0 is right or wrong.

    Example:
        >>> mra(9, 10)
        0.8
    """
    error = abs(said - gold) / abs(gold) if gold else float(said != gold)
    bounds = [round(0.05 * k, 2) for k in range(1, 11)]  # 1 - th, free of rounding: an error on a bound is not below it
    return sum(error < bound for bound in bounds) / len(bounds)


def exact(read: str, gold: str) -> bool:
    """Equal but for case and white space around and between words."""
    return " ".join(read.split()).casefold() == " ".join(gold.split()).casefold()


def agrees(said: str, gold: str, kind: str) -> bool:
    """Whether an answer of a kind is the gold one: a number by its value, a choice by its letter, text as `exact`.

    Example:
        >>> agrees("1,200.0", "1200", "number"), agrees("(b)", "B", "choice"), agrees("about 3", "3", "number")
        (True, True, False)
    """
    if kind == "number":
        try:
            return math.isclose(float(said.replace(",", "")), float(gold.replace(",", "")), rel_tol=1e-6)
        except ValueError:
            return exact(said, gold)
    return exact(said.strip(" ().:"), gold.strip(" ().:")) if kind == "choice" else exact(said, gold)


def _overlaps(found: Boxes, gold: Boxes) -> list[float | None]:
    """IoU frame by frame, None where one is out of sight."""
    return [None if f is None or g is None else box_iou(f, g) for f, g in zip(found, gold, strict=True)]


def _overlap(a: Span, b: Span) -> float:
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0]))


def _area(box: Rectangle) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
