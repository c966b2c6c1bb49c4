"""The tool pool on a real Ray: it says what tools in place say, and what is killed, hangs or gives garbage is made good."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve

from pixelis.cluster.grant import PoolSettings, grant
from pixelis.cluster.keeper import start_keeper
from pixelis.cluster.part import PartError
from pixelis.cluster.serve import start_served, stop_served
from pixelis.cluster.tool_actor import start
from pixelis.cluster.tool_pool import Parcels, ToolPool
from pixelis.tools.call import Failure, ToolCall, ToolFailure
from pixelis.tools.frame import View
from pixelis.tools.handle import Handle, Workspace
from pixelis.tools.local import Local
from pixelis.tools.media import MediaError, MediaStore
from pixelis.tools.server import Busy
from pixelis.tools.tool import Answer
from pixelis.tools.toolbox import Toolbox
from tests.fakes_media import avi, moving_square, plate, png
from tests.tools.fakes import asks, fixed, real, unmakeable

pytestmark = [pytest.mark.ray, pytest.mark.slow]
DEADLINE = 120.0


@pytest.fixture(scope="module")
def cluster(workplace: Path) -> Iterator[None]:
    """With one GPU that only Ray believes in."""
    workers = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}}  # the fakes are made in replicas
    ray.init(num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=workers)
    yield
    ray.shutdown()


def told(answers: list[Answer]) -> list[object]:
    return [a.found.code if isinstance(a.found, Failure) else a.found.data["n"] for a in answers]


def report(keeper: Any) -> dict[str, Any]:
    return ray.get(keeper.report.remote(), timeout=30)


def until(keeper: Any, holds: Any, seconds: float = 90.0) -> dict[str, Any]:
    """The pool's report, as soon as something holds of it."""
    end = time.monotonic() + seconds
    while not holds(found := report(keeper)):
        assert time.monotonic() < end, found
        time.sleep(0.2)
    return found


def test_the_pool_says_what_tools_in_place_say(cluster: None) -> None:
    keeper = start_keeper(real, PoolSettings(replicas=2, cpus=0), "same")
    store = MediaStore()
    pool, local = Toolbox(store, ToolPool(keeper, DEADLINE), deadline=60), Toolbox(store, Local(), deadline=60)
    picture, clip = store.put(png(plate("K7P"))), store.put(avi(moving_square(12)[0]))
    calls = [
        (picture, ToolCall("OCR", {"on": "img0"})),
        (picture, ToolCall("SEG", {"on": "img0", "point": [400, 450]})),
        (picture, ToolCall("SEG", {"on": "img0", "text": "plate"})),
        (picture, ToolCall("PROP", {"of": "img0", "keys": ["color"]})),
        (picture, ToolCall("ZOOM", {"on": "img7", "box": [0, 0, 10, 10]})),
        (picture, ToolCall("ZOOM", {"on": "img0", "box": [100, 100, 600, 600]})),
        (clip, ToolCall("TRK", {"on": "img0", "box": [100, 300, 400, 700], "t0": 0})),
        (clip, ToolCall("TEMP", {"on": "img0", "window": [0, 1000], "k": 3})),
        (store.put(b"no picture at all"), ToolCall("OCR", {"on": "img0"})),
    ]
    found = [
        [result.digest() for result in box.run_all([(Workspace(store, sha, spaces(store, sha)), call) for sha, call in calls])]
        for box in (pool, local)
    ]
    assert found[0] == found[1]
    ray.kill(keeper)


def spaces(store: MediaStore, sha: str) -> dict[str, Any]:
    """The handles of a fresh episode; of what cannot be decoded, a picture that claims to be there."""
    try:
        return dict(Workspace(store, sha).handles)
    except MediaError:
        return {"img0": Handle("img0", "image", View(sha, (0, 0, 4, 4)))}


def test_a_replica_killed_every_second_costs_no_call_its_answer(cluster: None) -> None:
    """Every call ends with a result or a typed failure before its deadline, and then the pool is whole again."""
    keeper = start_keeper(fixed, PoolSettings(replicas=3, cpus=0), "killed")
    pool, store, seconds = ToolPool(keeper, DEADLINE), MediaStore(), 10.0
    assert pool.ids == {"OCR": "fixed@1"}
    until(keeper, lambda found: found["replicas"] == 3)
    many = asks(range(1, 1000), store)
    parcels = Parcels()
    ends: Counter[str] = Counter()
    late: list[float] = []

    async def caller(number: int, stop: float) -> None:
        while time.monotonic() < stop:
            ask = random.choice(many)
            start = time.monotonic()
            [answer] = [await pool.client.ask(ask, parcels.of(store, ask), time.time() + 5)]
            late.append(time.monotonic() - start - 5)
            ends[answer.found.cls if isinstance(answer.found, Failure) else "ok"] += 1

    async def load() -> None:
        stop = time.monotonic() + seconds
        await asyncio.gather(*[caller(number, stop) for number in range(12)], killer(stop))

    async def killer(stop: float) -> None:
        while time.monotonic() < stop:
            await asyncio.sleep(1)
            _, members = await keeper.members.remote(-1, 0.0)
            if members:
                ray.kill(random.choice(list(members.values())))

    pool.do(load(), seconds + 60)
    assert max(late) < 0 and set(ends) <= {"ok", "infra"} and ends["ok"] > 50 * ends["infra"], ends
    found = until(keeper, lambda found: found["replicas"] == 3)
    assert found["died"] >= 3 and found["made"] == found["died"] + 3
    ray.kill(keeper)


def test_health_answers_while_the_queue_is_full_and_more_is_refused_at_once(cluster: None) -> None:
    actor, store = start(partial(fixed, once=5.0, batch=1), "full"), MediaStore()
    first, *many = [(ask, time.time() + 600) for ask in asks(range(1, 259), store)]
    [(sha, medium)] = Parcels().of(store, first[0]).items()
    ray.get(actor.health.remote(), timeout=DEADLINE)
    refs = [actor.ask.remote([first], [sha], medium)]
    time.sleep(1)
    refs.append(actor.ask.remote(many[:256], [sha], medium))
    time.sleep(1)
    before = time.monotonic()
    health = ray.get(actor.health.remote(), timeout=30)
    assert (health.depth, health.working) == (256, True) and time.monotonic() - before < 2
    with pytest.raises(Busy):
        ray.get(actor.ask.remote(many[256:], [sha], medium), timeout=4)  # before the model is done with its first ask
    ray.kill(actor)


def test_a_dead_keeper_comes_back_with_new_replicas(cluster: None) -> None:
    keeper = start_keeper(fixed, PoolSettings(replicas=1, cpus=0), "keeper")
    pool, store = ToolPool(keeper, DEADLINE), MediaStore()
    assert told(pool.run(store, asks([1], store), DEADLINE)) == [1]
    ray.kill(keeper, no_restart=False)
    assert told(pool.run(store, asks([2], store), DEADLINE)) in ([2], ["died"])
    assert told(pool.run(store, asks([3], store), DEADLINE)) == [3]
    ray.kill(keeper)
    with pytest.raises(PartError, match="cannot be reached"):  # and asks no more: without a Ray that would start one
        for n in range(4, 1000):
            pool.run(store, asks([n], store), 1.0)


def test_a_model_that_hangs_is_ended_and_others_go_on(cluster: None) -> None:
    keeper = start_keeper(partial(fixed, once=0.001, each=0.0), PoolSettings(replicas=2, cpus=0), "hung")
    pool, store = ToolPool(keeper, DEADLINE), MediaStore()
    until(keeper, lambda found: found["replicas"] == 2)
    _, members = ray.get(keeper.members.remote(-1, 0.0), timeout=30)
    stopped = ray.get(next(iter(members.values())).health.remote(), timeout=30).where
    os.kill(int(stopped.split()[1]), signal.SIGSTOP)  # its process neither works nor ends
    answers = [told(pool.run(store, [ask], 2.0))[0] for ask in asks(range(1, 11), store)]
    assert answers.count("timeout") <= 2 and sum(isinstance(answer, int) for answer in answers) >= 8
    found = until(keeper, lambda found: found["hung"] == 1 and found["replicas"] == 2)
    assert found["made"] == 3
    ray.kill(keeper)


def test_failures_of_each_class_keep_their_class(cluster: None) -> None:
    """Garbage, exhausted memory, a tool that finds nothing: what the policy would see is never a process's own words."""
    fails = {
        1: ToolFailure("tool", "no_text", "in /secret/path"),
        2: MemoryError("CUDA out of memory at 0xdeadbeef"),
        3: ToolFailure("infra", "bad_result", "nan"),
    }
    keeper = start_keeper(partial(fixed, fails=fails), PoolSettings(replicas=1, cpus=0), "classes")
    store = MediaStore()
    box = Toolbox(store, ToolPool(keeper, DEADLINE), deadline=60)
    sha = store.put(png(plate("K7P")))
    found = {}
    for number in range(5):
        workspace = Workspace(store, sha)
        result = box.run(workspace, ToolCall("OCR", {"on": "img0", "box": [0, 0, number, 1000]}))
        found[number] = (result.failure.cls, result.failure.code) if result.failure else "ok"
        assert "secret" not in result.observation() and "dead" not in result.observation()
        assert workspace.calls["OCR"] == (0 if result.failure and result.failure.cls == "infra" else 1)
    policy = ("policy", "bad_args")  # an empty box
    assert found == {0: policy, 1: ("tool", "no_text"), 2: ("infra", "out_of_memory"), 3: ("infra", "bad_result"), 4: "ok"}
    ray.kill(keeper)


def test_load_brings_replicas_and_rest_lets_them_go(cluster: None) -> None:
    settings = PoolSettings(replicas=1, most=3, cpus=0, idle=2.0)
    keeper = start_keeper(partial(fixed, once=0.2, batch=4), settings, "scaled")
    pool, store = ToolPool(keeper, DEADLINE), MediaStore()
    until(keeper, lambda found: found["replicas"] == 1)
    many = asks(range(1, 201), store)
    for _ in range(8):
        assert told(pool.run(store, many, DEADLINE)) == list(range(1, 201))
        if report(keeper)["replicas"] == 3:
            break
    assert report(keeper)["made"] == 3
    found = until(keeper, lambda found: found["replicas"] == 1)
    assert (found["drained"], found["died"], found["hung"]) == (2, 0, 0)
    assert told(pool.run(store, many[:3], DEADLINE)) == [1, 2, 3]
    ray.kill(keeper)


def test_a_gpu_share_is_what_the_cluster_has_and_never_waited_for(cluster: None, capfd: pytest.CaptureFixture[str]) -> None:
    free = ray.available_resources()
    granted = grant(PoolSettings(replicas=4, cpus=0, gpus=0.5), free)
    assert (granted.replicas, granted.gpus) == (2, 0.5) and "2 replicas instead of 4" in granted.told
    keeper = start_keeper(fixed, PoolSettings(replicas=4, cpus=0, gpus=0.5), "gpu")
    pool, store = ToolPool(keeper, DEADLINE), MediaStore()
    assert told(pool.run(store, asks([1], store), DEADLINE)) == [1]
    until(keeper, lambda found: found["replicas"] == 2)
    assert ray.available_resources().get("GPU", 0.0) == 0
    second = start_keeper(fixed, PoolSettings(replicas=1, cpus=0, gpus=0.5), "cpu")  # none is left: on the CPU
    assert told(ToolPool(second, DEADLINE).run(store, asks([2], store), DEADLINE)) == [2]
    assert "run on the CPU: no 0.5 GPU is free" in capfd.readouterr().err
    for one in (keeper, second):
        ray.kill(one)
    end = time.monotonic() + 60
    while ray.available_resources().get("GPU") != 1:  # nothing is leaked
        assert time.monotonic() < end
        time.sleep(0.2)


def test_tools_that_cannot_be_made_end_the_wait_with_the_reason(cluster: None) -> None:
    keeper = start_keeper(unmakeable, PoolSettings(replicas=1, cpus=0), "broken")
    with pytest.raises(PartError, match="no such weights"):
        ToolPool(keeper, DEADLINE).ids  # noqa: B018
    ray.kill(keeper)


def test_ray_serve_is_another_backend_of_the_same_client(cluster: None) -> None:
    handle = start_served(partial(fixed, fails={7: ToolFailure("tool", "no_text")}), PoolSettings(replicas=2, cpus=0), "served")
    pool, store = ToolPool(handle, DEADLINE), MediaStore()
    assert pool.ids == {"OCR": "fixed@1"}
    assert told(pool.run(store, asks(range(1, 41), store), DEADLINE)) == [n if n != 7 else "no_text" for n in range(1, 41)]
    stop_served("served")
    serve.shutdown()
