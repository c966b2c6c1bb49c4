"""Interleaved runs of two or more ways to do a thing, their table, and their figures as JSON.

The machine may be busy: no single time means much. Ways take turns (A B A B ...), each round gives one ratio, and the
median of the ratios with its smallest and largest is what counts. What runs in one process on one thread is timed by its
CPU seconds, which other processes disturb less than wall time.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS = 5

Times = dict[str, list[float]]


def interleaved(ways: Mapping[str, Callable[[], object]], clock: Callable[[], float] = time.process_time) -> Times:
    """Seconds of each way in each round, after one round that is not counted."""
    times: Times = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, way in ways.items():
            start = clock()
            way()
            if number:
                times[name].append(clock() - start)
    return times


def ratios(over: list[float], under: list[float]) -> dict[str, float]:
    """Median, smallest and largest of the ratios round by round.

    Example:
        >>> ratios([2.0, 3.0, 8.0], [1.0, 1.0, 2.0])
        {'median': 3.0, 'min': 2.0, 'max': 4.0}
    """
    return spread([a / b for a, b in zip(over, under, strict=True)])


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def row(name: str, value: Mapping[str, float], unit: str = "", bar: str = "") -> None:
    """One line of the table: a median with its spread, and what it should be."""
    low, high = value["min"], value["max"]
    print(f"{name:44} {value['median']:10.4g}  ({low:.4g} .. {high:.4g}) {unit:8} {bar and f'bar {bar}'}".rstrip())


def keep(name: str, figures: Mapping[str, Any]) -> None:
    """Writes bench/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"-> {path.relative_to(RESULTS.parent.parent)}")
