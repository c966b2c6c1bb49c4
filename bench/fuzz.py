"""Fuzz: 100 000 texts validated and 5 000 calls run on odd and broken media; no crash, no hang, no memory kept.

Prints what came of them by class and code. A case that breaks is printed as a command that repeats it:
`python bench/fuzz.py --seed N --calls '[["ZOOM", {...}], ...]'`. Another start: `python bench/fuzz.py --start 7`.
"""

import argparse
import faulthandler
import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from figures import keep
from fuzzer import Case, Run, Tally, executed, validated

from pixelis.tools.call import ToolCall

TEXTS, CALLS = 100_000, 5_000
DEADLINE, SLACK = 10.0, 10.0
"""Seconds that the toolbox allows one attempt, and what may come on top of its three attempts."""
MINUTES, GROWTH = 20, 400
"""All of it; and megabytes that the second half of the calls may add."""


class Watchdog:
    """Ends the process, with the case and all stacks, when one call runs too long."""

    def __init__(self) -> None:
        self.limit = 3 * DEADLINE + SLACK
        self._since: tuple[float, Case] | None = None
        threading.Thread(target=self._guard, daemon=True).start()

    def __call__(self, case: Case | None) -> None:
        self._since = None if case is None else (time.monotonic(), case)

    def _guard(self) -> None:
        while True:
            time.sleep(1)
            now = self._since
            if now and time.monotonic() - now[0] > self.limit:
                print(f"HANG: more than {self.limit:g} s\n{now[1].line}", file=sys.stderr)
                faulthandler.dump_traceback(all_threads=True)
                os._exit(70)


def rss() -> float:
    """Resident megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def table(title: str, came: Counter[str]) -> None:
    """Counts, most frequent first."""
    print(title)
    for name, count in came.most_common():
        print(f"  {count:7}  {name}")


def total(came: Counter[str]) -> Counter[str]:
    """Without the operation."""
    by_code: Counter[str] = Counter()
    for name, count in came.items():
        if not name.startswith("medium"):
            by_code[name.partition(" ")[2]] += count
    return by_code


def fuzz(start: int) -> None:
    """Both parts; SystemExit when a bar is not held."""
    faulthandler.enable()
    began = time.monotonic()
    texts = validated(start, TEXTS)
    table(f"{texts.calls} texts in {time.monotonic() - began:.0f} s (start {start})", texts.came)
    watch, tally, memory = Watchdog(), Tally(), [rss()]
    for part in range(10):
        one = executed(start * 10 + part, CALLS // 10, watch, DEADLINE)
        tally.came += one.came
        tally.calls += one.calls
        tally.slowest = max(tally.slowest, one.slowest)
        memory.append(rss())
        print(f"{tally.calls} calls, {time.monotonic() - began:.0f} s, {memory[-1]:.0f} MB", flush=True)
    table("by operation", tally.came)
    table("by class and code", total(tally.came))
    seconds = time.monotonic() - began
    grown = memory[-1] - memory[len(memory) // 2]
    print(f"{seconds:.0f} s (bar {60 * MINUTES}), slowest call {tally.slowest:.1f} s (bar {watch.limit:g}), ", end="")
    print(f"second half grew by {grown:.0f} MB (bar {GROWTH}) to {memory[-1]:.0f} MB")
    keep(
        "fuzz",
        {
            "start": start, "texts": dict(texts.came), "calls": dict(tally.came), "seconds": seconds,
            "slowest_s": tally.slowest, "rss_mb": memory,
        },
    )  # fmt: skip
    if seconds > 60 * MINUTES or grown > GROWTH:
        raise SystemExit("a bar is not held")


def main() -> None:
    """Everything, or one case again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=int, default=1, help="seed of the whole")
    parser.add_argument("--seed", type=int, help="seed of one medium")
    parser.add_argument("--calls", default="[]", help="its calls, as JSON")
    given = parser.parse_args()
    if given.seed is None:
        fuzz(given.start)
        return
    for came, seconds in Run(given.seed).chain([ToolCall(*one) for one in json.loads(given.calls)]):
        print(f"{came}  {seconds:.2f} s")


if __name__ == "__main__":
    main()
