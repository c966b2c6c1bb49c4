"""Replay at 10k, 100k and 1M rows: push with fsync, sampling beside RLlib's and TorchRL's buffers, opening, memory a row.

Usage: python bench/replay.py [ROWS ...]

A row is a group of one trajectory: 64 tokens, half of them with a log-prob; 100 to a record. All three buffers hold the same
rows and return, for 64 of them drawn by priority (RLlib's: uniformly, it has no priorities), their tokens and log-probs as
arrays. TorchRL is left out unless it is installed, in an environment of its own that shares our torch:

    uv venv --python .venv/bin/python runs/cache/torchrl
    echo $PWD/.venv/lib/python3.11/site-packages > runs/cache/torchrl/lib/python3.11/site-packages/ours.pth
    VIRTUAL_ENV=runs/cache/torchrl uv pip install --no-deps torchrl tensordict pyvers orjson
"""

import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TORCHRL = ROOT / "runs" / "cache" / "torchrl" / "bin" / "python"
TOKENS, BATCH, RECORD, DRAWS = 64, 64, 100, 300


def row(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(64,) tokens and (32,) log-probs."""
    tokens = (np.arange(TOKENS) * 31 + number) % 50_000
    return tokens.astype(np.int32), np.full(TOKENS // 2, -1.0 / (1 + number % 97), np.float32)


def resident() -> int:
    """Bytes of this process's own memory; pages of mapped files are the kernel's, which takes them back when it likes."""
    gc.collect()
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["RssAnon"].split()[0])


def timed(act: Callable[[int], object], count: int = DRAWS) -> dict[str, float]:
    """Median and 99th percentile of the milliseconds, and the median of CPU milliseconds, which neighbours disturb less."""
    wall, cpu = [], []
    for i in range(count):
        start, busy = time.perf_counter(), time.process_time()
        act(i)
        wall.append(1000 * (time.perf_counter() - start))
        cpu.append(1000 * (time.process_time() - busy))
    return {"p50": float(np.median(wall)), "p99": float(np.percentile(wall, 99)), "cpu_p50": float(np.median(cpu))}


def ours(rows: int) -> dict[str, object]:
    """Fill a shard on disk, draw from it, open it again."""
    from pixelis.memory.codec import encode
    from pixelis.memory.replay import ReplayShard
    from pixelis.memory.trajectory import Group, Trajectory, Turn

    def group(number: int) -> Group:
        tokens, logprobs = (column.tolist() for column in row(number))
        turn = Turn(tuple(tokens[: TOKENS // 2]), tuple(tokens[TOKENS // 2 :]), tuple(logprobs))
        return Group(f"t{number}", (Trajectory(f"t{number}", f"t{number}", "?", (), (turn,), family="code"),))

    before, rng = resident(), random.Random(0)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        shard = ReplayShard(Path(folder))
        pushed: list[float] = []
        for record in range(rows // RECORD):
            data = encode([group(record * RECORD + i) for i in range(RECORD)])
            start = time.perf_counter()
            shard.add("bench", record, data)
            pushed.append(1000 * (time.perf_counter() - start))
        keys = [(record, i) for record in range(rows // RECORD) for i in range(RECORD)]
        shard.prioritise(keys, [rng.random() for _ in keys])
        del keys
        for record in range(rows // RECORD):  # once, so that it is warm, as the others are
            shard.gather([(record, 0)])
        kept, disk = resident() - before, shard.stats()["bytes"]
        keyed = timed(lambda i: shard.sample({"code": BATCH}, [0, i]))
        whole = timed(lambda i: shard.gather(shard.sample({"code": BATCH}, [1, i])))
        shard.close()
        start = time.perf_counter()
        ReplayShard(Path(folder)).close()
        opened = time.perf_counter() - start
    push = {"p50": float(np.median(pushed)), "p99": float(np.percentile(pushed, 99))}
    return {
        "push_ms_per_100": push, "keys_ms": keyed, "sample_ms": whole, "open_s": opened,
        "memory_per_row": kept / rows, "disk_per_row": disk / rows,
    }  # fmt: skip


def rllib(rows: int) -> dict[str, object]:
    """RLlib's EpisodeReplayBuffer: the tokens are observations, the log-probs actions, 100 steps to an episode."""
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    from ray.rllib.utils.replay_buffers.episode_replay_buffer import EpisodeReplayBuffer

    before = resident()
    buffer = EpisodeReplayBuffer(capacity=rows + RECORD)
    for first in range(0, rows, RECORD):
        pairs = [row(first + i) for i in range(RECORD)]
        seen, acted = [tokens for tokens, _ in pairs], [logprobs for _, logprobs in pairs]
        episode = SingleAgentEpisode(
            observations=[*seen, seen[0]], actions=acted, rewards=[0.0] * RECORD, len_lookback_buffer=0, terminated=True
        )
        buffer.add(episode)
    kept = resident() - before
    return {"sample_ms": timed(lambda _: buffer.sample(num_items=BATCH, batch_length_T=1)), "memory_per_row": kept / rows}


def torchrl(rows: int) -> dict[str, object]:
    """TorchRL's prioritised TensorDict buffer, in this process."""
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, TensorDictPrioritizedReplayBuffer

    torch.set_num_threads(1)
    before, rng = resident(), random.Random(0)
    buffer = TensorDictPrioritizedReplayBuffer(alpha=1.0, beta=0.0, storage=LazyTensorStorage(rows), batch_size=BATCH)
    for first in range(0, rows, RECORD):
        pairs = [row(first + i) for i in range(RECORD)]
        columns = {
            name: torch.from_numpy(np.stack([pair[i] for pair in pairs])) for i, name in enumerate(("tokens", "logprobs"))
        }
        buffer.extend(TensorDict(columns, batch_size=[RECORD]))
    buffer.update_priority(torch.arange(rows), torch.tensor([rng.random() for _ in range(rows)]))
    kept = resident() - before
    return {"sample_ms": timed(lambda _: buffer.sample()), "memory_per_row": kept / rows}


WAYS = {"ours": ours, "rllib": rllib, "torchrl": torchrl}


def apart(way: str, rows: int) -> dict[str, object] | None:
    """The figures of one buffer, in a process of its own; None for TorchRL where it is not installed."""
    python = TORCHRL if way == "torchrl" else Path(sys.executable)
    if not python.exists():
        return None
    done = subprocess.run([python, __file__, "--one", way, str(rows)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """All sizes, each buffer in turn."""
    from figures import keep

    sizes = [int(word) for word in sys.argv[1:]] or [10_000, 100_000, 1_000_000]
    found = {}
    for rows in sizes:
        one = found[str(rows)] = {way: figures for way in WAYS if (figures := apart(way, rows))}
        mine = one["ours"]
        print(f"{rows} rows: push of 100 {told(mine['push_ms_per_100'])}, keys of 64 {told(mine['keys_ms'])}")
        print(f"  opened in {mine['open_s']:.2f} s, {mine['disk_per_row']:.0f} bytes a row on disk")
        for way, figures in one.items():
            times = figures["sample_ms"]["cpu_p50"] / mine["sample_ms"]["cpu_p50"]
            bar = {"rllib": "bar 3", "torchrl": "bar 1"}.get(way, "")
            print(f"  {way:8} sample of 64 {told(figures['sample_ms'])}, {figures['memory_per_row']:.0f} bytes a row in memory,"
                  f" {times:.2f} times ours {bar}")  # fmt: skip
    keep("replay", found)


def told(ms: dict[str, float]) -> str:
    """Median and 99th percentile."""
    return f"p50 {ms['p50']:.2f} p99 {ms['p99']:.2f} ms"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(WAYS[sys.argv[2]](int(sys.argv[3]))))
    else:
        main()
