import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelis.tools.call import OPS, OcrArgs, ToolCall, ToolFailure
from pixelis.tools.frame import View
from pixelis.tools.handle import Mask, Workspace
from pixelis.tools.tool import Made, Outcome
from pixelis.tools.toolbox import TRIES, Toolbox
from tests.fakes_media import BLUE, RED, avi, moving_square, plate, png
from tests.tools.bench import Bench, refusal

PLATE = [330, 360, 700, 600]


class Fake:
    """Counts its runs; does what `act` says."""

    id = "fake@1"

    def __init__(self, act: Any = lambda: Outcome({"n": 1})):
        self.runs = 0
        self.act = act

    def run(self, workspace: Workspace, args: Any, until: float) -> Outcome:
        self.runs += 1
        return self.act()


def fail(cls: Any, code: str) -> Any:
    def act() -> Outcome:
        raise ToolFailure(cls, code)

    return act


@pytest.mark.parametrize(
    ("op", "arguments", "code"),
    [
        ("FLY", {}, "unknown_op"),
        ("ZOOM", {"on": "img7", "box": PLATE}, "dangling_handle"),
        ("ZOOM", {"on": "img0", "box": [0, 0, 2000, 5]}, "box_out_of_range"),
        ("ZOOM", {"on": "img0"}, "bad_args"),
        ("TRK", {"on": "img0", "box": PLATE, "t0": 0}, "wrong_modality"),
        ("TEMP", {"on": "img0", "window": [0, 9]}, "wrong_modality"),
        ("PROP", {"of": "img0", "keys": ["speed"]}, "wrong_modality"),
        ("PROP", {"of": "img0", "to": "m4", "keys": ["distance"]}, "dangling_handle"),
    ],
)
def test_mistakes_on_a_picture_are_the_policys(op: str, arguments: dict, code: str) -> None:
    bench = Bench(png(plate("K7P")))
    assert refusal(bench(op, **arguments)) == ("policy", code)
    assert list(bench.workspace.handles) == ["img0"]


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("ZOOM", {"on": "img0", "box": PLATE}),
        ("SEG", {"on": "img0", "point": [5, 5]}),
        ("OCR", {"on": "img0"}),
        ("PROP", {"of": "img0", "keys": ["color"]}),
    ],
)
def test_a_clip_as_a_whole_has_no_pixels(op: str, arguments: dict) -> None:
    bench = Bench(avi(moving_square(4)[0]))
    assert refusal(bench(op, **arguments)) == ("policy", "wrong_modality")


JUNK = st.recursive(
    st.none() | st.integers(-5, 1005) | st.sampled_from(["img0", "m1", "change", "line", ""]) | st.floats(),
    lambda v: st.lists(v, max_size=4),
    max_leaves=5,
)
NAMES = "on of box point window k query keys t0 t1 init to neg"
ARGUMENT = st.sampled_from(NAMES.split())


@settings(max_examples=150)
@given(st.sampled_from([*OPS, "FLY"]), st.dictionaries(ARGUMENT, JUNK, max_size=4))
def test_no_arguments_make_the_toolbox_raise(op: str, arguments: dict) -> None:
    bench = Bench(png(plate("K7P")), tools={name: Fake() for name in OPS})
    result = bench(op, **arguments)
    assert result.ok or refusal(result)[0] == "policy"
    assert result.observation()


def test_budgets_are_kept_and_infra_is_not_charged() -> None:
    bench = Bench(png(plate("K7P")), tools={"ZOOM": Fake(), "OCR": Fake()}, max_calls=4, limits={"OCR": 1})
    assert bench("OCR", on="img0").ok
    assert refusal(bench("OCR", on="img0")) == ("policy", "over_budget")
    assert bench("ZOOM", on="img0", box=PLATE).ok and bench("ZOOM", on="img0", box=PLATE).ok
    assert refusal(bench("ZOOM", on="img0", box=PLATE)) == ("policy", "over_budget")
    broken = Bench(png(plate("K7P")), tools={"OCR": Fake(fail("infra", "died"))}, max_calls=1)
    assert [refusal(broken("OCR", on="img0"))[0] for _ in range(3)] == ["infra"] * 3


def test_results_and_tool_failures_are_remembered_infra_failures_are_not() -> None:
    for tool, runs in ((Fake(), 1), (Fake(fail("tool", "no_text")), 1), (Fake(fail("infra", "died")), 3 * TRIES)):
        bench = Bench(png(plate("K7P")), tools={"OCR": tool})
        digests = {bench("OCR", on="img0").digest() for _ in range(3)}
        assert (tool.runs, len(digests)) == (runs, 1)


def test_the_memo_serves_other_episodes_and_names_do_not_matter() -> None:
    bench = Bench(png(plate("K7P")))
    a = bench("ZOOM", on="img0", box=PLATE)
    bench("ZOOM", on="img0", box=[0, 0, 50, 50])
    other = Workspace(bench.store, bench.workspace.source)
    bench.box.run(other, ToolCall("ZOOM", {"on": "img0", "box": [0, 0, 50, 50]}))
    b = bench.box.run(other, ToolCall("ZOOM", {"on": "img0", "box": PLATE}))
    assert (a.ref, b.ref) == ("img1", "img2") and a.views == b.views and bench.box.hits == 2
    first = bench("OCR", on="img1", level="line")
    again = bench.box.run(other, ToolCall("OCR", {"on": "img2", "level": "line"}))
    assert first.digest() == again.digest() and bench.box.hits == 3


def test_the_memo_tells_pictures_arguments_and_tools_apart() -> None:
    tool = Fake()
    bench = Bench(png(plate("K7P")), tools={"OCR": tool})
    bench("OCR", on="img0")
    bench("OCR", on="img0", box=PLATE)
    other = Workspace(bench.store, bench.store.put(png(plate("A4F"))))
    bench.box.run(other, ToolCall("OCR", {"on": "img0"}))
    tool.id = "fake@2"
    bench("OCR", on="img0")
    assert tool.runs == 4


def test_the_memo_is_bounded() -> None:
    tool = Fake()
    bench = Bench(png(plate("K7P")), tools={"ZOOM": tool}, memo_count=2)
    for left in (0, 1, 2, 0):
        bench("ZOOM", on="img0", box=[left, 0, 500, 500])
    assert tool.runs == 4


def test_past_the_deadline_is_infra() -> None:
    slow = Bench(png(plate("K7P")), tools={"OCR": Fake(lambda: time.sleep(0.02) or Outcome())}, deadline=0.01)
    assert refusal(slow("OCR", on="img0")) == ("infra", "timeout")
    for op, arguments in (("TEMP", {"query": "change"}), ("TRK", {"box": PLATE, "t0": 0})):
        bench = Bench(avi(moving_square(6)[0]), deadline=0.0)
        assert refusal(bench(op, on="img0", **arguments)) == ("infra", "timeout")


def test_unreadable_media_is_infra() -> None:
    bench = Bench(png(plate("K7P")))
    bench.store._bytes.clear()
    bench.store._cache.clear()
    assert refusal(bench("SEG", on="img0", point=[500, 500])) == ("infra", "bad_media")


def test_a_bug_in_a_tool_is_no_result() -> None:
    def bug() -> Outcome:
        raise TypeError("bug")

    with pytest.raises(TypeError):
        Bench(png(plate("K7P")), tools={"OCR": Fake(bug)})("OCR", on="img0")


def test_another_picture_gives_other_answers() -> None:
    a = Bench(png(plate("K7P", RED)))
    b = Bench(png(plate("A4F", BLUE)[20:]))
    for op, arguments in (
        ("SEG", {"on": "img0", "point": [380, 400]}),
        ("OCR", {"on": "img0", "box": PLATE, "level": "line"}),
        ("PROP", {"of": "m1", "keys": ["color"]}),
    ):
        one, two = a(op, **arguments), b(op, **arguments)
        assert one.ok and two.ok and one.data != two.data


def test_two_toolboxes_agree_to_the_bit() -> None:
    data = avi(moving_square(8)[0])
    chains = []
    for _ in range(2):
        bench = Bench(data)
        calls: list[tuple[str, dict]] = [
            ("TEMP", {"on": "img0", "window": [0, 1000], "k": 2}),
            ("SEG", {"on": "f1", "box": [100, 340, 320, 620]}),
            ("TRK", {"on": "img0", "init": "m1", "t0": 0}),
            ("PROP", {"of": "t1", "keys": ["speed", "color"]}),
        ]
        chains.append([bench(op, **arguments).digest() for op, arguments in calls])
    assert chains[0] == chains[1]


def test_only_six_tools_by_default() -> None:
    assert set(Toolbox(Bench(png(plate("K7P"))).store).backend.ids) == set(OPS)


def test_a_call_that_infrastructure_failed_is_tried_again_as_the_same_call() -> None:
    fails = iter([True] * (TRIES - 1) + [False])
    tool = Fake(lambda: fail("infra", "died")() if next(fails) else Outcome({"n": 1}))
    bench = Bench(png(plate("K7P")), tools={"OCR": tool}, max_calls=1)
    assert bench("OCR", on="img0").data == {"n": 1}
    assert (tool.runs, bench.box.retried) == (TRIES, TRIES - 1)
    for cls in ("policy", "tool"):
        once = Fake(fail(cls, "no"))
        assert refusal(Bench(png(plate("K7P")), tools={"OCR": once})("OCR", on="img0"))[0] == cls
        assert once.runs == 1


def test_calls_of_several_episodes_at_once_are_those_one_by_one() -> None:
    """And what they ask alike is computed once."""
    calls = [
        ToolCall("OCR", {"on": "img0"}),
        ToolCall("ZOOM", {"on": "img9", "box": PLATE}),
        ToolCall("FLY"),
        *[ToolCall("OCR", {"on": "img0"})] * 3,
    ]
    tool = Fake()
    bench = Bench(png(plate("K7P")), tools={"OCR": tool, "ZOOM": Fake()})
    spaces = [Workspace(bench.store, bench.workspace.source) for _ in calls]
    together = bench.box.run_all(list(zip(spaces, calls, strict=True)))
    assert tool.runs == 1 and bench.box.hits == 3
    assert [r.digest() for r in together] == [
        bench.box.run(Workspace(bench.store, bench.workspace.source), c).digest() for c in calls
    ]


@pytest.mark.parametrize(
    "found",
    [
        {"text": "K7P"},
        Outcome({"box": [0, 0, 0, 5]}),
        Outcome({"score": float("nan")}),
        Outcome({"items": [{"text": "a"}]}),
        Outcome({"text": object()}),
        Outcome(made=(Made("image", View("another", (0, 0, 2, 2))),)),
        Outcome(made=(Made("mask", View("", (0, 0, 2, 2)), Mask.of(np.ones((3, 3)))),)),
        Outcome(made=(Made("image", View("", (0, 0, 9_000, 2))),)),
        Outcome(made=(Made("mask", View("", (0, 0, 2, 2))),)),
    ],
)
def test_what_breaks_the_contract_is_infra_and_never_seen(found: object) -> None:
    bench = Bench(png(plate("K7P")), tools={"OCR": Fake()})
    if isinstance(found, Outcome):  # "": the picture of this bench
        made = [replace(m, view=replace(m.view, source=m.view.source or bench.workspace.source)) for m in found.made]
        found = replace(found, made=tuple(made))
    bench.box.backend.tools["OCR"] = Fake(lambda: found)  # type: ignore[attr-defined]
    result = bench("OCR", on="img0")
    assert refusal(result) == ("infra", "bad_result") and "ref" not in result.observation()
    assert list(bench.workspace.handles) == ["img0"]


class Rows:
    """A model that takes several questions, but no more than `most` at once."""

    id = "rows@1"

    def __init__(self, most: int) -> None:
        self.most, self.batches = most, list[int]()

    def run(self, workspace: Workspace, args: OcrArgs, until: float) -> Outcome:
        raise AssertionError("a batch tool is asked in batches")

    def batch(self, asked: list[tuple[Workspace, OcrArgs]], until: float) -> list[Outcome | ToolFailure]:
        self.batches.append(len(asked))
        if len(asked) > self.most:
            raise MemoryError("no room")
        return [Outcome({"text": str(a.box)}) if a.box else ToolFailure("tool", "no_text") for _, a in asked]


@pytest.mark.parametrize("most", [100, 3, 0])
def test_a_batch_without_memory_is_halved(most: int) -> None:
    tool = Rows(most)
    bench = Bench(png(plate("K7P")), tools={"OCR": tool})
    calls = [ToolCall("OCR", {"on": "img0"} | ({"box": [0, 0, 1 + n, 9]} if n else {})) for n in range(6)]
    results = bench.box.run_all([(Workspace(bench.store, bench.workspace.source), call) for call in calls])
    told = [refusal(r)[1] if r.failure else r.data["text"] for r in results]
    assert told == (["no_text", *[f"(0, 0, {1 + n}, 9)" for n in range(1, 6)]] if most else ["out_of_memory"] * 6)
    assert tool.batches[0] == 6 and (most > 6 or len(tool.batches) > 1)
