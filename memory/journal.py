"""The audit journal of test-time training: what was decided and why, in lines of JSON that are chained by their hashes.

    {"before": hash of the line before, "entry": {...}, "hash": sha256 of that, "kind": "accepted", "number": 0, "time": 1}

A line is written in one way only (keys sorted, no spaces), so that a change of any byte shows. Cutting lines off the end
does not: for that the last hash is kept elsewhere too (in checkpoints), and `verify` is told.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pixelis.memory.log import locked, sync
from pixelis.memory.trajectory import Version

logger = logging.getLogger(__name__)

START = "0" * 64
"""What the first line has for the hash before it."""


class JournalError(RuntimeError):
    """A journal that was changed: it is not written on."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A question that was voted on: `Verdict.to_dict()` with the ids of its trajectories, `Decision.to_dict()`."""

    task_id: str
    version: Version
    """Oldest weights that sampled a rollout."""
    verdict: dict[str, Any]
    decision: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Abstained:
    """A question was answered, and not learned from."""

    judgement: Judgement


@dataclass(frozen=True, slots=True)
class Update:
    """An optimizer step on accepted questions, with all that it was decided by. KL in nats a token, to the moving average."""

    step: int
    judgements: tuple[Judgement, ...]
    trajectories: tuple[str, ...]
    """All that entered its loss, replay and rehearsal too."""
    kl_before: float | None
    """On the probes; None where it was not measured or was no number."""
    kl_after: float | None
    limit: float
    """KL above which it must not be kept; 0: none."""
    beta: float
    """Weight of the KL in its loss."""
    weights_in: str
    """sha256 of the weights before."""
    weights_out: str
    """sha256 of those that are served from now on: the ones before, when it was discarded."""
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted(Update):
    """An update that was kept."""


@dataclass(frozen=True, slots=True)
class Discarded(Update):
    """An update that was tried and undone."""


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Earlier weights were put back: the canary fell, or the run went on from a checkpoint.

    Example: RolledBack("canary 0.71 after 0.76", 250, "9f..", "3c..", {"canary": 0.71})
    """

    why: str
    step: int
    """Updates that the weights put back have had."""
    weights_in: str
    weights_out: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frozen:
    """From here on nothing is learned; answers are given still."""

    why: str
    step: int
    weights: str
    figures: dict[str, float] = field(default_factory=dict)


Entry = Abstained | Accepted | Discarded | RolledBack | Frozen
KINDS: dict[str, type[Entry]] = {
    "abstained": Abstained, "accepted": Accepted, "discarded": Discarded, "rolled_back": RolledBack, "frozen": Frozen,
}  # fmt: skip
NAMES = {kind: name for name, kind in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the journal; `time` in seconds since 1970."""

    number: int
    time: float
    entry: Entry
    before: str
    hash: str


class Journal:
    """Appends entries to a file, each durable when `write` returns. One writer at a time.

    What a crash tore off the end is dropped on opening, and said in the log output.

    Raises: JournalError naming the first line that was changed; LogError while another process writes it.

    Example: Journal(Path("runs/x/journal.jsonl")).write(Frozen("canary", 250, "3c.."))
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = locked(path.with_name(f"{path.name}.lock"))
        try:
            data = path.read_bytes() if path.exists() else b""
            end = data.rfind(b"\n") + 1
            wrong, self.head, self._number = _walked(data)
            if wrong:
                raise JournalError(f"{path}: {wrong}")
        except BaseException:
            os.close(self._lock)
            raise
        if end < len(data):
            logger.warning("%s: dropped a torn last line of %d bytes", path, len(data) - end)
        self._fd, self._end = os.open(path, os.O_RDWR | os.O_CREAT, 0o644), end
        sync(path.parent)

    def __len__(self) -> int:
        return self._number

    def write(self, entry: Entry) -> str:
        """Make one entry durable, then return its line's hash. After an OSError it is not in the journal.

        Raises: ValueError for what JSON would not give back, as a number that is not finite.
        """
        line = _line(self._number, round(time.time(), 3), entry, self.head)
        if _sound(_dumps(line)) is None:
            raise ValueError(f"JSON does not give back what this entry says: {entry}")
        os.ftruncate(self._fd, self._end)  # what a crash or a full disk left behind
        text = memoryview(_dumps(line) + b"\n")
        done = 0
        while done < len(text):
            done += os.pwrite(self._fd, text[done:], self._end + done)
        os.fsync(self._fd)
        self.head, self._number, self._end = line["hash"], self._number + 1, self._end + len(text)
        return self.head

    def close(self) -> None:
        """Let another process write."""
        os.close(self._fd)
        os.close(self._lock)


def read(path: Path) -> Iterator[Line]:
    """The lines of a journal in order, without a torn last one. JournalError at the first that was changed."""
    data = path.read_bytes()
    wrong, _, _ = _walked(data)
    if wrong:
        raise JournalError(f"{path}: {wrong}")
    for text in _lines(data):
        raw = json.loads(text)
        yield Line(raw["number"], raw["time"], _entry(raw["kind"], raw["entry"]), raw["before"], raw["hash"])


def verify(path: Path, head: str | None = None) -> str | None:
    """What is wrong with the first line that was changed, removed or put elsewhere, counted from 1; None when nothing is.

    `head`: the hash of a line that must be there, as a checkpoint has it; without it lines missing at the end do not show.
    """
    data = path.read_bytes()
    wrong, _, count = _walked(data)
    if wrong or head in (None, START) or any(json.loads(text)["hash"] == head for text in _lines(data)):
        return wrong
    return f"line {count + 1}: missing, with all up to the one with the hash {head}"


def _lines(data: bytes) -> list[bytes]:
    """Without a torn last one."""
    return data.split(b"\n")[:-1]


def _walked(data: bytes) -> tuple[str | None, str, int]:
    """(what is wrong with the first line that is not as it was written, the last good hash, good lines)."""
    before, number = START, 0
    for text in _lines(data):
        raw = _sound(text)
        if raw is None:
            return f"line {number + 1}: changed: its hash is not the one of its content", before, number
        if raw["number"] != number:
            stands = f"in its place stands what was written as line {raw['number'] + 1}"
            return f"line {number + 1}: not there: {stands}", before, number
        if raw["before"] != before:
            after = f"line {number}: replaced: line {number + 1} was not written after it"
            return after if number else "line 1: replaced: it says that another stood before it", before, number
        before, number = raw["hash"], number + 1
    return None, before, number


def _sound(text: bytes) -> dict[str, Any] | None:
    """What a line says, None when it does not have the form and the hash that it was written with."""
    try:
        raw = json.loads(text)
        again = _line(raw["number"], raw["time"], _entry(raw["kind"], raw["entry"]), raw["before"])
        return raw if _dumps(again) == text else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _line(number: int, when: float, entry: Entry, before: str) -> dict[str, Any]:
    line = {"number": number, "time": when, "kind": NAMES[type(entry)], "entry": asdict(entry), "before": before}
    return {**line, "hash": hashlib.sha256(_dumps(line)).hexdigest()}


def _dumps(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _entry(kind: str, raw: dict[str, Any]) -> Entry:
    if "judgement" in raw:
        raw = {**raw, "judgement": _judgement(raw["judgement"])}
    if "judgements" in raw:
        raw = {**raw, "judgements": tuple(map(_judgement, raw["judgements"])), "trajectories": tuple(raw["trajectories"])}
    return KINDS[kind](**raw)


def _judgement(raw: dict[str, Any]) -> Judgement:
    return Judgement(**{**raw, "version": (raw["version"][0], raw["version"][1])})
