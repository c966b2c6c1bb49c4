"""What calls of a chain have to do with each other."""

import pytest

from pixelis.memory.chain import Step, composite, hops, redundant, repeated, steps
from pixelis.memory.trajectory import Trajectory, Turn
from pixelis.tools.call import ToolCall, ToolResult


def step(op: str, made: str | None = None, ok: bool = True, **arguments: object) -> Step:
    return Step.of(ToolCall(op, {"on": "img0", **arguments}), ToolResult(ok, op, made))


BOX = [100, 100, 500, 300]


@pytest.mark.parametrize(
    ("other", "same", "near"),
    [
        (step("OCR", box=BOX), True, True),
        (step("OCR", box=[100, 100, 505, 300]), True, True),
        (step("OCR", box=[100, 100, 420, 300]), False, True),
        (step("OCR", box=[600, 600, 900, 900]), False, False),
        (step("ZOOM", box=BOX), False, False),
        (step("OCR", box=BOX, level="line"), False, False),
        (step("OCR", box=BOX, on="img1"), False, False),
    ],
)
def test_the_same_call_again_is_known_by_its_place(other: Step, same: bool, near: bool) -> None:
    chain = [step("OCR", box=BOX), other]
    assert repeated(chain) == [False, same]
    assert redundant(chain) == [False, near]


def test_a_call_is_repeated_however_long_ago_it_was() -> None:
    look = step("TEMP", window=[200, 300], k=1)
    assert repeated([look, step("OCR", on="f1"), look]) == [False, False, True]


def test_arguments_that_are_no_arguments_are_no_reason_to_fail() -> None:
    odd = [step("OCR", box="everything"), step("OCR", box=[1, 2, 3]), step("??", point=[True, None]), step("OCR", box=[[1]])]
    assert repeated([*odd, *odd]) == [False] * 4 + [True] * 4


def test_a_hop_changes_the_operation_and_builds_on_nothing() -> None:
    zoom = step("ZOOM", made="img1", box=BOX)
    assert hops([zoom, step("OCR", on="img1")]) == [False]  # reads what was zoomed
    assert hops([zoom, step("OCR", box=[120, 120, 300, 250])]) == [False]  # looks where that looked
    assert hops([zoom, step("OCR", box=[700, 700, 900, 900])]) == [True]
    assert hops([zoom, step("ZOOM", box=[700, 700, 900, 900])]) == [False]


def test_composite_reasoning_needs_two_operations_that_worked_one_on_the_other() -> None:
    def told(*chain: tuple[str, str | None, bool, dict[str, object]]) -> bool:
        turns = [
            Turn((1,), (2,), (0.0,), call=ToolCall(op, given), result=ToolResult(ok, op, made)) for op, made, ok, given in chain
        ]
        return composite(Trajectory("a", "t", "?", (), tuple(turns)))

    zoom = ("ZOOM", "img1", True, {"on": "img0", "box": BOX})
    assert told(zoom, ("OCR", None, True, {"on": "img1"}))
    assert not told(zoom, ("OCR", None, False, {"on": "img1"}))
    assert not told(zoom, ("ZOOM", "img2", True, {"on": "img1", "box": BOX}))
    assert not told(zoom)


def test_steps_are_calls_in_order() -> None:
    turns = (Turn((1,), (2,), (0.0,), error="bad_json"), Turn((1,), (2,), (0.0,), call=ToolCall("OCR", {"on": "img0"})))
    assert [s.op for s in steps(Trajectory("a", "t", "?", (), turns))] == ["OCR"]
