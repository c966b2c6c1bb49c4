"""A child that fills a replay shard and dies by SIGKILL: python writer.py ROOT MODE. Prints each acknowledged seq."""

import os
import signal
import sys
from pathlib import Path

from samples import PICTURE, SHA, group

from pixelis.memory.replay import ReplayShard


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(root: str, mode: str) -> None:
    """torn: killed in the middle of a record; unsaid: after the sync, before the answer; outside: by the parent."""
    shard = ReplayShard(Path(root), segment_bytes=1 << 20)
    pwrite, fsync = os.pwrite, os.fsync

    def half(fd: int, data: memoryview, offset: int) -> int:
        return die() if pwrite(fd, data[: len(data) // 2], offset) else 0

    def sync(fd: int) -> None:
        fsync(fd)
        die()

    for seq in range(1000):
        if seq == 7 and mode == "torn":
            os.pwrite = half
        if seq == 7 and mode == "unsaid":
            os.fsync = sync
        shard.add("child", seq, [group(seq, tokens=50_000)], {SHA: PICTURE})
        print(seq, flush=True)


main(*sys.argv[1:])
