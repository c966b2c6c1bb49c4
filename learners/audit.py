"""Deriving again what a journal says was decided: verdicts and gates from trajectories, updates from one another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from pixelis.learners.gate import Decision, judge
from pixelis.learners.verdict import Verdict
from pixelis.learners.vote import Ballot, Neighbour, vote
from pixelis.memory.journal import Abstained, Accepted, Discarded, Entry, Frozen, Judgement, RolledBack

CLOSE = 1e-9
"""Numbers that differ by less are the same: another machine adds up in another order."""


def rederive(entry: Judgement, ballots: Sequence[Ballot], neighbours: Sequence[Neighbour]) -> list[str]:
    """Where a judgement is not what its trajectories give under its own settings: a line for each difference.

    `ballots` are of all stored rollouts of the question, `neighbours` of those it names, each with the similarity it names
    (`Verdict.from_dict(entry.verdict).neighbours`) or one measured again.

    Example:
        >>> from pixelis.learners.arm import VoteSettings
        >>> from pixelis.learners.gate import GateSettings
        >>> said = [Ballot(name, "K7P") for name in "abc"]
        >>> verdict = vote(said, [], "text", VoteSettings())
        >>> entry = Judgement("t3", (0, 4), verdict.to_dict(), judge(verdict, GateSettings()).to_dict())
        >>> rederive(entry, said, [])
        []
        >>> rederive(entry, [*said[:2], Ballot("c", "K7R")], [])[0]
        'verdict.rollouts[0].agreement: 1.0 in the journal, 0.5 by its trajectories'
    """
    told, decided = Verdict.from_dict(entry.verdict), Decision.from_dict(entry.decision)
    wrong = _names("rollout", [one.id for one in told.rollouts], [one.id for one in ballots])
    wrong += _names("neighbour", [one.id for one in told.neighbours], [one.ballot.id for one in neighbours])
    if wrong:
        return wrong
    verdict = vote(ballots, neighbours, told.kind, told.settings)
    found = _differences("verdict", told.to_dict(), verdict.to_dict())
    return found + _differences("decision", decided.to_dict(), judge(verdict, decided.settings).to_dict())


def lineage(entries: Iterable[Entry]) -> list[str]:
    """What cannot have been: a line for each entry that does not follow from its own figures and the entries before it.

    Every update begins from the weights that the last entry left; a discarded one leaves them; one that is kept had only
    questions that passed the gate, and a KL within its limit; what is put back had been served; nothing is learned when frozen.
    """
    wrong: list[str] = []
    served: list[str] = []
    frozen = False
    for number, entry in enumerate(entries, 1):
        for what in _impossible(entry, served, frozen):
            wrong.append(f"line {number}: {what}")
        if isinstance(entry, Accepted | Discarded | RolledBack):
            served += [entry.weights_in, entry.weights_out]
        frozen = frozen or isinstance(entry, Frozen)
    return wrong


def _impossible(entry: Entry, served: Sequence[str], frozen: bool) -> list[str]:
    if isinstance(entry, Abstained):
        passed = not entry.judgement.decision["refusals"] and not frozen
        return ["abstained, though no bound was broken"] * passed
    wrong = []
    before = entry.weights if isinstance(entry, Frozen) else entry.weights_in
    if served and before != served[-1]:
        wrong.append(f"begins from weights {before}, but {served[-1]} were served")
    if isinstance(entry, RolledBack) and entry.weights_out not in served:
        wrong.append(f"puts back weights {entry.weights_out}, which were never served")
    if isinstance(entry, Discarded) and entry.weights_out != entry.weights_in:
        wrong.append(f"discarded, but weights {entry.weights_out} are served")
    if isinstance(entry, Accepted):
        refused = [one.task_id for one in entry.judgements if one.decision["refusals"]]
        wrong += [f"learned from {task}, which was abstained" for task in refused]
        if entry.limit and (entry.kl_after is None or not entry.kl_after <= entry.limit):
            wrong.append(f"kept with a KL of {entry.kl_after}, above {entry.limit:g}")
    if frozen and isinstance(entry, Accepted | Discarded):
        wrong.append("learned while frozen")
    return wrong


def _names(what: str, told: Sequence[str], given: Sequence[str]) -> list[str]:
    lost = [f"{what} {name}: in the journal, but not stored" for name in sorted(set(told) - set(given))]
    return lost + [f"{what} {name}: stored, but not in the journal" for name in sorted(set(given) - set(told))]


def _differences(place: str, told: Any, found: Any) -> list[str]:
    """Of two JSON-able values, a tuple being a list."""
    if isinstance(told, dict) and isinstance(found, dict) and told.keys() == found.keys():
        return [line for key in told for line in _differences(f"{place}.{key}", told[key], found[key])]
    if isinstance(told, list | tuple) and isinstance(found, list | tuple) and len(told) == len(found):
        pairs = enumerate(zip(told, found, strict=True))
        return [line for i, (a, b) in pairs for line in _differences(f"{place}[{i}]", a, b)]
    if isinstance(told, float) and isinstance(found, float) and math.isclose(told, found, rel_tol=CLOSE, abs_tol=CLOSE):
        return []
    return [] if told == found else [f"{place}: {told} in the journal, {found} by its trajectories"]
