"""The ledger: what was written is read back, lost steps do not count, what is lost or used twice is found."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.memory.ledger import Account, Began, Entry, Ledger, Stepped, Stored, account, lineage, survives
from pixelis.memory.replay import Record


def record(number: int, version: tuple[int, int] = (0, 0)) -> Record:
    """Two questions, a trajectory each."""
    return Record("p", number, (2 * number, 2 * number + 1), version, 2, 2)


def stepped(epoch: int, step: int, number: int, uniform: bool = False) -> Stepped:
    """A step that took one record, both trajectories or only the first."""
    if uniform:
        return Stepped(epoch, step, ((number, 0),), {"uniform": ((number, 1),)})
    return Stepped(epoch, step, ((number, 0), (number, 1)))


RECORDS = [record(n) for n in range(4)]
WHOLE: list[Entry] = [
    Began((0, 0), 0), *map(Stored, range(3)), stepped(0, 1, 0), stepped(0, 2, 1, uniform=True), Stored(3),
]  # fmt: skip


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(*WHOLE[:3])
    ledger.write()
    ledger.write(*WHOLE[3:], Began((1, 2), 2, {"lost weights": ((2, 0),)}))
    ledger.close()
    again = Ledger(tmp_path)
    assert again.entries == ledger.entries and len(again.entries) == len(WHOLE) + 1
    assert (again.epoch(0), again.epoch(7)) == (2, 7)


def test_every_trajectory_stands_once() -> None:
    assert account(RECORDS, WHOLE, once=True) == Account(8, 3, {"uniform": 1}, 4)
    assert account(RECORDS, WHOLE, once=True).balanced
    assert account([], [], once=True).balanced


def test_steps_after_the_checkpoint_that_a_later_epoch_goes_on_from_are_void() -> None:
    entries = [*WHOLE, Began((1, 1), 1, {"lost weights": ((3, 0), (3, 1))}), stepped(1, 2, 1)]
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
        ([*WHOLE, Stored(4)], "record 4 was acknowledged and is lost"),
        ([*WHOLE, stepped(0, 3, 0)], r"\(0, 0\) was trained 2 times"),
        ([*WHOLE, Began((1, 2), 2, {"lost weights": ((0, 1),)})], r"\(0, 1\) was trained and dropped"),
        ([*WHOLE, stepped(0, 3, 3)], "record 2 .* was passed over"),
        ([*WHOLE, stepped(0, 4, 2)], r"steps \[1, 2, 4\] do not follow"),
        ([*WHOLE, Began((1, 2), 2), stepped(1, 2, 2)], r"steps \[1, 2, 2\] do not follow"),
        ([*WHOLE, Stepped(0, 3, ((2, 2),))], r"\(2, 2\) is in the ledger and not in the shard"),
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
    records: list[Record] = []
    entries: list[Entry] = []
    epoch = saved = 0
    for steps, save in course:
        gone = {r for e in entries if isinstance(e, Began) for places in e.dropped.values() for r, _ in places}
        began = Began((epoch, saved), saved)
        ahead = [n for n, r in enumerate(records) if n not in gone and r.indices[0] >= 2 * saved]
        lost = [n for n in ahead if not survives(records[n].version, [*entries, began])]
        entries.append(Began(began.version, saved, {"lost weights": tuple((n, k) for n in lost for k in range(2))}))
        kept = {records[n].indices[0] // 2: n for n in ahead if n not in lost}
        for step in range(saved, saved + steps):
            if step not in kept:
                kept[step] = len(records)
                records.append(Record("p", len(records), (2 * step, 2 * step + 1), (epoch, step), 2, 2))
                entries.append(Stored(kept[step]))
            entries.append(stepped(epoch, step + 1, kept[step]))
        saved, epoch = saved + steps * save, epoch + 1
    found = account(records, entries, once=True)
    assert found.balanced, found.wrong
