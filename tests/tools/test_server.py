"""The server: batches, deadlines, its queue, its memo; with real tools of known cost."""

from __future__ import annotations

import asyncio
import time

import pytest

from pixelis.tools.call import Failure, ToolCall, ToolFailure
from pixelis.tools.handle import Workspace
from pixelis.tools.local import Local
from pixelis.tools.media import MediaStore
from pixelis.tools.server import Busy, Server, ServerSettings
from pixelis.tools.tool import Answer, Ask, Outcome
from tests.fakes_media import plate, png
from tests.tools.fakes import Fixed, asks


def served(tool: Fixed, **settings: int) -> Server:
    server = Server({"OCR": tool}, ServerSettings(**settings))
    server.add(server.store.put(png(plate("K7P"))), png(plate("K7P")))
    return server


def told(answers: list[Answer]) -> list[object]:
    return [a.found.code if isinstance(a.found, Failure) else a.found.data["n"] for a in answers]


def test_what_waits_while_the_model_works_is_one_batch_and_each_gets_its_own_answer() -> None:
    tool = Fixed(once=0.05)

    async def run() -> list[Answer]:
        server = served(tool, batch=8)
        many = asks(range(1, 21), server.store)
        first = asyncio.create_task(server.ask([(many[0], time.time() + 5)]))
        await asyncio.sleep(0.02)
        rest = [asyncio.create_task(server.ask([(one, time.time() + 5)])) for one in many[1:]]
        return [*await first, *[a for task in rest for a in await task]]

    answers = asyncio.run(run())
    assert told(answers) == list(range(1, 21))
    assert [len(batch) for batch in tool.batches] == [1, 8, 8, 3]  # the first waits for nobody


def test_an_expired_ask_never_reaches_the_model() -> None:
    tool = Fixed(once=0.1)

    async def run() -> list[Answer]:
        server = served(tool)
        first, late, later = asks([1, 2, 3], server.store)
        busy = asyncio.create_task(server.ask([(first, time.time() + 5)]))
        await asyncio.sleep(0.02)
        return [*await server.ask([(late, time.time() + 0.03), (later, time.time() + 5)]), *await busy]

    assert told(asyncio.run(run())) == ["timeout", 3, 1] and tool.batches == [[1], [3]]


def test_a_full_queue_refuses_at_once_and_takes_nothing() -> None:
    tool = Fixed(once=0.3)

    async def run() -> None:
        server = served(tool, queue=2)
        first, *more = asks(range(1, 7), server.store)
        working = asyncio.create_task(server.ask([(first, time.time() + 5)]))
        await asyncio.sleep(0.05)
        start = time.monotonic()
        with pytest.raises(Busy):
            await server.ask([(one, time.time() + 5) for one in more[:3]])
        assert time.monotonic() - start < 0.1 and server.depth == 0 and server.working
        assert told(await server.ask([(one, time.time() + 5) for one in more[3:]])) == [5, 6]
        await working

    asyncio.run(run())


def test_what_is_asked_again_or_meanwhile_is_computed_once_and_infra_is_not_remembered() -> None:
    tool = Fixed(fails={2: ToolFailure("tool", "no_text"), 3: ToolFailure("infra", "died")})

    async def run() -> list[Answer]:
        server = served(tool)
        many = asks([1, 1, 2, 2, 3], server.store)
        found = await server.ask([(one, time.time() + 5) for one in many])
        return [*found, *await server.ask([(one, time.time() + 5) for one in many])]

    assert told(asyncio.run(run())) == [1, 1, "no_text", "no_text", "died"] * 2
    assert tool.batches == [[1, 2, 3], [3]]


def test_a_bug_in_a_tool_goes_to_those_who_asked_and_the_server_goes_on() -> None:
    tool = Fixed(fails={7: ZeroDivisionError("bug")})

    async def run() -> list[Answer]:
        server = served(tool)
        good, bad = asks([1, 7], server.store)
        with pytest.raises(ZeroDivisionError):
            await server.ask([(bad, time.time() + 5)])
        return await server.ask([(good, time.time() + 5)])

    assert told(asyncio.run(run())) == [1]


def test_a_probe_comes_back_only_when_the_model_is_free() -> None:
    async def run() -> tuple[bool, float]:
        server = served(Fixed(once=0.3))
        [one] = asks([1], server.store)
        work = asyncio.create_task(server.ask([(one, time.time() + 0.05)]))
        await asyncio.sleep(0.1)
        early, overdue = await asyncio.wait([asyncio.create_task(server.probe())], timeout=0.05), server.overdue
        await asyncio.wait_for(server.probe(), 5)
        assert told(await work) == [1] and not server.overdue
        return bool(early[0]), overdue

    early, overdue = asyncio.run(run())
    assert not early and overdue > 0.03


def test_media_are_kept_up_to_a_limit_and_what_was_forgotten_is_said_to_be_missing() -> None:
    data = [png(plate(code)) for code in ("K7P", "A4F", "Z9Q")]
    server = Server({}, ServerSettings(media_bytes=len(data[1]) + len(data[2])))
    shas = [MediaStore().put(one) for one in data]
    for sha, one in zip(shas, data, strict=True):
        server.add(sha, one)
        server.store.info(sha)
    assert [server.has(sha) for sha in shas] == [False, True, True] == [sha in server.store for sha in shas]


def test_the_server_says_what_the_tools_say_in_place() -> None:
    """Real tools, on asks of a real picture."""
    local = Local()
    store = MediaStore()
    data = png(plate("K7P"))
    space = Workspace(store, store.put(data))
    calls = [
        ToolCall("OCR", {"on": "img0"}),
        ToolCall("SEG", {"on": "img0", "point": [400, 450]}),
        ToolCall("PROP", {"of": "img0", "keys": ["color", "area"]}),
        ToolCall("ZOOM", {"on": "img0", "box": [100, 100, 500, 500]}),
        ToolCall("SEG", {"on": "img0", "text": "plate"}),
    ]
    many = [Ask.of(space, call, local.ids) for call in calls]

    async def run() -> list[Answer]:
        server = Server(local.tools)
        server.add(space.source, data)
        return await server.ask([(one, time.time() + 60) for one in many])

    assert [a.found for a in asyncio.run(run())] == [a.found for a in local.run(store, many, 60)]
    assert isinstance(local.run(store, many[:1], 60)[0].found, Outcome)
