import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.tools.call import Failure, ToolCall, ToolFailure, ToolResult, parse_call, validate
from pixelis.tools.frame import View

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
LEAF = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | FLOAT | TEXT
VALUE = st.recursive(LEAF, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3), max_leaves=6)


@given(TEXT, st.dictionaries(TEXT, VALUE, max_size=4))
def test_calls_go_through_json(name: str, arguments: dict) -> None:
    call = ToolCall(name, arguments)
    assert parse_call(call.to_json()) == call
    assert parse_call(call.to_json()).to_json() == call.to_json()


@given(st.text(max_size=60))
def test_any_text_is_a_call_or_a_policy_failure(text: str) -> None:
    try:
        parse_call(text)
    except ToolFailure as failure:
        assert failure.cls == "policy" and failure.code in ("bad_json", "bad_call")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "bad_json"),
        ("[" * 100_000, "bad_json"),
        ('{"name":"ZOOM","arguments":{"box":[NaN]}}', "bad_json"),
        ('{"name":"ZOOM","arguments":{"box":[1e999]}}', "bad_json"),
        ('{"name":"ZOOM","arguments":{"on":"\\ud800"}}', "bad_json"),
        ('{"name":"ZOOM","arguments":{"t":' + "9" * 5000 + "}}", "bad_json"),
        ("3", "bad_call"),
        ('{"name":"ZOOM"}', "bad_call"),
        ('{"name":1,"arguments":{}}', "bad_call"),
        ('{"name":"ZOOM","arguments":{},"more":1}', "bad_call"),
    ],
)
def test_what_is_no_call_is_named(text: str, code: str) -> None:
    with pytest.raises(ToolFailure) as caught:
        parse_call(text)
    assert (caught.value.cls, caught.value.code) == ("policy", code)


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("FLY", {}, "unknown_op"),
        ("ZOOM", {"on": "img0"}, "bad_args"),
        ("ZOOM", {"on": "img0", "box": [0, 0, 10]}, "bad_args"),
        ("ZOOM", {"on": "img0", "box": [10, 0, 10, 9]}, "bad_args"),
        ("ZOOM", {"on": "img0", "box": [0, 0, 10.5, 9]}, "bad_args"),
        ("ZOOM", {"on": "img0", "box": [0, 0, "10", 9]}, "bad_args"),
        ("ZOOM", {"on": "img0", "box": [0, 0, True, 9]}, "bad_args"),
        ("ZOOM", {"on": "img0", "box": [0, 0, 10, 9], "x": 1}, "bad_args"),
        ("ZOOM", {"on": "img0", "box": [0, 0, 1001, 9]}, "box_out_of_range"),
        ("ZOOM", {"on": "img0", "box": [-1, 0, 10, 9]}, "box_out_of_range"),
        ("SEG", {"on": "img0"}, "bad_args"),
        ("SEG", {"on": "img0", "point": [1, 2], "text": "cat"}, "bad_args"),
        ("SEG", {"on": "img0", "point": [1, 2000]}, "box_out_of_range"),
        ("TRK", {"on": "img0", "box": [0, 0, 9, 9], "init": "m1", "t0": 0}, "bad_args"),
        ("TRK", {"on": "img0", "box": [0, 0, 9, 9], "t0": 9, "t1": 3}, "bad_args"),
        ("OCR", {"on": "img0", "level": "word"}, "bad_args"),
        ("TEMP", {"on": "img0"}, "bad_args"),
        ("TEMP", {"on": "img0", "window": [9, 3]}, "bad_args"),
        ("TEMP", {"on": "img0", "window": [0, 3], "k": 9}, "bad_args"),
        ("PROP", {"of": "m1", "keys": []}, "bad_args"),
        ("PROP", {"of": "m1", "keys": ["beauty"]}, "bad_args"),
        ("PROP", {"of": "m1", "keys": ["distance"]}, "bad_args"),
    ],
)
def test_arguments_are_checked(name: str, arguments: dict, code: str) -> None:
    with pytest.raises(ToolFailure) as caught:
        validate(ToolCall(name, arguments))
    assert (caught.value.cls, caught.value.code) == ("policy", code)


def test_observations_are_compact() -> None:
    good = ToolResult(True, "SEG", "m1", {"box": [1, 2, 3, 4]})
    assert good.observation() == '{"ok":true,"ref":"m1","data":{"box":[1,2,3,4]}}'
    assert ToolResult(True, "OCR", data={"text": "Gläser"}).observation() == '{"ok":true,"data":{"text":"Gläser"}}'
    bad = ToolResult(False, "OCR", failure=Failure("tool", "no_text", "score 0.1"))
    assert bad.observation() == '{"ok":false,"error":"no_text"}'


def test_the_digest_sees_everything_but_time() -> None:
    def result(**change: object) -> ToolResult:
        base: dict = {
            "ok": True, "op": "SEG", "ref": "m1", "data": {"area": 3}, "shown": ("img1",), "tool": "a@1", "ms": 1.0,
            "views": (View("ab", (0, 0, 4, 4)),), "payloads": ("cd",),
        }  # fmt: skip
        return ToolResult(**{**base, **change})

    same = result().digest()
    assert result(ms=99.0).digest() == same
    changes: list[dict] = [
        {"ref": "m2"}, {"data": {"area": 4}}, {"shown": ()}, {"tool": "a@2"}, {"payloads": ("ce",)},
        {"views": (View("ab", (0, 0, 4, 5)),)}, {"ok": False, "failure": Failure("tool", "no_segment")},
    ]  # fmt: skip
    assert len({same} | {result(**c).digest() for c in changes}) == 1 + len(changes)


def test_results_go_through_json() -> None:
    for result in (
        ToolResult(True, "ZOOM", "img1", {}, ("img1",), None, "z@1", 2.5, (View("ab", (0, 0, 4, 4), 3),), ("x",)),
        ToolResult(False, "OCR", failure=Failure("tool", "no_text", "why")),
    ):
        back = ToolResult.from_dict(json.loads(json.dumps(result.to_dict())))
        assert back == result and back.digest() == result.digest()


def test_a_failure_crosses_processes() -> None:
    back = pickle.loads(pickle.dumps(ToolFailure("tool", "no_text", "score 0.2")))
    assert (back.cls, back.code, back.message, str(back)) == ("tool", "no_text", "score 0.2", "tool no_text: score 0.2")


def test_a_message_is_one_line_whatever_it_quotes() -> None:
    for key in ("w\ndow", "a\u2028b", "x" * 9000):
        with pytest.raises(ToolFailure) as caught:
            validate(ToolCall("ZOOM", {"on": "img0", "box": [0, 0, 9, 9], key: 1}))
        assert len(caught.value.message.splitlines()) == 1 and len(caught.value.message) <= 300
