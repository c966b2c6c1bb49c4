"""`pixelis audit`: what became of every stored trajectory of a run."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from pixelis.cluster.errors import UsageError
from pixelis.memory.ledger import Account, Ledger, account
from pixelis.memory.replay import catalogs

ONCE = {"sft": False, "rft": True}
"""Whether a phase trains on each of its trajectories once; `cluster.config` holds the phases to that."""


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


def command(run: Path) -> bool:
    """`pixelis audit`: a table, what is wrong, and whether nothing is."""
    accounts = audit(run)
    table = Table("phase", "stored", "trained", "dropped", "pending", "balance")
    for phase, one in accounts.items():
        why = ", ".join(f"{count} {reason}" for reason, count in one.dropped.items()) or "0"
        table.add_row(phase, *map(str, (one.stored, one.trained, why, one.pending)), "ok" if one.balanced else "WRONG")
    console = Console()
    console.print(table)
    for phase, one in accounts.items():
        for line in one.wrong:
            console.print(f"{phase}: {line}", highlight=False)
    return all(one.balanced for one in accounts.values())
