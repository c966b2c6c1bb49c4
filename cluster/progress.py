"""Progress that a person can follow: a bar on a terminal, a line about every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SILENCE = 10.0
"""Seconds between lines without a terminal."""
SHOWN = {
    "nll": "nll", "reward": "reward", "answer": "answer", "valid": "valid", "chain_length": "chain_length",
    "kl_k3_policy_to_start_token_mean": "kl", "kl_window": "kl", "accepted": "accepted", "loss": "loss", "success": "success",
}  # fmt: skip


class Bar:
    """Steps of one phase.

    Example:
        >>> with Bar("sft", 1200, "steps") as bar:                         # doctest: +SKIP
        ...     bar.to(15, {"nll": 2.1})
    """

    def __init__(self, what: str, total: int, unit: str, console: Console | None = None) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.console = console or Console()
        self.done = self._first = 0
        self._started = self._said = time.monotonic()
        self._progress: Progress | None = None

    def __enter__(self) -> Bar:
        if self.console.is_terminal:
            columns = (
                TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"),
                TimeElapsedColumn(), TimeRemainingColumn(),
            )  # fmt: skip
            self._progress = Progress(*columns, console=self.console)
            self._task = self._progress.add_task(self.what, total=self.total, told="")
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def begin(self, done: int) -> None:
        """Where a resumed phase stands: not counted as throughput."""
        self.done = self._first = done

    def to(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        """`done` of the total, with the latest figures."""
        self.done = done
        told = self._told(figures or {})
        if self._progress is not None:
            self._progress.update(self._task, completed=done, told=told)
        elif time.monotonic() - self._said > SILENCE or done >= self.total:
            self._said = time.monotonic()
            self.console.print(f"{self.what} {done}/{self.total} {told}", highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line beside the bar."""
        (self._progress.console if self._progress else self.console).print(text, highlight=False, soft_wrap=True)

    def _told(self, figures: Mapping[str, float]) -> str:
        rate = (self.done - self._first) / max(1e-9, time.monotonic() - self._started)
        words = [f"{rate:.1f} {self.unit}/s"]
        if figures.get("rollouts") and figures.get("seconds"):
            words.append(f"{figures['rollouts'] / figures['seconds']:.1f} rollouts/s")
        words += [f"{short} {figures[name]:.3f}" for name, short in SHOWN.items() if name in figures]
        return "  ".join(words)
