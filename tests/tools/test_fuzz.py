"""Random calls on odd and broken media: a typed result for each, and checks that see a wrong one."""

import random
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import fuzzer
from bench.fuzzer import Broken, Run, any_call, any_text, checked, checked_text, executed, valid, validated
from pixelis.tools.call import Failure, ToolCall, ToolFailure, ToolResult, validate
from pixelis.tools.frame import View
from pixelis.tools.handle import Handle
from pixelis.tools.toolbox import Toolbox
from tests.fakes_media import plate, png
from tests.tools.bench import Bench

SEED = st.integers(0, 2**63)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)
NAMES = st.sampled_from(
    ["on", "of", "to", "init", "box", "point", "neg", "text", "t0", "t1", "stride", "window", "k", "query", "keys", "more"]
)


@given(SEED)
@settings(max_examples=500)
def test_any_text_is_arguments_or_a_known_refusal(seed: int) -> None:
    assert re.fullmatch(r"ok|policy \w+", checked_text(any_text(random.Random(seed))))


@given(st.sampled_from(["SEG", "ZOOM", "TRK", "OCR", "TEMP", "PROP", "FLY"]), st.dictionaries(NAMES, JSON, max_size=5))
@settings(max_examples=500)
def test_any_arguments_are_valid_or_the_policys_fault(name: str, arguments: dict) -> None:
    try:
        validate(ToolCall(name, arguments))
    except ToolFailure as failure:
        assert failure.cls == "policy" and failure.code in fuzzer.KNOWN["policy"] and "\n" not in failure.message


@given(SEED)
@settings(max_examples=300)
def test_what_is_drawn_as_valid_is_valid(seed: int) -> None:
    validate(valid(random.Random(seed), None))


def test_the_same_seed_draws_the_same() -> None:
    first, second = Run(7), Run(7)
    assert first.data == second.data
    assert [any_call(first.rng) for _ in range(20)] != [any_call(Run(8).rng) for _ in range(20)]
    assert validated(3, 200).came == validated(3, 200).came


@pytest.mark.slow
def test_five_thousand_texts_and_a_thousand_calls_come_back_typed() -> None:
    texts, calls = validated(1, 5000), executed(1, 1000, deadline=60)
    assert texts.calls == 5000 and texts.came["ok"] > 1000
    assert calls.calls >= 1000 and calls.came["medium refused"] > 5
    came = {name for name in calls.came if name.endswith(" ok")}
    assert came == {"SEG ok", "ZOOM ok", "TRK ok", "OCR ok", "TEMP ok", "PROP ok"}


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda r: replace(r, data={"box": [5, 5, 5, 9]}), "box"),
        (lambda r: replace(r, data={"box": [5.0, 5, 6, 9]}), "box"),
        (lambda r: replace(r, data={"area": float("nan")}), "JSON|Out of range"),
        (lambda r: replace(r, data={"area": 1001}), "area"),
        (lambda r: replace(r, data={"text": "x" * 30_000}), "30"),
        (lambda r: replace(r, shown=("img7",)), "shown"),
        (lambda r: replace(r, views=()), "differ"),
        (lambda r: replace(r, failure=Failure("tool", "no_text")), "made something"),
        (lambda r: ToolResult(False, "SEG", failure=Failure("tool", "segfault")), "unknown refusal|made something"),
        (lambda r: replace(r, op="OCR"), "no result of this call"),
    ],
)
def test_a_wrong_result_is_seen(spoil: Callable[[ToolResult], ToolResult], what: str) -> None:
    bench, call = Bench(png(plate("K7P"))), ToolCall("SEG", {"on": "img0", "point": [360, 400]})
    result = bench.box.run(bench.workspace, call)
    assert checked(bench.workspace, call, result, 1) == "ok"
    with pytest.raises((Broken, ValueError), match=what):
        checked(bench.workspace, call, spoil(result), 1)


def test_a_view_outside_the_source_is_seen() -> None:
    bench, call = Bench(png(plate("K7P"))), ToolCall("ZOOM", {"on": "img0", "box": [0, 0, 500, 500]})
    result = bench.box.run(bench.workspace, call)
    wide = View(bench.workspace.source, (0, 0, 400, 10))
    bench.workspace.handles["img1"] = Handle("img1", "image", wide)
    with pytest.raises(Broken, match="outside"):
        checked(bench.workspace, call, replace(result, views=(wide,)), 1)


def test_what_breaks_is_told_as_a_command_without_what_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Toolbox.run

    def crash(self: Toolbox, workspace: object, call: ToolCall) -> ToolResult:
        if call.name == "OCR":
            raise ZeroDivisionError("division by zero")
        return run(self, workspace, call)  # type: ignore[arg-type]

    monkeypatch.setattr(Toolbox, "run", crash)
    with pytest.raises(Broken, match=r"ZeroDivisionError: division by zero\npython bench/fuzz.py --seed \d+ --calls") as caught:
        executed(5, 1000)
    assert str(caught.value).count('["') == 1 and '["OCR"' in str(caught.value)
