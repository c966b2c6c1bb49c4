"""The tool pool against one call per actor and Ray Serve, with 50 callers; real tools; repeated calls; replicas killed.

Usage: python bench/pool.py [PART ...]   (fixed one real repeated kills; default: all, about 6 minutes)

`fixed` is a model that takes 4 ms and 0.5 ms an item, whatever it is asked, at most 16 at once: its ideal is 16 / 12 ms. All
ways have one process for it, the callers are coroutines of one other process, and each caller has a picture of 1 MB, which
travels as a reference. Ways take turns for SECONDS each.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import ray
from figures import ROUNDS, keep, ratios, row, spread
from ray import serve
from ray._private.internal_api import memory_summary

from pixelis.cluster.grant import PoolSettings
from pixelis.cluster.keeper import start_keeper
from pixelis.cluster.tool_pool import Parcels, ToolPool
from pixelis.tools.call import Failure, ToolCall
from pixelis.tools.handle import Workspace
from pixelis.tools.local import Local, classical
from pixelis.tools.media import MediaStore
from pixelis.tools.server import Server, ServerSettings
from pixelis.tools.tool import Ask, Outcome
from pixelis.tools.toolbox import Toolbox

CALLERS, SECONDS, BATCH = 50, 4.0, 16
ONCE, EACH = 0.004, 0.0005
IDEAL = BATCH / (ONCE + EACH * BATCH)
DEADLINE = 120.0
Call = Callable[[int, int], Awaitable[object]]
"""Caller's number and how many calls it has made -> the call."""


class Fixed:
    """A model of known cost."""

    id = "fixed@1"

    def run(self, workspace: Workspace, args: Any, until: float) -> Outcome:
        """As a batch of one."""
        return self.batch([(workspace, args)], until)[0]

    def batch(self, asked: Sequence[tuple[Workspace, Any]], until: float) -> list[Outcome]:
        """All at once."""
        time.sleep(ONCE + EACH * len(asked))
        return [Outcome({"n": args.box[2]}) for _, args in asked]


def fixed() -> Server:
    """A replica with the model of known cost."""
    return Server({"OCR": Fixed()}, ServerSettings(memo=0))


def real(memo: int) -> Server:
    """A replica with the tools that need no download."""
    return Server(classical(), ServerSettings(memo=memo))


class Alone:
    """One call at a time, as tool actors are mostly written."""

    def __init__(self) -> None:
        self.tools = Local(classical()).tools

    def fixed(self, data: np.ndarray, number: int) -> int:
        """The model of known cost."""
        time.sleep(ONCE + EACH)
        return number

    def real(self, data: np.ndarray, ask: Ask) -> object:
        """A real tool."""
        store = MediaStore()
        store.put(data.tobytes())
        return self.tools[ask.op].run(ask.workspace(store), ask.args, time.monotonic() + 60)


@serve.deployment(max_ongoing_requests=200)
class Served:
    """Batches as Ray Serve makes them."""

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.002)
    async def __call__(self, pictures: list[np.ndarray], numbers: list[int]) -> list[int]:
        """The model of known cost, in a thread, so that the next batch can gather."""
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, ONCE + EACH * len(numbers))
        return numbers


class Pictures:
    """A picture of 1 MB for each caller."""

    def __init__(self) -> None:
        self.store = MediaStore()
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 255, (580, 600, 3), np.uint8)
        self.spaces, self.refs = [], []
        for number in range(CALLERS):
            pixels[0, 0] = number
            data = cv2.imencode(".bmp", pixels)[1].tobytes()
            self.spaces.append(Workspace(self.store, self.store.put(data)))
            self.refs.append(ray.put(np.frombuffer(data, np.uint8)))

    def ask(self, caller: int, count: int, ids: Any) -> Ask:
        """A call that nobody has made before."""
        call = ToolCall("OCR", {"on": "img0", "box": [count // 900 % 900, 0, 901 + count % 99, 1 + count % 1000]})
        return Ask.of(self.spaces[caller], call, ids)


async def load(call: Call, callers: int, seconds: float) -> tuple[float, list[float]]:
    """Calls a second, and the milliseconds of each."""
    taken: list[float] = []

    async def one(caller: int) -> None:
        count = 0
        while time.perf_counter() < stop:
            start = time.perf_counter()
            await call(caller, count)
            taken.append(1000 * (time.perf_counter() - start))
            count += 1

    begun = time.perf_counter()
    stop = begun + seconds
    await asyncio.gather(*[one(caller) for caller in range(callers)])
    return len(taken) / (time.perf_counter() - begun), taken


def asked(pool: ToolPool, ask: Callable[[int, int], Ask], store: MediaStore) -> Call:
    """A call of the pool; it must come back with a result."""
    parcels = Parcels()

    async def call(caller: int, count: int) -> None:
        one = ask(caller, count)
        answer = await pool.client.ask(one, parcels.of(store, one), time.time() + 30)
        assert not answer.infra, answer

    return call


def ready(keeper: Any, replicas: int) -> dict[str, Any]:
    """The keeper's report once the pool is whole."""
    end = time.monotonic() + DEADLINE
    while (found := ray.get(keeper.report.remote(), timeout=30))["replicas"] != replicas:
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found


def compared(ways: dict[str, tuple[Call, ToolPool | None]], callers: int = CALLERS) -> dict[str, dict[str, Any]]:
    """Calls a second and latency of each way, in turns."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, (call, pool) in ways.items():
            work = load(call, callers, SECONDS)
            rate, ms = pool.do(work, 60 + SECONDS) if pool else asyncio.run(work)
            if number:
                rates[name].append(rate)
                taken[name] += ms
    figures: dict[str, dict[str, Any]] = {}
    for name in ways:
        row(name, spread(rates[name]), "calls/s")
        p50, p95, p99 = (float(np.percentile(taken[name], share)) for share in (50, 95, 99))
        print(f"{'':44} p50 {p50:.1f}  p95 {p95:.1f}  p99 {p99:.1f} ms")
        figures[name] = {"rates": rates[name], "ms": {"p50": p50, "p95": p95, "p99": p99}}
    return {
        n: {
            "rates": rates[n],
            "ms": dict(zip(("p50", "p95", "p99"), map(float, np.percentile(taken[n], [50, 95, 99])), strict=True)),
        }
        for n in ways
    }


def part_fixed() -> dict[str, Any]:
    """Fifty callers of a model of known cost."""
    pictures = Pictures()
    alone = ray.remote(num_cpus=0)(Alone).remote()
    keeper = start_keeper(fixed, PoolSettings(replicas=1, cpus=0), "bench")
    pool = ToolPool(keeper, DEADLINE)
    handle = serve.run(Served.options(ray_actor_options={"num_cpus": 0}).bind(), name="bench", route_prefix=None)
    ids = pool.ids

    async def one_by_one(caller: int, count: int) -> None:
        await alone.fixed.remote(pictures.refs[caller], count)

    async def through_serve(caller: int, count: int) -> None:
        await handle.remote(pictures.refs[caller], count)

    ours = asked(pool, lambda caller, count: pictures.ask(caller, count, ids), pictures.store)
    found = compared(
        {"one call per actor": (one_by_one, None), "Ray Serve, @serve.batch": (through_serve, None), "pool": (ours, pool)}
    )
    rates = {name: one["rates"] for name, one in found.items()}
    row("pool / one call per actor", ratios(rates["pool"], rates["one call per actor"]), "", ">= 4 (aim 5)")
    row("pool / Ray Serve", ratios(rates["pool"], rates["Ray Serve, @serve.batch"]), "", ">= 1.7 (aim 2)")
    row("pool / ideal", spread([rate / IDEAL for rate in rates["pool"]]), "", ">= 0.65 (aim 0.75)")
    batches = Counter(ray.get(keeper.report.remote(), timeout=30)["batches"])
    print(f"batches of the pool, size: count  {dict(sorted(batches.items()))}")
    serve.delete("bench")
    for actor in (alone, keeper):
        ray.kill(actor)
    return {"ideal": IDEAL, **found}


def part_one() -> dict[str, Any]:
    """One caller: what the way to the actor and back costs."""
    pictures = Pictures()
    keeper = start_keeper(fixed, PoolSettings(replicas=1, cpus=0), "one")
    pool, local = ToolPool(keeper, DEADLINE), Local(fixed().tools)
    ids = pool.ids

    async def in_place(caller: int, count: int) -> None:
        local.run(pictures.store, [pictures.ask(caller, count, ids)], 10)

    ours = asked(pool, lambda caller, count: pictures.ask(caller, count, ids), pictures.store)
    found = compared({"in place, one caller": (in_place, None), "pool, one caller": (ours, pool)}, callers=1)
    over = found["pool, one caller"]["ms"]["p50"] - found["in place, one caller"]["ms"]["p50"]
    print(f"one caller: {over:.2f} ms over the call in place   bar <= 3")
    ray.kill(keeper)
    return {**found, "over_ms": over}


def part_real() -> dict[str, Any]:
    """OCR of lines and SEG of boxes on the same cores: two processes each; with the memo, every call is made four times."""
    pictures = Pictures()
    data = [plate(number) for number in range(CALLERS)]
    spaces = [Workspace(pictures.store, pictures.store.put(one)) for one in data]
    refs = [ray.put(np.frombuffer(one, np.uint8)) for one in data]
    actors = [ray.remote(num_cpus=0)(Alone).remote() for _ in range(2)]
    settings = {"memo off": 0, "memo on": 4096}
    keepers = {
        name: start_keeper(partial(real, memo), PoolSettings(replicas=2, cpus=0), name.replace(" ", ""))
        for name, memo in settings.items()
    }
    pools = {name: ToolPool(keeper, DEADLINE) for name, keeper in keepers.items()}
    ids = pools["memo off"].ids
    for keeper in keepers.values():
        ready(keeper, 2)
    figures: dict[str, Any] = {}
    for op, arguments in {"OCR": {"level": "line"}, "SEG": {}}.items():

        def ask(caller: int, count: int, op: str = op, arguments: dict[str, Any] = arguments) -> Ask:
            box = [200 + count % 150, 380 - count // 150 % 100, 800, 620]
            return Ask.of(spaces[caller], ToolCall(op, {"on": "img0", "box": box, **arguments}), ids)

        async def one_by_one(caller: int, count: int, ask: Callable[[int, int], Ask] = ask) -> None:
            await actors[caller % 2].real.remote(refs[caller], ask(caller, count))

        made = [0] * CALLERS  # goes on through the rounds, so that none repeats an earlier one

        def repeated(caller: int, count: int, ask: Callable[[int, int], Ask] = ask, made: list[int] = made) -> Ask:
            made[caller] += 1
            return ask(caller, made[caller] // 4)

        found = compared({
            f"{op}: one call per actor": (one_by_one, None),
            f"{op}: pool, memo off": (asked(pools["memo off"], ask, pictures.store), pools["memo off"]),
            f"{op}: pool, memo on, each call four times": (asked(pools["memo on"], repeated, pictures.store), pools["memo on"]),
        })  # fmt: skip
        first, *others = found
        for name in others:
            row(f"{name} / one call per actor", ratios(found[name]["rates"], found[first]["rates"]), "", ">= 1")
        figures |= found
    for actor in (*actors, *keepers.values()):
        ray.kill(actor)
    return figures


def part_repeated() -> dict[str, Any]:
    """Eight rollouts that make the same calls on one picture, against one rollout; wall time of all their calls."""
    keeper = start_keeper(partial(real, 4096), PoolSettings(replicas=2, cpus=0), "repeated")
    ready(keeper, 2)
    pool = ToolPool(keeper, DEADLINE)
    times: dict[int, list[float]] = {1: [], 8: []}
    for number in range(ROUNDS + 1):
        for rollouts, kept in times.items():
            store = MediaStore()
            toolbox = Toolbox(store, pool, deadline=60)
            sha = store.put(plate(1000 + 10 * number + rollouts))
            spaces = [Workspace(store, sha) for _ in range(rollouts)]
            start = time.perf_counter()
            for box in ([200, 380, 800, 620], [150, 350, 850, 650], [100, 300, 900, 700]):
                for op, more in (("OCR", {}), ("SEG", {}), ("OCR", {"level": "line"})):
                    call = ToolCall(op, {"on": "img0", "box": box, **more})
                    assert all(r.ok for r in toolbox.run_all([(space, call) for space in spaces]))
            if number:
                kept.append(time.perf_counter() - start)
    row("tool time of one rollout", spread(times[1]), "s")
    found = ratios(times[8], times[1])
    row("eight rollouts that repeat it / one", found, "", "<= 1.5")
    ray.kill(keeper)
    return {"seconds": {str(k): v for k, v in times.items()}, "ratio": found}


def part_kills(seconds: float = 60.0) -> dict[str, Any]:
    """One random replica killed every second under load; then the pool must be whole and nothing leaked."""
    pictures, replicas = Pictures(), 4
    settings = PoolSettings(replicas=replicas, cpus=0, gpus=0.25)
    keeper = start_keeper(fixed, settings, "kills")
    pool = ToolPool(keeper, DEADLINE)
    ids = pool.ids
    ready(keeper, replicas)
    before = {"stored_mb": stored(), "files": files()}
    ends: Counter[str] = Counter()
    slack: list[float] = []
    parcels = Parcels()

    async def call(caller: int, count: int) -> None:
        one, until = pictures.ask(caller, count, ids), time.time() + 5
        answer = await pool.client.ask(one, parcels.of(pictures.store, one), until)
        slack.append(until - time.time())
        ends[answer.found.code if isinstance(answer.found, Failure) else "ok"] += 1

    async def kill() -> int:
        killed = 0
        stop = time.monotonic() + seconds
        while time.monotonic() < stop:
            await asyncio.sleep(1)
            _, members = await keeper.members.remote(-1, 0.0)
            if members:
                ray.kill(random.choice(list(members.values())))
                killed += 1
        return killed

    async def both() -> tuple[tuple[float, list[float]], int]:
        return await asyncio.gather(load(call, CALLERS, seconds), kill())

    (rate, ms), killed = pool.do(both(), seconds + 60)
    start = time.monotonic()
    report = ready(keeper, replicas)
    whole = time.monotonic() - start
    parcels.clear()
    end = time.monotonic() + 30
    while stored() > before["stored_mb"] + 1 and time.monotonic() < end:
        time.sleep(0.5)
    after = {"stored_mb": stored(), "files": files()}
    free = ray.available_resources().get("GPU", 0.0)
    print(f"killed {killed} replicas in {seconds:.0f} s; {rate:.0f} calls/s, p99 {np.percentile(ms, 99):.0f} ms; {dict(ends)}")
    print(
        f"least time left before a deadline {min(slack):.3f} s (bar > 0); "
        f"whole again after {whole:.1f} s: {report['replicas']} replicas"
    )
    print(f"before {before}, after {after}; GPU share free while {replicas} x 0.25 serve: {free:g}")
    ray.kill(keeper)
    end = time.monotonic() + 30
    while ray.available_resources().get("GPU", 0.0) < 1 and time.monotonic() < end:
        time.sleep(0.2)
    print(f"GPU share free when the pool has ended: {ray.available_resources().get('GPU', 0.0):g} of 1")
    return {
        "killed": killed,
        "rate": rate,
        "ends": dict(ends),
        "slack_s": min(slack),
        "whole_s": whole,
        "before": before,
        "after": after,
    }


def plate(number: int) -> bytes:
    """A picture like PixelWorld's, with a plate to read."""
    pixels = np.full((448, 448, 3), (90, 110, 130), np.uint8)
    rng = np.random.default_rng(number)
    pixels += rng.integers(0, 12, pixels.shape, np.uint8)
    cv2.rectangle(pixels, (95, 175), (350, 270), (40, 60, 220), -1)
    cv2.putText(pixels, f"K{number % 1000:03d}", (115, 245), cv2.FONT_HERSHEY_DUPLEX, 2.2, (255, 255, 255), 4)
    return cv2.imencode(".png", pixels)[1].tobytes()


def stored() -> float:
    """Megabytes in the object store."""
    for line in memory_summary(stats_only=True).splitlines():
        if line.startswith("Plasma memory usage"):
            return float(line.split()[3])
    return 0.0


def files() -> int:
    """Open files of this process."""
    return len(os.listdir("/proc/self/fd"))


PARTS = {"fixed": part_fixed, "one": part_one, "real": part_real, "repeated": part_repeated, "kills": part_kills}


def main() -> None:
    """Runs the parts that are named, or all."""
    chosen = sys.argv[1:] or list(PARTS)
    os.environ["OMP_NUM_THREADS"] = "1"  # actors inherit it
    options: dict[str, Any] = {"num_cpus": 4, "num_gpus": 1, "include_dashboard": False, "log_to_driver": False}
    ray.init(logging_level="error", **options)
    try:
        figures = {}
        for name in chosen:
            print(f"-- {name}")
            figures[name] = PARTS[name]()
        if set(chosen) == set(PARTS):
            keep("pool", figures)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
