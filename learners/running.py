"""Running statistics: the scale of what a phase has seen so far, kept with its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Running:
    """Mean and standard deviation of numbers as they come (Welford).

    Example:
        >>> running = Running()
        >>> running.add([1.0, 3.0])
        >>> running.mean, running.std
        (2.0, 1.0)
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""

    def add(self, values: Iterable[float]) -> None:
        """Take some numbers."""
        for value in values:
            self.count += 1
            step = value - self.mean
            self.mean += step / self.count
            self.squares += step * (value - self.mean)

    @property
    def std(self) -> float:
        """Population standard deviation; 0 of fewer than two numbers."""
        return (self.squares / self.count) ** 0.5 if self.count > 1 else 0.0

    def scale(self, value: float) -> float:
        """A number over the standard deviation, not centred: what is not there must not beat what is below average."""
        return value / self.std if self.std > 1e-8 else 0.0

    def state(self) -> dict[str, Any]:
        """JSON-able; `Running(**state)` is its inverse."""
        return asdict(self)
