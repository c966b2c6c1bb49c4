import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import sha, text

from pixelis.memory.codec import CodecError
from pixelis.memory.look import Look, Region
from pixelis.memory.remembered import Keys, Remembered, decode, encode, from_table, keys_of, to_table

number = st.floats(0, 1000)
box = st.tuples(number, number, number, number)
region = st.builds(Region, box, st.none() | st.tuples(number, number))
look = st.builds(
    Look, st.sampled_from(["OCR", "ZOOM", "PROP"]), st.lists(region, max_size=2).map(tuple), st.booleans(), st.none() | text,
    st.dictionaries(text, st.floats(allow_nan=False, allow_infinity=False) | text, max_size=2), st.none() | st.floats(0, 1),
)  # fmt: skip
remembered = st.builds(
    Remembered, text, text, st.sampled_from(["text", "choice", "number"]), text, st.lists(sha, max_size=2).map(tuple),
    st.lists(look, max_size=3).map(tuple), st.integers(0, 9), text,
    st.dictionaries(text, st.floats(allow_nan=False, allow_infinity=False), max_size=3), text,
    st.tuples(st.integers(0, 9), st.integers(0, 2**40)),
)  # fmt: skip
keys = st.integers(0, 2**31).map(lambda seed: Keys(*np.random.default_rng(seed).normal(size=(2, 5)), "v", "r"))


@given(st.lists(st.tuples(remembered, keys), max_size=4))
def test_what_is_written_is_read_back(rows):
    table = decode(encode(to_table(rows)))
    assert from_table(table) == [item for item, _ in rows]
    if rows:
        found, pixels = keys_of(table)
        assert (found == [one.text for _, one in rows]).all() and (pixels == [one.pixels for _, one in rows]).all()


def test_keys_are_unit_vectors_of_one_precision():
    one = Keys(np.array([3, 4]), np.array([0.0, 2.0], np.float64), "v", "r")
    assert one.text.tolist() == pytest.approx([0.6, 0.8]) and one.pixels.tolist() == [0, 1]
    assert one.joined.dtype == np.float32 and one.space == ("v", "r")


@pytest.mark.parametrize("key", [np.zeros(3), np.array([1, np.nan]), np.array([np.inf, 1]), np.ones((2, 2)), np.zeros(0)])
def test_a_key_without_a_direction_is_refused(key):
    with pytest.raises(ValueError, match=r"a pixels key of shape .* has no direction"):
        Keys(np.ones(2), key, "v", "r")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kind": "poem"}, "answer type 'poem' is not one of"),
        ({"media": ("photo.jpg",)}, "medium 'photo.jpg' is no sha256"),
        ({"scores": {"margin": float("nan")}}, "a score is no number"),
    ],
)
def test_what_cannot_be_is_refused(given, told):
    with pytest.raises(ValueError, match=f"e1: {told}"):
        Remembered(**{"id": "e1", "question": "?", "kind": "text", "answer": "K", "media": ()} | given)


def test_foreign_bytes_are_refused():
    with pytest.raises(CodecError, match="not an Arrow stream of remembered episodes"):
        decode(b"junk")
    sink = pa.BufferOutputStream()
    table = pa.table({"id": ["a"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(CodecError, match="remembered episodes of format none; this version reads format 1"):
        decode(sink.getvalue().to_pybytes())


def test_keys_of_one_space_have_one_width():
    item = Remembered("e1", "?", "text", "K", ())
    with pytest.raises(CodecError, match="text_key of 2 and 3 numbers among rows of one space"):
        keys_of(to_table([(item, Keys(np.ones(n), np.ones(2), "v", "r")) for n in (2, 3)]))
