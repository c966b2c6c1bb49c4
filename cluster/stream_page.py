"""The part of a report on test-time training: how far it drifted, what it answered for sure, what it learned from."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pixelis.actors.stream import Answer
from pixelis.cluster import plots
from pixelis.cluster.html import figure, row, table, tag, text, tiles
from pixelis.cluster.stream import SCORE
from pixelis.memory.journal import Abstained, Accepted, Discarded, Entry, Frozen, RolledBack, read

WINDOW = 64
"""Questions over whose mean the stream is drawn, or a fifth of a short one."""
COLUMNS = {
    "n": "questions", "success": "right", "coverage": "answered for sure", "err_at_sel": "wrong among those", "aurc": "AURC",
}  # fmt: skip
KINDS: Mapping[type[Entry], str] = {
    Accepted: "accepted: updates that were kept", Discarded: "discarded: updates that were tried and undone",
    Abstained: "abstained: questions that were not learned from", RolledBack: "rolled back: earlier weights put back",
    Frozen: "frozen: nothing is learned from there on",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """What a run's files tell of its stream.

    Example: Told((Answer("9f3c", "K7P", confidence=0.8),), (True,), {"all": {"n": 1.0}}, ())
    """

    answers: tuple[Answer, ...]
    right: tuple[bool, ...]
    """A mark for each of the first answers; empty where nobody has scored them."""
    figures: Mapping[str, Mapping[str, float]]
    """Of all of them, and of parts."""
    journal: tuple[Entry, ...]

    @classmethod
    def of(cls, run_dir: Path) -> Told:
        """From answers.jsonl, score.json and journal.jsonl, as far as they are there."""
        path, score = run_dir / "journal.jsonl", run_dir / SCORE
        found = json.loads(score.read_text()) if score.exists() else {"figures": {}, "right": []}
        journal = tuple(line.entry for line in read(path)) if path.exists() else ()
        return cls(_answers(run_dir / "answers.jsonl"), tuple(found["right"]), found["figures"], journal)

    @property
    def sure(self) -> list[bool]:
        """Of each answer whether it was not abstained from."""
        return [not one.abstained for one in self.answers]


def section(run_dir: Path, phase: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    """Test-time training as a run's files, the `phase` in its summary and the `lines` of its metrics tell it.

    Where nobody has scored the answers nothing is said of how good they are. JournalError for a changed journal.
    """
    told = Told.of(run_dir)
    about = (
        "Each question of the stream was asked several times and the rollouts voted: the winner was the answer, given before "
        "anything was learned from it. A clear vote was answered for sure, and learned from; from other questions the policy "
        "abstained: their answers were given too, marked as unsure."
    )
    drawn = [_drift(run_dir, lines), *_stream(told), _before_after(phase)]
    parts = [
        text("h2", "Test-time training"),
        text("p", about, "soft"),
        tiles(_tiles(told)),
        tag("div", "".join(drawn), "plots two"),
    ]
    return "".join([*parts, _compared(phase), _scored(told), _decided(told.journal)])


def _answers(path: Path) -> tuple[Answer, ...]:
    """Those of a run that may be going on: without a last line that is being written."""
    data = path.read_text() if path.exists() else ""
    return tuple(Answer(**json.loads(line)) for line in data[: data.rfind("\n") + 1].splitlines())


def _tiles(told: Told) -> Iterator[tuple[str, str]]:
    if told.answers:
        yield f"{np.mean(told.sure):.1%}", f"answered for sure, of {len(told.answers)} questions"
    if told.right:
        yield f"{np.mean(told.right):.1%}", "answered right, each before it was learned from"
    wrong = [not mark for mark, sure in zip(told.right, told.sure, strict=False) if sure]
    if wrong:
        yield f"{np.mean(wrong):.1%}", "wrong among those answered for sure"
    yield str(sum(isinstance(entry, Accepted) for entry in told.journal)), "updates kept"


def _drift(run_dir: Path, lines: Sequence[Mapping[str, Any]]) -> str:
    learner = tomllib.loads((run_dir / f"config-{lines[0]['phase']}.toml").read_text())["learner"]
    anchor = learner["ttrl"]["anchor"]
    held = {"ema": "the moving average of the weights", "start": "the start policy"}[anchor]
    return figure(
        plots.drift(lines, anchor, learner["corridor"]), f"KL of each kept update to {held} (k3; on the probes exact)"
    )


def _stream(told: Told) -> Iterator[str]:
    """Figures of the answers; those that need a key where they were scored."""
    if not told.answers:
        return
    series = {"right": [float(mark) for mark in told.right]} if told.right else {}
    series |= {"answered for sure": [float(one) for one in told.sure], "confidence": [one.confidence for one in told.answers]}
    window = max(1, min(WINDOW, *(len(values) // 5 for values in series.values())))
    yield figure(
        plots.moving(series, window), "the answers over the stream, each given before it was learned from (prequential)"
    )
    if told.right:
        confidence = np.array([one.confidence for one in told.answers])[: len(told.right)]
        drawn = plots.risk_coverage(confidence, np.array(told.right), np.array(told.sure)[: len(told.right)])
        yield figure(
            drawn, "risk-coverage: wrong ones among the most confident answers; the dot: those that were given for sure"
        )


def _before_after(phase: Mapping[str, Any]) -> str:
    if not phase.get("shifts"):
        return ""
    each = {name: {when: found["all"] for when, found in pair.items()} for name, pair in phase["shifts"].items()}
    return figure(plots.before_after(each), "held-out scenes before and after adaptation, with 95 % intervals")


def _compared(phase: Mapping[str, Any]) -> str:
    if not phase.get("shifts"):
        return ""
    rows = [row("th", ["scenes", "family", "episodes", "before", "after", "change"])]
    for name, pair in phase["shifts"].items():
        for family in sorted(pair["before"], key=lambda one: one != "all"):
            was, now = (pair[when][family]["success"] for when in ("before", "after"))
            cells = [name if family == "all" else "", family, f"{pair['before'][family]['n']:.0f}"]
            rows.append(row("td", [*cells, f"{was:.3f}", f"{now:.3f}", f"{now - was:+.3f}"], family))
    note = "Success on held-out scenes, none of which the stream has: as they are (clean), and under its shift."
    return text("h3", "Before and after") + table(rows) + text("p", note, "note")


def _scored(told: Told) -> str:
    if not told.figures:
        return text(
            "p", "Nobody has scored the answers; who has their key can: `pixelis score ANSWERS KEY`, then the report.", "note"
        )
    rows = [row("th", ["of", *COLUMNS.values()])]
    for part, found in told.figures.items():
        rows.append(row("td", [part, *(f"{found[key]:.0f}" if key == "n" else f"{found[key]:.3f}" for key in COLUMNS)], part))
    note = (
        "Scored by a process of its own, after the answers were given. AURC: the area under the risk-coverage curve, which is "
        "the mean share of wrong answers over all coverages."
    )
    return text("h3", "The answers to the stream") + table(rows) + text("p", note, "note")


def _decided(journal: Sequence[Entry]) -> str:
    """The journal, counted."""
    rows = [row("th", ["in the journal", "lines", "why"])]
    for kind, what in KINDS.items():
        some = [entry for entry in journal if isinstance(entry, kind)]
        why = Counter(reason for entry in some for reason in _why(entry))
        rows.append(row("td", [what, len(some), ", ".join(f"{one} ({n})" for one, n in why.most_common())]))
    note = (
        "All that was ever decided, with what an interruption took back. A question can miss several bounds of the gate. "
        "`pixelis audit` derives every decision again."
    )
    return text("h3", "What was decided") + table(rows) + text("p", note, "note")


def _why(entry: Entry) -> list[str]:
    if isinstance(entry, Abstained):
        return [one["gate"] for one in entry.judgement.decision["refusals"]]
    return [entry.why] if isinstance(entry, RolledBack | Frozen) else []
