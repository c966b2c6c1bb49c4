"""Rollouts that are stored once: all ways of answering a question, and no call where there may be none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.kills import babbler
from pixelis.actors.shift import Shift
from pixelis.actors.stream import Part, read_keys, write
from pixelis.cluster import rollouts
from pixelis.cluster.attack import Attack
from pixelis.cluster.results_vote import Votes, count
from pixelis.cluster.rollouts import COUNT, WAYS, Recorder, read, sureness

N = 3


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    root = tmp_path_factory.mktemp("votes")
    write(root / "stream", root / "key.jsonl", ("code",), [Part(Shift("overlay", 0.5), N)], seed=0)
    made = Recorder(babbler(root / "policy", "no_tools"), root, root / "stream" / "tasks.jsonl", N)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "BLOCK", 2)
        made.record(int)
        yield made


def test_every_question_is_answered_in_every_way(recorder: Recorder) -> None:
    for way in WAYS:
        found = read(recorder.root, way, N)
        assert list(found) == [recorder.task(i).id for i in range(N)]
        for some in found.values():
            assert len(some) == (COUNT if way == "sampled" else 1)
            assert all(0 <= sureness(one) <= 1 for one in some)
            assert way != "tool_free" or all(turn.call is None for turn in some[0].turns)


def test_what_is_stored_is_not_played_again(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "_play", None)
    seen: list[int] = []
    recorder.record(seen.append)
    assert seen == [2, 3]


def test_all_arms_are_counted_on_them_the_same_each_time(recorder: Recorder, tmp_path: Path) -> None:
    keys = read_keys(recorder.root / "key.jsonl")
    one, other = (count(recorder, keys, tmp_path / name, Attack(0.5, 0.5), Votes().settings()) for name in "ab")
    assert {name: found.pack() for name, found in one.items()} == {name: found.pack() for name, found in other.items()}
