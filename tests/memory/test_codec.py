import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import group
from strategies import groups

from pixelis.memory.codec import SCHEMA, CodecError, decode, encode
from pixelis.memory.trajectory import Group, Trajectory, Turn
from pixelis.tools.call import ToolCall


@settings(max_examples=40)
@given(st.lists(groups(), max_size=3))
def test_round_trip_is_exact(batch):
    assert decode(encode(batch)) == batch


def test_neighbours_of_one_task_stay_two_groups():
    assert decode(encode([group(1), group(1)])) == [group(1), group(1)]


def test_a_call_that_is_no_sound_unicode_is_kept():
    turn = Turn((1,), (2,), (-1.0,), call=ToolCall("OCR", {"on": "\ud800"}))
    kept = Group("t", (Trajectory("a", "t", "?", (), (turn,)),))
    assert decode(encode([kept])) == [kept]


def test_another_format_version_is_one_clear_error():
    table = pa.ipc.open_stream(encode([group(1)])).read_all()
    sink = pa.BufferOutputStream()
    newer = table.replace_schema_metadata({"pixelis.groups": "3"})
    with pa.ipc.new_stream(sink, newer.schema) as writer:
        writer.write_table(newer)
    with pytest.raises(CodecError, match="groups of format 3; this version reads format 2"):
        decode(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("data", [b"", b"hello", encode([group(1)])[:200]])
def test_foreign_bytes_are_one_clear_error(data):
    with pytest.raises(CodecError, match=f"not an Arrow stream of groups \\({len(data)} bytes\\)"):
        decode(data)


def test_any_arrow_library_can_read_it():
    table = pa.ipc.open_stream(encode([group(1), group(2)])).read_all()
    assert table.schema.equals(SCHEMA) and table["tokens"].to_pylist() == [[0, 1, 2, 1, 1], [0, 1, 2, 2, 1]]
