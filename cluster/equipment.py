"""The tools of a run: on a pool of actors, on a Ray Serve deployment, or in each rollout actor."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from pixelis.cluster.config import RunConfig
from pixelis.cluster.keeper import start_keeper
from pixelis.cluster.part import PATIENCE, PartError, answer, name_of
from pixelis.cluster.watchdog import tell
from pixelis.tools import backend


def start(run: RunConfig, root: Path) -> Any:
    """What rollout actors reach the tools through: a pool's keeper, a deployment's handle, or None for tools of their own.

    Weights that are named but not here are told of, with what runs instead.
    """
    for line in backend.missing(run.tools.learned):
        tell(line)
    if run.tools.where == "here":
        return None
    # Only names of `tools` cross: a replica that had to import this module would spend seconds on the policy's libraries.
    make = partial(backend.server, run.tools.learned, run.tools.server, run.tools.limits)
    others = run.rollout.actors + run.learner.ranks
    if run.tools.where == "serve":
        from pixelis.cluster.serve import start_served

        return start_served(make, run.tools.pool, _application(run), others)
    return start_keeper(make, run.tools.pool, name_of("tools", root, run.phase), spoken_for=others)


def report(source: Any) -> dict[str, Any]:
    """What a pool has done so far; nothing without one, or while its keeper is being restarted."""
    if not isinstance(source, ActorHandle):
        return {}
    try:
        found: dict[str, Any] = answer(source.report.remote(), PATIENCE, "keeper of the tools")
    except PartError:
        return {}
    return found


def stop(run: RunConfig, source: Any) -> None:
    """End them."""
    if run.tools.where == "serve":
        from pixelis.cluster.serve import stop_served

        stop_served(_application(run))
    elif source is not None:
        ray.kill(source)  # a keeper's replicas end with it


def _application(run: RunConfig) -> str:
    return f"{run.name}_{run.phase}"
