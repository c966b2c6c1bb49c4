import hashlib
import threading
from concurrent.futures import Future

import numpy as np
import pytest
from remembering import keys, row, sha

from pixelis.memory.episodes import EpisodeShard
from pixelis.memory.recall import AwayError, EpisodeMemory, Here, shard_of
from pixelis.memory.select import RecallSettings
from pixelis.memory.task import Task


class Hashing:
    """Keys that follow from the text of what they are of."""

    def __init__(self, width):
        self.width, self.hash = width, f"hashing {width}"
        self.asked = []

    def __call__(self, items):
        self.asked += items
        seeds = [int.from_bytes(hashlib.sha256(item.encode()).digest()[:4], "big") for item in items]
        return np.array([np.random.default_rng(seed).normal(size=self.width) for seed in seeds], np.float32)


class Dead:
    """A shard that is gone: by an error, or by never answering."""

    def __init__(self, name, error=None):
        self.name, self.error = name, error

    def ask(self, method, *given):
        future = Future()
        if self.error:
            future.set_exception(self.error)
        return future


@pytest.fixture
def memory(tmp_path):
    """Makes memories over shards that are closed afterwards."""
    handles = []

    def make(shards=3, **given):
        new = [Here(EpisodeShard(tmp_path / str(len(handles) + n))) for n in range(shards)]
        handles.extend(new)
        settings = {"least": -9} | given
        return EpisodeMemory(new, Hashing(6), Hashing(10), RecallSettings(**settings))

    yield make
    for handle in handles:
        handle.close()


def task(number=999):
    return Task("t", f"Which letter is the {number}th?", (sha(number),), "text")


def test_a_memory_of_many_shards_finds_what_one_of_one_finds(memory):
    one, three = memory(1), memory(3)
    items = [row(n)[0] for n in range(300)]
    assert one.remember(items) == three.remember(items) == 300
    sizes = [stats["rows"] for stats in three.stats().values()]
    assert sum(sizes) == 300 and min(sizes) > 60
    for number in range(900, 910):
        hits = one.recall(task(number)).hits
        assert [hit.item for hit in hits] == [hit.item for hit in three.recall(task(number)).hits] and len(hits) == 8


def test_sent_again_nothing_is_stored_twice(memory):
    some = memory(2)
    items = [row(n)[0] for n in range(10)]
    assert [some.remember(items[:6]), some.remember(items), some.remember(items)] == [6, 4, 0]
    assert some.read([item.id for item in items]) == {item.id: item for item in items}


def test_each_question_and_medium_is_encoded_once(memory):
    some = memory(1)
    some.remember([row(n, question="Which?", media=(sha(1), sha(2)))[0] for n in range(5)])
    assert some.text.asked == ["Which?"] and some.pixels.asked == [sha(1), sha(2)]


def test_the_questions_own_medium_does_not_answer_it(memory):
    some = memory(2, count=20)
    some.remember([row(n)[0] for n in range(10)])
    found = some.recall(task(3))
    assert "episode3" not in {hit.item.id for hit in found.hits} and len(found.hits) == 9 and found.own == 1


@pytest.mark.parametrize("error", [None, AwayError("it died")])
def test_a_shard_that_is_away_makes_answers_partial_and_says_so(memory, error):
    some = memory(2, seconds=0.2)
    some.remember([row(n)[0] for n in range(40)])
    whole = {hit.item.id for hit in some.recall(task()).hits}
    some.shards[1] = Dead("the second", error)
    found = some.recall(task())
    told = "it died" if error else "no answer within 0.2 s"
    assert found.partial and found.away == {"the second": told}
    assert {hit.item.id for hit in found.hits} and all(shard_of(hit.item.id, 2) == 0 for hit in found.hits)
    assert {id for id in whole if shard_of(id, 2) == 0} <= {hit.item.id for hit in found.hits}


def test_a_busy_shard_is_late_and_then_back(memory):
    some = memory(2, seconds=0.2)
    some.remember([row(n)[0] for n in range(40)])
    gate = threading.Event()
    some.shards[0]._thread.submit(gate.wait)
    assert some.recall(task()).partial
    gate.set()
    assert not some.recall(task()).partial


def test_a_bug_in_a_shard_is_no_partial_answer(memory):
    some = memory(1)
    some.shards.append(Dead("broken", ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        some.recall(task())


def test_what_is_not_acknowledged_is_an_error(memory, monkeypatch):
    monkeypatch.setattr("pixelis.memory.recall.PATIENCE", 1.0)
    some = memory(1)
    some.shards.append(Dead("the second"))
    items = [row(n)[0] for n in range(10)]
    with pytest.raises(AwayError, match=r"the second did not make episodes durable within 1 s"):
        some.remember(items)
    with pytest.raises(AwayError, match="the second did not forget media"):
        some.forget([sha(0)])


def test_forgotten_on_every_shard(memory):
    some = memory(3, count=30)
    some.remember([row(n, media=(sha(n % 2),))[0] for n in range(30)])
    assert some.forget([sha(1)]) == 15
    assert {hit.item.media for hit in some.recall(task()).hits} == {(sha(0),)}


def test_keys_of_other_weights_are_not_compared(memory):
    some = memory(2)
    some.add([(row(n)[0], keys(n)) for n in range(10)])
    found = some.recall(task())
    assert found.hits == () and found.foreign == 10
