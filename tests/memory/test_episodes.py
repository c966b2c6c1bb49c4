import logging
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from remembering import PIXELS, TEXT, keys, query, row, sha, similarity

from pixelis.memory import episodes
from pixelis.memory.codec import CodecError
from pixelis.memory.episodes import EpisodeShard
from pixelis.memory.log import LogError
from pixelis.memory.remembered import Keys, encode, from_table, to_table
from pixelis.memory.select import POOL, RecallSettings

ALL = RecallSettings(least=-9, count=4)


@pytest.fixture
def opened(tmp_path):
    """Opens the shard of this test, closing the one opened before."""
    shards = []

    def open_shard(**given):
        if shards:
            shards.pop().close()
        shards.append(EpisodeShard(tmp_path / "shard", **given))
        return shards[-1]

    yield open_shard
    shards.pop().close()


def found(shard, asked, told=ALL):
    return [hit.item.id for hit in shard.search([asked], told)[0].hits]


def stored(shard):
    return [item.id for table in shard.tables() for item in from_table(table)]


def data_of(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_the_index_finds_what_an_exact_search_finds_and_does_after_reopening(opened):
    """Of 2 000 rows, by either part's weight: the same episodes in the same order, also of an index built from the log."""
    rows = [row(n) for n in range(2000)]
    shard = opened()
    for start in range(0, 2000, 300):
        shard.add(rows[start : start + 300])
    for again in (False, True):
        shard = opened() if again else shard
        for weights in ({}, {"text": 1.0, "pixels": 0.0}, {"text": 0.1, "pixels": 0.9}):
            told = RecallSettings(least=-9, count=8, **weights)
            for number in range(20):
                asked = keys(5000 + number)
                exact = sorted(rows, key=lambda one: -similarity(asked, one[1], told))[: 8 * POOL]
                hits = shard.search([query(asked)], told)[0].hits
                assert [hit.item for hit in hits] == [item for item, _ in exact]
                for hit, (_, theirs) in zip(hits, exact, strict=True):
                    assert hit.similarity == pytest.approx(similarity(asked, theirs, told), abs=1e-5)
                    assert hit.text == pytest.approx(asked.text @ theirs.text, abs=1e-5)
                    assert hit.pixels == pytest.approx(asked.pixels @ theirs.pixels, abs=1e-5)


def test_stored_once_whoever_sends_it_again(opened):
    shard = opened()
    assert shard.add([row(0), row(1), row(0)]) == 2
    assert shard.add(encode(to_table([row(1), row(2)]))) == 1
    shard = opened()
    assert shard.add([row(2), row(0)]) == 0 and len(shard) == 3
    assert stored(shard) == ["episode0", "episode1", "episode2"]
    assert shard.stats()["duplicates"] == 2
    assert shard.read(["episode2", "gone"]) == {"episode2": row(2)[0]}


def test_what_is_not_similar_enough_is_dropped(opened):
    shard = opened()
    shard.add([row(n) for n in range(200)])
    asked = keys(999)
    hits = shard.search([query(asked)], RecallSettings(least=0.3, count=30))[0].hits
    close = [item for item, theirs in map(row, range(200)) if similarity(asked, theirs, RecallSettings()) >= 0.3]
    assert 0 < len(hits) == len(close) < 60


def test_the_querys_own_never_come_back(opened):
    """Neither what shares a medium, whatever its keys, nor what has its keys, whatever its medium."""
    shard = opened()
    asked = keys(7)
    slight = np.zeros(PIXELS)
    slight[0] = 0.02
    twin = Keys(asked.text, asked.pixels + slight, "v", "r")
    shard.add([row(n) for n in range(20)])
    shard.add([(row(50)[0], twin), (row(51, media=(sha(70), sha(3)))[0], keys(51))])
    part = shard.search([query(asked, (sha(3),))], RecallSettings(least=-9, count=30))[0]
    left = {f"episode{n}" for n in range(20) if n not in (3, 7)}
    assert {hit.item.id for hit in part.hits} == left and part.own == 4
    half = Keys(asked.text, keys(60).pixels, "v", "r")  # the same question about another picture is no leak
    shard.add([(row(60)[0], half)])
    assert "episode60" in found(shard, query(asked), RecallSettings(least=-9, count=30))


def test_what_later_weights_led_to_is_not_there_and_takes_nobodys_place(opened):
    """A run that goes on from a checkpoint finds what one that was never interrupted finds, whatever the lost steps left."""
    shard, asked = opened(), keys(7)
    older = [row(n, version=(0, n % 5)) for n in range(40)]
    shard.add(older)
    whole = found(shard, query(asked))
    shard.add([row(n, version=(0, 5)) for n in range(40, 400)])
    shard.add([(row(500, version=(0, 6))[0], keys(7, near=0.05))])
    assert found(shard, query(asked)) != whole and found(opened(), replace(query(asked), before=5)) == whole


def test_of_near_duplicates_one_comes_back_however_many_there_are(opened):
    shard = opened()
    shard.add([row(n) for n in range(6)])
    asked = keys(1, near=0.05)
    close = keys(1)
    shard.add([(row(n)[0], Keys(close.text, close.pixels + 1e-4 * keys(n).pixels, "v", "r")) for n in range(100, 400)])
    told = RecallSettings(least=-9, count=6, duplicate=0.9999)
    names = found(shard, query(asked), told)
    assert len(names) == 6 and sum(int(name[7:]) in (1, *range(100, 400)) for name in names) == 1


def test_answers_that_cannot_be_compared_are_not_found(opened):
    shard = opened()
    shard.add([row(0), row(1, kind="number"), row(2, kind="choice", question="A or  B?"), row(3, kind="choice", question="A?")])
    assert found(shard, query(keys(9))) == ["episode0"]
    assert found(shard, query(keys(9), kind="number")) == ["episode1"]
    assert found(shard, query(keys(9), kind="choice", question="a or b?")) == ["episode2"]


def test_rows_of_other_weights_are_left_out_and_counted(opened):
    shard = opened()
    shard.add([row(0), row(1)])
    shard.add([row(2, vision="other")])
    for again in (False, True):
        shard = opened() if again else shard
        for vision, names, foreign in (("v", {"episode0", "episode1"}, 1), ("other", {"episode2"}, 2), ("new", set(), 3)):
            part = shard.search([query(keys(9, vision))], ALL)[0]
            assert {hit.item.id for hit in part.hits} == names and part.foreign == foreign


def test_keys_that_do_not_fit_are_refused_and_nothing_is_stored(opened):
    shard = opened()
    with pytest.raises(CodecError, match="not an Arrow stream"):
        shard.add(b"junk")
    with pytest.raises(ValueError, match="keys of 2 spaces in one call"):
        shard.add([row(0), row(1, vision="other")])
    shard.add([row(0)])
    narrow = Keys(np.ones(2), np.ones(3), "v", "r")
    with pytest.raises(ValueError, match=r"keys of 2 \+ 3 numbers, where those of this space have 6 \+ 10"):
        shard.add([(row(1)[0], narrow)])
    with pytest.raises(ValueError, match=r"keys of 2 \+ 3 numbers for episodes with 6 \+ 10"):
        shard.search([query(narrow)], ALL)
    assert stored(opened()) == ["episode0"]


def test_what_is_forgotten_leaves_no_bytes(opened, tmp_path):
    """Neither text, nor keys, nor the hash of the medium, in any file; it cannot be stored again; all else is there."""
    shard = opened(segment_bytes=4000)
    for n in range(30):
        shard.add([row(n), row(100 + n, media=(sha(5), sha(100 + n)))] if n < 3 else [row(n)])
    gone = [row(5), *(row(100 + n) for n in range(3))]
    traces = [bytes.fromhex(sha(5)), sha(5).encode()]
    for item, made in gone:
        traces += [item.id.encode(), item.question.encode(), item.answer.encode(), item.looks[0].text.encode()]
        traces += [made.text.tobytes(), made.pixels.tobytes()]
    assert all(trace in data_of(tmp_path) for trace in traces[1:])
    assert shard.forget([sha(5)]) == 4 and shard.forget([sha(5), sha(999)]) == 0
    for again in (False, True):
        shard = opened() if again else shard
        assert not any(trace in data_of(tmp_path) for trace in traces)
        assert stored(shard) == [f"episode{n}" for n in range(30) if n != 5]
        assert shard.add([row(5), row(200, media=(sha(5),))]) == 0
        assert not {item.id for item, _ in gone} & set(found(shard, query(gone[0][1]), RecallSettings(least=-9, count=50)))
        assert shard.verify() == [] and shard.stats()["forgotten"] == 2
    assert shard.add([row(31)]) == 1


@pytest.mark.parametrize("moment", ["tombstone", "half", "named"])
def test_killed_while_forgetting_it_is_forgotten_all_the_same(tmp_path, moment, monkeypatch):
    """After the tombstone, in the middle of the new log, or before the old one is deleted."""
    shard = EpisodeShard(tmp_path / "a")
    shard.add([row(n) for n in range(5)])

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    if moment == "tombstone":
        monkeypatch.setattr(EpisodeShard, "_compact", die)
    elif moment == "half":
        monkeypatch.setattr(episodes, "replace_file", die)
    else:
        monkeypatch.setattr(EpisodeShard, "_open", die)
    with pytest.raises(Killed):
        shard.forget([sha(2)])
    monkeypatch.undo()
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # what a killed process leaves behind
    shard = EpisodeShard(tmp_path / "b")
    assert stored(shard) == ["episode0", "episode1", "episode3", "episode4"]
    assert row(2)[0].question.encode() not in data_of(tmp_path / "b")
    assert len(list((tmp_path / "b").glob("log-*"))) == 1
    shard.close()


def test_a_full_disk_while_forgetting_hides_it_until_there_is_room(tmp_path, monkeypatch):
    shard, real = EpisodeShard(tmp_path), os.pwrite
    shard.add([row(n) for n in range(5)])
    calls = []

    def full(fd, data, offset):
        calls.append(offset)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        shard.forget([sha(2)])
    with pytest.raises(OSError, match="No space left"):
        shard.add([row(9)])
    monkeypatch.undo()
    rest = ["episode0", "episode1", "episode3", "episode4"]
    assert sorted(found(shard, query(keys(77)), RecallSettings(least=-9, count=9))) == rest == stored(shard)
    assert shard.forget([sha(2)]) == 1 and row(2)[0].question.encode() not in data_of(tmp_path)
    shard.close()


@pytest.mark.slow
def test_a_thousand_truncations_and_bit_flips(tmp_path, caplog):
    """Whatever is cut off or changed: each row that is told was stored, is there once, in order; else the shard says where."""
    caplog.set_level(logging.ERROR)
    rows = [row(n) for n in range(12)]
    shard = EpisodeShard(tmp_path / "whole", segment_bytes=9000)
    ends = []
    for start in range(0, 12, 2):
        shard.add(rows[start : start + 2])
        ends.append(sum(p.stat().st_size for p in (tmp_path / "whole" / "log-0").glob("*.log")))
    shard.close()
    paths = sorted((tmp_path / "whole" / "log-0").glob("*.log"))
    assert len(paths) > 1
    whole = {path.name: path.read_bytes() for path in paths}
    names, rng, refused, cut = list(whole), random.Random(0), 0, 0
    for number in range(1000):
        root = tmp_path / "hurt"
        log = root / "log-0"
        log.mkdir(parents=True, exist_ok=True)
        for path in [*log.glob("*.log"), *log.glob("mark")]:  # as after a power cut, which may take the mark
            path.unlink()
        hurt = dict(whole)
        name = rng.choice(names)
        at = rng.randrange(len(whole[name]))
        if number % 2:
            hurt[name] = whole[name][:at] + bytes([whole[name][at] ^ 1 << rng.randrange(8)]) + whole[name][at + 1 :]
        else:
            hurt[name] = whole[name][:at]
        for other, data in hurt.items():
            (log / other).write_bytes(data)
        try:
            shard = EpisodeShard(root)
        except LogError as e:
            refused += 1
            assert name in str(e) and "damaged record at byte" in str(e)
            continue
        cut += 1
        before = [f"episode{n}" for n in range(12)]
        told = stored(shard)
        lost = sum(len(data) for other, data in whole.items() if other > name) if number % 2 == 0 and name != names[-1] else 0
        assert lost == 0 and told == before[: len(told)] and len(told) % 2 == 0
        place = sum(len(data) for other, data in whole.items() if other < name) + at
        assert len(told) == 2 * sum(end <= place for end in ends)  # all that ended before the damage
        assert shard.add(rows) == 12 - len(told) and stored(shard) == before
        assert number % 10 or shard.verify() == []
        shard.close()
    assert refused > 100 and cut > 100


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_history_ends_as_a_plain_list_would(tmp_path_factory, data):
    """Adding, forgetting and reopening in any order: the shard holds what a list holds, and finds what it finds."""
    root: Path = tmp_path_factory.mktemp("history")
    shard, kept, banned = EpisodeShard(root, segment_bytes=5000), [], set()
    for _ in range(data.draw(st.integers(1, 8))):
        step = data.draw(st.sampled_from(["add", "add", "forget", "reopen"]))
        if step == "add":
            some = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=6))
            shard.add([row(n, media=(sha(n % 7),)) for n in some])
            kept += [n for n in dict.fromkeys(some) if n not in kept and n % 7 not in banned]
        elif step == "forget":
            gone = data.draw(st.integers(0, 6))
            assert shard.forget([sha(gone)]) == sum(n % 7 == gone for n in kept)
            banned.add(gone)
            kept = [n for n in kept if n % 7 != gone]
        else:
            shard.close()
            shard = EpisodeShard(root, segment_bytes=5000)
    assert stored(shard) == [f"episode{n}" for n in kept] and shard.verify() == []
    asked = keys(99)
    best = sorted(kept, key=lambda n: -similarity(asked, keys(n), ALL))[: ALL.count * POOL]
    assert found(shard, query(asked)) == [f"episode{n}" for n in best]
    shard.close()


def test_verify_tells_an_index_that_is_not_what_the_log_says(opened):
    shard = opened()
    shard.add([row(n) for n in range(50)])
    assert shard.verify() == []
    [index] = shard._indexes.values()
    index.flat.remove_ids(np.array([3, 4]))
    index.flat.add(np.array([keys(900).joined, keys(901).joined]))
    assert any("of what an exact search finds" in line for line in shard.verify())
    log = next((shard.root / "log-0").glob("*.log"))
    log.write_bytes(log.read_bytes().replace(b"episode7", b"episodeX"))
    assert any("record 0" in line and "damaged record at byte 0" in line for line in shard.verify())


def test_an_empty_shard_and_a_busy_one(opened):
    shard = opened()
    assert shard.search([query(keys(0))], ALL)[0].hits == () and shard.verify() == [] and len(shard) == 0
    assert shard.add([]) == 0 and shard.forget([]) == 0 and shard.stats()["rows"] == 0
    with pytest.raises(LogError, match="another process writes this log"):
        EpisodeShard(shard.root)
    with pytest.raises(ValueError, match=r"'photo.jpg' is no sha256"):
        shard.forget(["photo.jpg"])
    assert TEXT + PIXELS == 16
