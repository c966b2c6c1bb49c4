"""`pixelis stream` and `pixelis score`: questions without answers, and what the answers to them came to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from pixelis.actors.shift import Shift
from pixelis.actors.stream import Answer, Key, Part, marks, read_answers, read_keys, score, write
from pixelis.actors.world import FAMILIES
from pixelis.cluster.errors import UsageError
from pixelis.cluster.progress import Bar
from pixelis.learners.risk import aurc
from pixelis.memory.log import replace_file

SCORE = "score.json"
"""What `pixelis score` leaves beside a file of answers: `figures` by part, and `right`, a mark for each answer in its order."""


def parse(text: str, n: int) -> list[Part]:
    """`lighting:0.7`, or several shifts one after another with commas between: `n` questions in all, in equal parts.

    ShiftError for what is none.
    """
    shifts = [Shift.parse(one) for one in text.split(",")]
    return [Part(shift, n // len(shifts) + (i < n % len(shifts))) for i, shift in enumerate(shifts)]


def render(shift: str, folder: Path, key: Path, families: Sequence[str], n: int, seed: int) -> None:
    """Write a stream and its key. UsageError for unknown families, or a folder that holds one already."""
    if unknown := [name for name in families if name not in FAMILIES]:
        raise UsageError(f"--family {unknown[0]}: unknown; known: {', '.join(FAMILIES)}")
    if key.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"--key {key}: it must not be in the folder that is given to who adapts")
    try:
        with Bar("stream", n, "scenes") as bar:
            write(folder, key, families, parse(shift, n), seed, bar.to)
    except FileExistsError as error:
        raise UsageError(f"{error}: name another folder") from error


def figures(keys: Sequence[Key], answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Scores of all answers, of their first and last quarter, and of each family and shift.

    `aurc`: area under the risk-coverage curve, by the confidence that was told.
    """
    known = {key.id: key for key in keys}
    quarter = max(1, len(answers) // 4)
    parts: dict[str, Sequence[Answer]] = {"all": answers}
    parts |= {"first quarter": answers[:quarter], "last quarter": answers[-quarter:]}
    for name in ("family", "shift"):
        for value in dict.fromkeys(getattr(key, name) for key in keys):
            parts[value or "no shift"] = [one for one in answers if one.id in known and getattr(known[one.id], name) == value]
    return {name: _row(keys, some) for name, some in parts.items() if some}


def _row(keys: Sequence[Key], answers: Sequence[Answer]) -> dict[str, float]:
    right, _ = marks(keys, answers)
    area = aurc(np.array([one.confidence for one in answers]), np.array(right))
    return {**asdict(score(keys, answers)), "aurc": area}


def command(answers: Path, key: Path, as_json: bool) -> None:
    """`pixelis score`: a table, or JSON; and score.json beside the answers, for the report."""
    keys, given = read_keys(key), read_answers(answers)
    found = figures(keys, given)
    right, _ = marks(keys, given)
    replace_file(answers.with_name(SCORE), json.dumps({"figures": found, "right": right}).encode())
    if as_json:
        print(json.dumps(found))
        return
    table = Table("of", "n", "success", "answered for sure", "wrong among those", "AURC")
    for name, row in found.items():
        values = (row[k] for k in ("success", "coverage", "err_at_sel", "aurc"))
        table.add_row(name, f"{row['n']:.0f}", *(f"{value:.3f}" for value in values))
    Console().print(table)
