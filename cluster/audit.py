"""`pixelis audit`: what became of every stored trajectory of a run, and whether its journal can be derived again from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pixelis.cluster.errors import UsageError
from pixelis.cluster.verify import read_groups
from pixelis.memory import checkpoint, journal
from pixelis.memory.journal import Abstained, Accepted, Discarded, Entry, Judgement
from pixelis.memory.ledger import Account, Ledger, account
from pixelis.memory.replay import catalogs
from pixelis.memory.trajectory import Trajectory, Version

ONCE = {"sft": False, "rft": True, "ttrl": True}
"""Whether a phase trains on each of its trajectories once; `cluster.config` holds the phases to that."""
TOLD = 20
"""Lines of what is wrong with a journal that are told."""


def audit(run: Path) -> dict[str, Account]:
    """The accounts of a run's phases. UsageError when there is none; LogError while the run goes on."""
    found: dict[str, Account] = {}
    for phase, once in ONCE.items():
        if not (run / "ledger" / phase).is_dir():
            continue
        ledger = Ledger(run / "ledger" / phase)  # first: it is locked while the run goes on
        found[phase] = account(catalogs(run / "replay" / phase), ledger.entries, once)
        ledger.close()
    if not found:
        raise UsageError(f"{run}: no run here (no ledger/ of a phase); name a folder like runs/demo")
    return found


def rederived(run: Path) -> tuple[int, list[str]]:
    """The judgements in a run's journal, and a line for all that is not as it was decided: lines that were changed or cut
    off, updates that cannot have been, verdicts that the stored trajectories do not give. Nothing where there is none."""
    path = run / "journal.jsonl"
    if not path.exists():
        return 0, []
    wrong = journal.verify(path, _head(run))
    if wrong:
        return 0, [f"journal: {wrong}"]
    from pixelis.learners.audit import lineage

    entries = [line.entry for line in journal.read(path)]
    lines = [f"journal: {line}" for line in lineage(entries)]
    judged = list(_judgements(entries))
    return len(judged), lines + list(_differences(run, judged))


def _head(run: Path) -> str | None:
    """The hash of a line that must be in the journal, as the newest checkpoint has it."""
    newest = checkpoint.latest(run / "checkpoints" / "ttrl")
    state: Mapping[str, Any] = checkpoint.load(newest).state["loop"] if newest else {}
    return state.get("adaptation", {}).get("journal")


def _judgements(entries: list[Entry]) -> Iterator[Judgement]:
    """Of each question once: an update that was tried again names them again."""
    seen: set[tuple[str, Version]] = set()
    for entry in entries:
        some: tuple[Judgement, ...] = (entry.judgement,) if isinstance(entry, Abstained) else ()
        some = entry.judgements if isinstance(entry, Accepted | Discarded) else some
        for one in some:
            if (one.task_id, one.version) not in seen:
                seen.add((one.task_id, one.version))
                yield one


def _differences(run: Path, judged: list[Judgement]) -> Iterator[str]:
    from pixelis.learners.audit import rederive
    from pixelis.learners.remember import neighbour
    from pixelis.learners.verdict import Verdict
    from pixelis.learners.vote import Ballot
    from pixelis.memory.episodes import EpisodeShard
    from pixelis.memory.recall import folders

    stored = _rollouts(run / "replay" / "ttrl")
    told = {(one.task_id, one.version): Verdict.from_dict(one.verdict) for one in judged}
    wanted = list({heard.id for verdict in told.values() for heard in verdict.neighbours})
    remembered: dict[str, Any] = {}
    for folder in folders(run / "memory"):
        with closing(EpisodeShard(folder)) as shard:
            remembered |= shard.read(wanted)
    for one in judged:
        key = one.task_id, one.version
        ballots = [Ballot.of(t) for t in stored.get(key, ()) if t.status not in ("infra", "cancelled")]
        near = [neighbour(remembered[n.id], n.similarity) for n in told[key].neighbours if n.id in remembered]
        for line in rederive(one, ballots, near):
            yield f"{one.task_id}: {line}"


def _rollouts(folder: Path) -> dict[tuple[str, Version], list[Trajectory]]:
    """By question and the oldest weights that sampled one of them: a question that was asked again after an interruption
    has rollouts of both times, the same ones when the weights were."""
    found: dict[tuple[str, Version], dict[str, Trajectory]] = {}
    for group in read_groups(folder):
        oldest = min(t.oldest_version for t in group.trajectories if t.turns)
        found.setdefault((group.task_id, oldest), {}).update({t.id: t for t in group.trajectories})
    return {key: list(some.values()) for key, some in found.items()}


def command(run: Path) -> bool:
    """`pixelis audit`: a table, what is wrong, and whether nothing is."""
    accounts = audit(run)
    table = Table("phase", "stored", "trained", "dropped", "pending", "trained again", "balance")
    for phase, one in accounts.items():
        why = ", ".join(f"{count} {reason}" for reason, count in one.dropped.items()) or "0"
        counts = one.stored, one.trained, why, one.pending, one.stood_in
        table.add_row(phase, *map(str, counts), "ok" if one.balanced else "WRONG")
    console = Console()
    console.print(table)
    for phase, one in accounts.items():
        for line in one.wrong:
            console.print(f"{phase}: {line}", highlight=False)
    count, wrong = rederived(run)
    if count and not wrong:
        console.print(f"journal: {count} judgements, each the one that its stored trajectories give", highlight=False)
    for line in wrong[:TOLD]:
        console.print(line, highlight=False)
    if len(wrong) > TOLD:
        console.print(f"journal: and {len(wrong) - TOLD} more", highlight=False)
    return not wrong and all(one.balanced for one in accounts.values())
