"""What a tool pool asks of a cluster, what it is granted of that, and how many replicas the load calls for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BUSY_TICKS = 4
"""Looks in a row that must find a batch waiting at every replica before one is added."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """A pool of replicas, each with all tools."""

    replicas: int = 2
    """That are always there."""
    most: int = 0
    """Under load; 0 for no more than `replicas`."""
    cpus: float = 1.0
    """Cores of a replica, as far as the cluster has them free."""
    gpus: float = 0.0
    """Share of a GPU, as far as the cluster has it; without one the tools run on the CPU."""
    idle: float = 30.0
    """Seconds without work after which one beyond `replicas` is let go."""

    @property
    def limit(self) -> int:
        """Most replicas."""
        return max(self.replicas, self.most)


@dataclass(frozen=True, slots=True)
class Granted:
    """What a pool gets of what it asked for. `told` says in a line what it does not."""

    replicas: int
    limit: int
    cpus: float
    gpus: float
    idle: float = 30.0
    told: str = ""


def grant(wanted: PoolSettings, free: Mapping[str, float]) -> Granted:
    """Fits a pool into what a cluster has free, so that no replica waits for ever for what is not there.

    Example:
        >>> grant(PoolSettings(replicas=4, gpus=0.5), {"CPU": 8, "GPU": 1}).replicas
        2
        >>> grant(PoolSettings(replicas=1, gpus=0.5), {"CPU": 0.0}).told
        'the tools get 0 CPUs a replica instead of 1; run on the CPU: no 0.5 GPU is free'
    """
    told = []
    cpus, gpus, most = wanted.cpus, wanted.gpus, wanted.limit
    if gpus and free.get("GPU", 0.0) < gpus:
        told.append(f"run on the CPU: no {gpus:g} GPU is free")
        gpus = 0.0
    if gpus:  # a share above 1 is whole GPUs; shares below never straddle two
        fit = int(free["GPU"] // gpus) if gpus >= 1 else int(free["GPU"]) * int(1 / gpus) or int(free["GPU"] / gpus)
        most = min(most, fit)
    if cpus and free.get("CPU", 0.0) < cpus * min(wanted.replicas, most):
        told.insert(0, f"get 0 CPUs a replica instead of {cpus:g}")
        cpus = 0.0
    if cpus:
        most = min(most, int(free["CPU"] / cpus))
    replicas = min(wanted.replicas, most)
    if replicas < wanted.replicas:
        told.insert(0, f"have {replicas} replicas instead of {wanted.replicas}")
    return Granted(replicas, most, cpus, gpus, wanted.idle, f"the tools {'; '.join(told)}" if told else "")


def scaled(now: int, granted: Granted, busy_ticks: int, idle: float) -> int:
    """How many replicas there should be, after so many looks that found a batch waiting at each, or so long without work.

    Example:
        >>> granted = Granted(1, 4, cpus=1.0, gpus=0.0)
        >>> scaled(2, granted, BUSY_TICKS, 0.0), scaled(2, granted, 0, granted.idle)
        (3, 1)
    """
    step = 1 if busy_ticks >= BUSY_TICKS else -1 if idle >= granted.idle else 0
    return max(granted.replicas, min(granted.limit, now + step))
