"""Pixel fidelity without a key: what a chain's tools returned, against what those of its fellows returned (paper 6.3)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pixelis.memory.look import Look, Region
from pixelis.tools.measure import cer

NEAR = 0.1
"""Measured numbers that differ by at most this share agree (paper 7)."""
WORD = re.compile(r"\w+")
T = TypeVar("T")


def fidelity(chain: Sequence[Look], others: Sequence[Sequence[Look]], weights: Sequence[float]) -> float:
    """Mean agreement of a chain's looks with their pseudo-references, 0..1; 0 for a chain that nothing vouches for.

    `others` are the other chains with the same answer, `weights` (>= 0) how much each counts: this chain is never part of
    its own reference. Of each other chain the look of the same kind that overlaps most answers for a look. The consensus of
    those is the reference: the median of single boxes and spans, the medoid of texts, values and several regions. A failed
    call counts 0. A look without any such partner counts the tool's own score, or is left out when there is none.

    Example:
        >>> read = [Look("OCR", text=text) for text in ("K7P", "K7P", "K7")]
        >>> fidelity([read[0]], [[read[1]], [read[2]]], [1, 1]), round(fidelity([read[2]], [[read[0]], [read[1]]], [1, 1]), 2)
        (1.0, 0.67)
    """
    marks = []
    for place, look in enumerate(chain):
        if not look.ok:
            marks.append(0.0)
            continue
        number = sum(look.like(earlier) for earlier in chain[:place])
        found = [(w, p) for w, other in zip(weights, others, strict=True) if w > 0 and (p := _partner(look, number, other))]
        if found:
            marks.append(_agreement(look, [partner for _, partner in found], [weight for weight, _ in found]))
        elif look.sure is not None:
            marks.append(min(1.0, max(0.0, look.sure)))
    return math.fsum(marks) / len(marks) if marks else 0.0


def grounding(answer: str, chain: Sequence[Look]) -> float:
    """Share of an answer's words that the tools of its chain found, 0..1: read by OCR, or measured by PROP.

    Example:
        >>> grounding("K7P", [Look("OCR", text="k7p RR7")]), grounding("7, 4", [Look("PROP", values={"spots": 7})])
        (1.0, 0.5)
    """
    words = WORD.findall(answer.casefold())
    told = json.dumps([[look.text, *look.values.values()] for look in chain if look.ok], ensure_ascii=False)
    found = set(WORD.findall(told.casefold()))
    return sum(word in found for word in words) / len(words) if words else 0.0


def _partner(look: Look, number: int, other: Sequence[Look]) -> Look | None:
    """The look of the same kind that overlaps most; where none does, the one that comes as late."""
    same = [one for one in other if look.like(one)]
    if not same:
        return None
    overlaps = [look.overlap(one) for one in same]
    most = max(overlaps)
    return same[overlaps.index(most) if most > 0 else min(number, len(same) - 1)]


def _agreement(look: Look, partners: list[Look], weights: list[float]) -> float:
    if look.text is not None:
        texts = [partner.text or "" for partner in partners]
        return _read_alike(look.text, _medoid(texts, weights, _read_alike))
    if look.values:
        return _measured_alike(look.values, _medoid([p.values for p in partners], weights, _measured_alike))
    if all(len(partner.regions) == 1 for partner in partners):
        regions = [partner.regions[0] for partner in partners]
        if len({region.span is None for region in regions}) == 1:
            return look.overlap(Look(look.op, (_middle(regions, weights),)))
    return look.overlap(_medoid(partners, weights, Look.overlap))


def _medoid(items: list[T], weights: list[float], alike: Callable[[T, T], float]) -> T:
    """The item that the others, itself included, are most like; the first of several."""
    support = [round(math.fsum(w * alike(other, item) for w, other in zip(weights, items, strict=True)), 9) for item in items]
    return items[support.index(max(support))]


def _middle(regions: list[Region], weights: list[float]) -> Region:
    """The weighted median, coordinate by coordinate."""
    x0, y0, x1, y1 = (median([region.box[i] for region in regions], weights) for i in range(4))
    spans = [region.span for region in regions if region.span is not None]
    span = (median([s[0] for s in spans], weights), median([s[1] for s in spans], weights)) if spans else None
    return Region((x0, y0, x1, y1), span)


def median(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted median: the mean of the two between which half of the weight lies on either side, when there are two.

    Example:
        >>> median([1, 2, 9], [1, 1, 1]), median([1, 3], [1, 1]), median([1, 3], [2, 1])
        (2.0, 2.0, 1.0)
    """
    pairs = sorted(zip(values, weights, strict=True))
    half, upto, low = math.fsum(weights) / 2, 0.0, None
    for value, weight in pairs:
        upto += weight
        if low is None and upto >= half * (1 - 1e-9):
            low = value
        if low is not None and upto >= half * (1 + 1e-9):
            return (low + value) / 2
    return float(pairs[-1][0])


def _read_alike(read: str, reference: str) -> float:
    return 1.0 if read == reference else 1.0 - min(1.0, cer(read, reference))


def _measured_alike(found: dict[str, Any], reference: dict[str, Any]) -> float:
    """Share of the keys whose values agree."""
    return sum(_near(found.get(key), value) for key, value in reference.items()) / len(reference)


def _near(value: Any, reference: Any) -> bool:
    """Numbers within a tenth, lists of numbers each, all else when equal."""
    if isinstance(value, list | tuple) and isinstance(reference, list | tuple):
        return len(value) == len(reference) and all(map(_near, value, reference))
    if isinstance(value, int | float) and isinstance(reference, int | float):
        return abs(value - reference) <= NEAR * abs(reference)
    return bool(value == reference)
