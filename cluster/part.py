"""How parts of a run talk: no wait without a deadline, and an error names the part."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

PATIENCE = 5.0
"""Seconds in which Ray notices that a process has died, and a living one says what it is doing."""


NAMESPACE = "pixelis"
"""Of the actors that outlive a driver: names are found in one namespace only, and each driver has its own."""


class PartError(RuntimeError):
    """A part of the run that did not answer in time, died, or failed by a bug (then with its traceback)."""


class Late(PartError):
    """A part that did not answer in time."""


def answer(ref: Any, seconds: float, part: str) -> Any:
    """`ray.get` with a deadline. Late or PartError names the part that was late or died; its own errors come through."""
    try:
        return ray.get(ref, timeout=seconds)
    except GetTimeoutError as e:
        raise Late(f"the {part} did not answer within {seconds:g} s") from e
    except RayTaskError:
        raise
    except RayActorError as e:
        raise PartError(f"the {part} died: {str(e).strip().splitlines()[0]}") from e


def name_of(kind: str, root: Path, *words: object) -> str:
    """The name of an actor: its kind, the run's folder, and what tells it from others of that kind."""
    return "_".join([kind, str(root.resolve()).replace("/", "_"), *map(str, words)])


def stack_of(actor: ActorHandle) -> str:
    """What an actor's threads are doing (its method `stack`), or that it does not say."""
    try:
        return str(ray.get(actor.stack.remote(), timeout=PATIENCE))
    except (GetTimeoutError, RayActorError):
        return f"it does not answer within {PATIENCE:g} s: stopped, or gone"


def where() -> str:
    """This process and its node, for people."""
    return f"process {os.getpid()} on {ray.util.get_node_ip_address()}"


def quiet() -> None:
    """One thread for this process, since the cores belong to all parts, and no bars of libraries."""
    import cv2
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
