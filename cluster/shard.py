"""The replay shard as an actor: `memory.replay.ReplayShard` beside the run's shared media."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from pixelis.cluster.part import name_of
from pixelis.memory.replay import ReplayShard
from pixelis.tools.media import MediaStore


class Shard(ReplayShard):
    """A shard whose source media are durable in the run's media folder already."""

    def __init__(self, root: Path, media: Path) -> None:
        super().__init__(root, [MediaStore(media)])

    def __repr__(self) -> str:
        return f"Replay({self.root.name})"


def start_shard(root: Path, name: str) -> ActorHandle:
    """The named shard of one phase, under `root/replay/NAME`; restarted by Ray when it dies, its log is the truth.

    `max_task_retries` re-sends calls that died with it: `add` knows duplicates by their key, `take` is told its cursor.
    """
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Shard)
    return actor.options(name=name_of("replay", root, name)).remote(root / "replay" / name, root / "media")
