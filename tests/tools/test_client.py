"""The client: whatever replicas do, each ask ends before its deadline with an answer or a typed failure."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelis.tools.call import Failure
from pixelis.tools.client import FAILS, Client, Gone
from pixelis.tools.media import MediaStore
from pixelis.tools.server import Busy
from pixelis.tools.tool import Answer, Ask, Outcome
from tests.tools.fakes import asks


class Scripted:
    """A replica that does the next thing of its script at each bundle, and answers when the script is at its end."""

    def __init__(self, name: str, *script: str) -> None:
        self.name, self.script = name, list(script)
        self.bundles: list[list[str]] = []
        self.probes = 0
        self.healed = False

    async def ask(self, asked: Sequence[tuple[Ask, float]], media: Mapping[str, Any]) -> list[Answer]:
        self.bundles.append([ask.op for ask, _ in asked])
        deed = self.script.pop(0) if self.script else "answer"
        if deed == "hang":
            await asyncio.sleep(3600)
        if deed == "slow":
            await asyncio.sleep(0.05)
        if deed in ("gone", "dead"):
            self.script.insert(0, "dead")
            raise Gone("its process ended")
        if deed == "busy":
            raise Busy("full")
        if deed == "bug":
            raise ZeroDivisionError("bug")
        if deed in ("bad_result", "bad_media"):
            return [Answer(Failure("infra", deed)) for _ in asked]
        return [Answer(Outcome({"by": self.name})) for _ in asked]

    async def ids(self) -> dict[str, str]:
        if "dead" in self.script:
            raise Gone("its process ended")
        return {"OCR": self.name}

    async def probe(self) -> None:
        self.probes += 1
        if "dead" in self.script:
            raise Gone("its process ended")
        if not self.healed:
            await asyncio.sleep(3600)


def one_ask(picture: str = "K7P") -> Ask:
    return asks([5], MediaStore(), picture=picture)[0]


def by(answer: Answer) -> str:
    return answer.found.code if isinstance(answer.found, Failure) else str(answer.found.data["by"])


def asked(client: Client, ask: Ask, seconds: float = 2.0) -> Any:
    return client.ask(ask, {}, time.time() + seconds)


@pytest.mark.parametrize("deed", ["gone", "bad_result"])
def test_one_failure_is_made_good_elsewhere_and_two_are_told(deed: str) -> None:
    async def run(bad: int) -> str:
        client = Client()
        replicas = [Scripted(f"r{n}", *([deed] * 9 if n < bad else [])) for n in range(4)]
        client.update(replicas)
        return by(await asked(client, one_ask()))

    assert all(asyncio.run(run(1)).startswith("r") for _ in range(3))
    assert asyncio.run(run(4)) == ("died" if deed == "gone" else deed)


def test_a_busy_replica_costs_time_but_no_failure() -> None:
    async def run() -> str:
        client = Client()
        client.update([Scripted("r0", *["busy"] * 5)])
        return by(await asked(client, one_ask()))

    assert asyncio.run(run()) == "r0"


def test_a_bug_in_a_tool_reaches_who_asked() -> None:
    async def run() -> None:
        client = Client()
        client.update([Scripted("r0", "bug")])
        with pytest.raises(ZeroDivisionError):
            await asked(client, one_ask())
        assert by(await asked(client, one_ask())) == "r0"

    asyncio.run(run())


def test_a_replica_that_let_a_deadline_pass_serves_again_only_after_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelis.tools.client.REST", 0.02)
    monkeypatch.setattr("pixelis.tools.client.PROBE", 0.05)

    async def run() -> None:
        client, replica = Client(), Scripted("r0", "hang")
        client.update([replica])
        start = time.monotonic()
        assert by(await asked(client, one_ask(), 0.2)) == "timeout" and time.monotonic() - start < 0.2
        assert client.serving == []
        assert by(await asked(client, one_ask(), 0.2)) == "timeout" and len(replica.bundles) == 1  # it is not asked
        waiting = asyncio.create_task(asked(client, one_ask()))
        await asyncio.sleep(0.2)
        assert replica.probes > 1 and not waiting.done()
        replica.healed = True
        assert by(await waiting) == "r0" and client.serving == ["r0"]

    asyncio.run(run())


def test_the_breaker_opens_after_failures_in_a_row_that_are_the_replicas_own() -> None:
    async def run(deed: str) -> list[str]:
        client = Client()
        client.update([Scripted("r0", *[deed] * (2 * FAILS))])
        for _ in range(FAILS):
            await asked(client, one_ask())
        return client.serving

    assert asyncio.run(run("bad_result")) == []
    assert asyncio.run(run("bad_media")) == ["r0"]


def test_a_dead_replica_stays_forgotten_until_the_keeper_forgets_it_too() -> None:
    async def run() -> None:
        client = Client()
        dead, alive = Scripted("r0", "gone"), Scripted("r1")
        client.update([dead, alive])
        for picture in ("K7P", "A4F", "B2C", "D5E"):  # of several media, so that some belong to the dead one
            assert by(await asked(client, one_ask(picture))) == "r1"
        client.update([dead, alive])
        assert client.serving == ["r1"] and len(dead.bundles) <= 1
        client.update([alive])
        client.update([Scripted("r0"), alive])
        assert client.serving == ["r0", "r1"]

    asyncio.run(run())


def test_without_replicas_an_ask_waits_for_one_until_its_deadline() -> None:
    async def run() -> None:
        client = Client()
        assert by(await asked(client, one_ask(), 0.1)) == "timeout"
        waiting = asyncio.create_task(asked(client, one_ask()))
        await asyncio.sleep(0.05)
        client.update([Scripted("r0")])
        assert by(await waiting) == "r0"

    asyncio.run(run())


def test_what_is_asked_at_once_travels_in_bundles_of_one_op() -> None:
    async def run() -> list[list[str]]:
        client, replica, store = Client(batch=4), Scripted("r0"), MediaStore()
        client.update([replica])
        many = [*asks(range(1, 7), store), *asks(range(1, 4), store, op="SEG")]
        await asyncio.gather(*[asked(client, one) for one in many])
        return replica.bundles

    assert asyncio.run(run()) == [["OCR"] * 4, ["OCR"] * 2, ["SEG"] * 3]


def test_one_medium_keeps_to_the_same_replicas_and_load_spreads() -> None:
    async def run() -> None:
        client = Client(batch=4)
        replicas = [Scripted(f"r{n}") for n in range(5)]
        client.update(replicas)
        assert len({by(await asked(client, one_ask())) for _ in range(20)}) <= 2
        store = MediaStore()
        await asyncio.gather(*[asked(client, one) for one in asks(range(1, 41), store)])
        assert all(replica.bundles for replica in replicas)  # one picture, but more than two can take

    asyncio.run(run())


def test_the_tools_ids_come_from_whoever_is_there() -> None:
    async def run() -> object:
        client = Client()
        asking = asyncio.create_task(client.ids())
        await asyncio.sleep(0.02)
        client.update([Scripted("r0", "dead"), Scripted("r1")])
        return await asyncio.wait_for(asking, 5)

    assert asyncio.run(run()) == {"OCR": "r1"}


DEEDS = ["answer", "answer", "slow", "busy", "gone", "hang", "bad_result"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from(DEEDS), max_size=6), min_size=1, max_size=4), st.integers(0, 10**6))
def test_every_ask_ends_in_time_whatever_the_replicas_do(scripts: list[list[str]], seed: int) -> None:
    async def run() -> None:
        client, store = Client(batch=3), MediaStore()
        client.update([Scripted(f"r{n}", *script) for n, script in enumerate(scripts)])

        async def timed(ask: Ask) -> None:
            await asyncio.sleep(random.Random(seed).random() * 0.02)
            start = time.monotonic()
            answer = await asked(client, ask, 0.3)
            assert time.monotonic() - start < 0.35  # of a busy machine
            assert by(answer) in {"timeout", "died", "bad_result", *(f"r{n}" for n in range(4))}

        await asyncio.gather(*[timed(one) for one in asks(range(1, 13), store)])

    asyncio.run(run())
