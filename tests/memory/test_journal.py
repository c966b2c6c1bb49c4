"""The journal: what was written is there, and whatever is done to the file afterwards shows, with its line."""

import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from pixelis.memory import journal as module
from pixelis.memory.journal import (
    KINDS,
    START,
    Abstained,
    Accepted,
    Discarded,
    Frozen,
    Journal,
    JournalError,
    Judgement,
    RolledBack,
    read,
    verify,
)
from pixelis.memory.log import LogError

JUDGED = Judgement("t3", (0, 4), {"answer": "K7P", "scores": [0.1, 1 / 3]}, {"refusals": []})
ENTRIES = [
    Abstained(replace(JUDGED, decision={"refusals": [{"gate": "margin", "value": 0.125, "bound": 0.3}]})),
    Accepted(1, (JUDGED, JUDGED), ("r0/t3/0", "r0/t3/1"), 0.11, 0.13, 0.3, 0.02, "w0", "w1", {"loss": 0.5}),
    Discarded(2, (JUDGED,), ("r0/t4/0",), 0.13, None, 0.3, 0.02, "w1", "w1"),
    RolledBack("canary 0.71 after 0.76", 0, "w1", "w0", {"canary": 0.71}),
    Frozen("canary: größer", 0, "w0"),
    Abstained(JUDGED),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with all kinds of entries."""
    journal = Journal(tmp_path / "journal.jsonl")
    for entry in ENTRIES:
        journal.write(entry)
    journal.close()
    return tmp_path / "journal.jsonl"


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def put(path: Path, some: list[bytes]) -> Path:
    path.write_bytes(b"".join(some))
    return path


def rehashed(line: bytes, **changed: object) -> bytes:
    """A line as one would forge it: with a hash that fits its new content."""
    raw = {**json.loads(line), **changed}
    again = module._line(raw["number"], raw["time"], module._entry(raw["kind"], raw["entry"]), raw["before"])
    return module._dumps(again) + b"\n"


def test_what_was_written_is_read_back(path: Path) -> None:
    found = list(read(path))
    assert [line.entry for line in found] == ENTRIES and {type(e) for e in ENTRIES} == set(KINDS.values())
    assert [line.number for line in found] == list(range(6)) and verify(path) is None
    assert [line.before for line in found] == [START, *(line.hash for line in found[:-1])]
    assert all(before.time <= after.time for before, after in pairwise(found))


def test_it_is_gone_on_with_where_it_ended(path: Path) -> None:
    journal = Journal(path)
    assert len(journal) == 6 and journal.head == list(read(path))[-1].hash
    head = journal.write(ENTRIES[0])
    journal.close()
    assert len(lines(path)) == 7 and verify(path) is None and verify(path, head) is None


def test_one_process_writes_at_a_time(path: Path) -> None:
    journal = Journal(path)
    with pytest.raises(LogError, match="another process"):
        Journal(path)
    journal.close()
    Journal(path).close()


@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_changed_line_is_named_whatever_its_byte(path: Path, at: int) -> None:
    whole = lines(path)
    draw = random.Random(at)
    for _ in range(60):
        line = bytearray(whole[at])
        place = draw.randrange(len(line) - 1)
        line[place] = draw.choice([b for b in range(256) if b not in (line[place], 10)])
        put(path, [*whole[:at], bytes(line), *whole[at + 1 :]])
        assert verify(path) == f"line {at + 1}: changed: its hash is not the one of its content"
        with pytest.raises(JournalError, match=f"line {at + 1}: changed"):
            list(read(path))


def test_a_line_that_says_the_same_in_other_words_was_changed(path: Path) -> None:
    whole = lines(path)
    spaced = json.dumps(json.loads(whole[1])).encode() + b"\n"
    assert verify(put(path, [whole[0], spaced, *whole[2:]])) == "line 2: changed: its hash is not the one of its content"


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"number":NaN}', b"x" * 70_000])
def test_what_is_no_line_at_all_is_named(path: Path, text: bytes) -> None:
    whole = lines(path)
    assert (verify(put(path, [*whole[:3], text + b"\n", *whole[3:]])) or "").startswith("line 4: changed")


def test_a_forged_line_is_named_by_the_one_after_it(path: Path) -> None:
    whole = lines(path)
    raw = json.loads(whole[1])["entry"]
    forged = rehashed(whole[1], entry={**raw, "kl_after": 0.01})
    assert verify(put(path, [whole[0], forged, *whole[2:]])) == "line 2: replaced: line 3 was not written after it"
    other = rehashed(whole[0], before="1" * 64)
    assert verify(put(path, [other, *whole[1:]])) == "line 1: replaced: it says that another stood before it"


@pytest.mark.parametrize("at", range(5))
def test_a_removed_line_is_named(path: Path, at: int) -> None:
    whole = lines(path)
    stands = f"line {at + 1}: not there: in its place stands what was written as line {at + 2}"
    assert verify(put(path, whole[:at] + whole[at + 1 :])) == stands


def test_lines_put_elsewhere_or_twice_are_named(path: Path) -> None:
    a, b, c, d, *rest = lines(path)
    assert verify(put(path, [a, c, b, d, *rest])) == "line 2: not there: in its place stands what was written as line 3"
    assert verify(put(path, [a, b, b, c, d, *rest])) == "line 3: not there: in its place stands what was written as line 2"


def test_lines_cut_off_the_end_show_when_the_last_hash_is_known(path: Path) -> None:
    whole = lines(path)
    head = json.loads(whole[-1])["hash"]
    assert verify(put(path, whole[:4])) is None
    assert verify(path, head) == f"line 5: missing, with all up to the one with the hash {head}"
    assert verify(path, json.loads(whole[2])["hash"]) is None, "an older checkpoint's"
    assert verify(put(path, []), START) is None and (verify(path, head) or "").startswith("line 1: missing")


@pytest.mark.parametrize("end", [b"", b'{"before"', b"\x00" * 5000])
def test_what_a_crash_tore_off_is_dropped(path: Path, end: bytes, caplog: pytest.LogCaptureFixture) -> None:
    whole = lines(path)
    torn = whole[5][:-1] if not end else whole[5][:20] + end
    put(path, [*whole[:5], torn])
    assert verify(path) is None and len(list(read(path))) == 5
    journal = Journal(path)
    assert "torn last line" in caplog.text and len(journal) == 5
    journal.write(ENTRIES[3])
    journal.close()
    assert [line.entry for line in read(path)] == [*ENTRIES[:5], ENTRIES[3]] and verify(path) is None
    assert path.read_bytes().endswith(b"}\n"), "nothing of it is left behind the new line"


def test_every_length_that_a_crash_can_leave_is_a_journal(path: Path) -> None:
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        assert verify(path) is None and len(list(read(path))) == sum(end <= length for end in ends)


def test_a_tampered_journal_is_not_written_on(path: Path) -> None:
    whole = lines(path)
    put(path, [*whole[:2], *whole[3:]])
    before = path.read_bytes()
    for _ in range(2):  # and it lets go of its lock
        with pytest.raises(JournalError, match=r"journal\.jsonl: line 3: not there"):
            Journal(path)
    assert path.read_bytes() == before


def test_a_full_disk_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(path)
    real = module.os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if offset > journal._end:
            raise OSError(28, "No space left on device")
        return real(fd, bytes(data)[:30], offset)

    with monkeypatch.context() as m:
        m.setattr(module.os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            journal.write(ENTRIES[0])
    assert len(list(read(path))) == 6
    journal.write(ENTRIES[1])
    journal.close()
    assert [line.entry for line in read(path)] == [*ENTRIES, ENTRIES[1]]


@pytest.mark.parametrize("figures", [{"kl": float("nan")}, {"kl": float("inf")}, {2: 0.5, 10: 0.5}])
def test_what_json_would_not_give_back_is_refused(path: Path, figures: dict) -> None:
    journal = Journal(path)
    with pytest.raises(ValueError, match="JSON"):
        journal.write(Frozen("canary", 0, "w0", figures))
    journal.write(ENTRIES[4])
    journal.close()
    assert len(list(read(path))) == 7


def test_a_line_is_synced_before_write_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, synced = Journal(path), []
    monkeypatch.setattr(module.os, "fsync", lambda fd: synced.append(len(path.read_bytes())))
    journal.write(ENTRIES[0])
    assert synced == [len(path.read_bytes())]
    journal.close()
