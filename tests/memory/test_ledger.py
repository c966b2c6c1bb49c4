"""The ledger: what was written is read back, lost steps do not count, what is lost or used twice is found."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.memory.ledger import Account, Began, Entry, Ledger, Place, Stepped, Stored, account, lineage, survives
from pixelis.memory.replay import Record, RecordId


def record(number: int, version: tuple[int, int] = (0, 0)) -> Record:
    """Two questions, a trajectory each."""
    return Record("p", number, (2 * number, 2 * number + 1), version, 2, 2)


def at(number: int) -> RecordId:
    """Records go to two shards in turns."""
    return number % 2, number // 2


def stored(number: int) -> Stored:
    return Stored(at(number))


def stepped(epoch: int, step: int, number: int, uniform: bool = False) -> Stepped:
    """A step that took one record, both trajectories or only the first."""
    if uniform:
        return Stepped(epoch, step, ((at(number), 0),), {"uniform": ((at(number), 1),)})
    return Stepped(epoch, step, ((at(number), 0), (at(number), 1)))


def lost(number: int, *members: int) -> dict[str, tuple[Place, ...]]:
    return {"lost weights": tuple((at(number), k) for k in members)}


RECORDS = {at(n): record(n) for n in range(4)}
WHOLE: list[Entry] = [
    Began((0, 0), 0), *map(stored, range(3)), stepped(0, 1, 0), stepped(0, 2, 1, uniform=True), stored(3),
]  # fmt: skip


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(*WHOLE[:3])
    ledger.write()
    ledger.write(*WHOLE[3:], Began((1, 2), 2, lost(2, 0)))
    ledger.close()
    again = Ledger(tmp_path)
    assert again.entries == ledger.entries and len(again.entries) == len(WHOLE) + 1
    assert (again.epoch(0), again.epoch(7)) == (2, 7)


def test_every_trajectory_stands_once() -> None:
    assert account(RECORDS, WHOLE, once=True) == Account(8, 3, {"uniform": 1}, 4)
    assert account(RECORDS, WHOLE, once=True).balanced
    assert account({}, [], once=True).balanced


def test_what_stood_in_is_counted_and_may_do_so_once() -> None:
    entries = [*WHOLE, replace(stepped(0, 3, 2), stood_in=("a", "b"))]
    found = account(RECORDS, entries, once=True)
    assert found.balanced and (found.trained, found.stood_in) == (5, 2)
    twice = account(RECORDS, [*entries, replace(stepped(0, 4, 3), stood_in=("b",))], once=True)
    assert twice.wrong == ("b stood in 2 times",)


def test_steps_after_the_checkpoint_that_a_later_epoch_goes_on_from_are_void() -> None:
    entries = [*WHOLE, Began((1, 1), 1, lost(3, 0, 1)), stepped(1, 2, 1)]
    assert [e.step for e in lineage(entries) if isinstance(e, Stepped)] == [1, 2]
    found = account(RECORDS, entries, once=True)
    assert found == Account(8, 4, {"lost weights": 2}, 2)


def test_weights_survive_when_no_later_epoch_began_before_them() -> None:
    entries = [Began((0, 0), 0), Began((1, 40), 40), Began((3, 30), 30)]
    versions = [(0, 30), (0, 31), (1, 30), (1, 41), (3, 90)]
    assert [survives(v, entries) for v in versions] == [True, False, True, False, True]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([*WHOLE, stored(4)], r"record \(0, 2\) was acknowledged and is lost"),
        ([*WHOLE, stepped(0, 3, 0)], r"\(\(0, 0\), 0\) was trained 2 times"),
        ([*WHOLE, Began((1, 2), 2, lost(0, 1))], r"\(\(0, 0\), 1\) was trained and dropped"),
        ([*WHOLE, stepped(0, 3, 3)], r"record \(0, 1\) .* was passed over"),
        ([*WHOLE, stepped(0, 4, 2)], r"steps \[1, 2, 4\] do not follow"),
        ([*WHOLE, Began((1, 2), 2), stepped(1, 2, 2)], r"steps \[1, 2, 2\] do not follow"),
        ([*WHOLE, Stepped(0, 3, ((at(2), 2),))], r"\(\(0, 1\), 2\) is in the ledger and in no shard"),
    ],
)
def test_what_is_wrong_is_named(entries: list[Entry], said: str) -> None:
    found = account(RECORDS, entries, once=True)
    assert not found.balanced
    assert any(re.search(said, line) for line in found.wrong), found.wrong


def test_demonstrations_may_train_again_and_again() -> None:
    entries = [Began((0, 0), 0), stepped(0, 1, 0), stepped(0, 2, 0, uniform=True), stepped(0, 3, 2)]
    assert account(RECORDS, entries, once=False) == Account(8, 4, {}, 4)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12))
def test_any_course_of_interruptions_balances(course: list[tuple[int, bool]]) -> None:
    """A run that saves now and then and is cut off at random: what it writes down as `Loop` does always balances."""
    records: dict[RecordId, Record] = {}
    entries: list[Entry] = []
    epoch = saved = 0
    for steps, save in course:
        gone = {r for e in entries if isinstance(e, Began) for places in e.dropped.values() for r, _ in places}
        began = Began((epoch, saved), saved)
        ahead = [n for n, r in records.items() if n not in gone and r.indices[0] >= 2 * saved]
        void = [n for n in ahead if not survives(records[n].version, [*entries, began])]
        entries.append(Began(began.version, saved, {"lost weights": tuple((n, k) for n in void for k in range(2))}))
        kept = {records[n].indices[0] // 2: n for n in ahead if n not in void}
        for step in range(saved, saved + steps):
            if step not in kept:
                kept[step] = new = at(len(records))
                records[new] = Record("p", len(records), (2 * step, 2 * step + 1), (epoch, step), 2, 2)
                entries.append(Stored(new))
            entries.append(Stepped(epoch, step + 1, tuple((kept[step], k) for k in range(2))))
        saved, epoch = saved + steps * save, epoch + 1
    found = account(records, entries, once=True)
    assert found.balanced, found.wrong


def test_what_was_evicted_stands_where_it_stood_or_was_dropped_by_that() -> None:
    records = {id: replace(one, evicted="bytes") if one.seq in (0, 2) else one for id, one in RECORDS.items()}
    found = account(records, [*WHOLE, stepped(0, 3, 3)], once=True)
    assert found == Account(8, 5, {"uniform": 1, "evicted": 2}, 0) and found.balanced
