"""Curiosity: what pays, what does not, and that the head learns (paper, section 15)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from pixelis.actors import nano
from pixelis.actors.render import Renderer
from pixelis.learners.curiosity import Curiosity, Senses, fourier
from pixelis.memory.model import FeatureCache, Model
from pixelis.memory.trajectory import Trajectory, Turn
from pixelis.tools.call import Failure, ToolCall, ToolResult
from pixelis.tools.frame import View
from pixelis.tools.media import MediaStore
from tests.fakes_media import png, rectangles

WORDS = "ABCDEFGHJKLMNPRSTUVWXYZ23456789"
Said = tuple[ToolCall, ToolResult, str, tuple[View, ...]]


@pytest.fixture(scope="module")
def model() -> Model:
    torch.set_num_threads(1)
    return nano.build(seed=1)


@pytest.fixture
def store() -> MediaStore:
    return MediaStore(None)


@pytest.fixture
def play(model: Model, store: MediaStore) -> Callable[..., Trajectory]:
    """A trajectory of calls; each with the text and the views that the policy then saw."""
    renderer = Renderer(model)
    source = store.put(png(rectangles(0, 224)))
    whole = View(source, (0, 0, 224, 224))

    def played(*chain: tuple[str, dict[str, object], str] | tuple[str, dict[str, object], str, View]) -> Trajectory:
        turns, seen, views = [], (*model.layout.placeholders(whole), *renderer.encode("Where is the ")), (whole,)
        for op, given, told, *shown in chain:
            result = ToolResult(True, op) if told != "bad" else ToolResult(False, op, failure=Failure("tool", "no_text"))
            turns.append(Turn(seen, (9,), (0.0,), views, call=ToolCall(op, {"on": "img0", **given}), result=result))
            views = tuple(shown)
            seen = (*renderer.encode(told), *(token for view in shown for token in model.layout.placeholders(view)))
        return Trajectory("a", "t", "?", (source,), (*turns, Turn(seen, (9,), (0.0,), views)))

    return played


def curiosity(model: Model, store: MediaStore, progress: Sequence[str] = ()) -> Curiosity:
    return Curiosity(Senses(model, FeatureCache(model, store)), progress)


BOX = {"box": [100, 100, 500, 300]}


def test_a_transition_seen_again_and_again_earns_less_and_less(
    model: Model, store: MediaStore, play: Callable[..., Trajectory]
) -> None:
    source = play().media[0]
    same = play(("ZOOM", BOX, '{"ok":true}', View(source, (10, 10, 120, 60))), ("OCR", BOX, "K7P"))
    mine = curiosity(model, store)
    raws = [mine.earned([same])[0][0][0] for _ in range(120)]
    assert raws[-1] < 0.1 * raws[0]
    untrained = curiosity(model, store)
    untrained.learn = lambda fresh: 0.0  # type: ignore[method-assign]  # a head that never learns
    still = [untrained.earned([same])[0][0][0] for _ in range(3)]
    assert still[-1] == pytest.approx(still[0])


def test_only_calls_that_worked_and_are_new_pay(model: Model, store: MediaStore, play: Callable[..., Trajectory]) -> None:
    once, twice = play(("SEG", BOX, "K7P")), play(("SEG", BOX, "K7P"), ("SEG", BOX, "K7P"))
    failed, silent = play(("SEG", BOX, "bad")), play()
    mine = curiosity(model, store)
    mine.learn = lambda fresh: 0.0  # type: ignore[method-assign]
    (one, _), (two, _), (bad, _), (none, _) = mine.earned([once, twice, failed, silent])[0]
    assert one > 0 and bad == none == 0
    assert two == pytest.approx(one / 2)  # a mean over calls: the repetition counts, and pays nothing


def test_what_the_policy_did_wrong_and_what_came_too_late_pay_nothing(
    model: Model, store: MediaStore, play: Callable[..., Trajectory]
) -> None:
    """And count in the mean, so that a failed call costs what the others earned."""
    good = play(("SEG", BOX, "K7P"), ("OCR", BOX, "bad"))
    mine = curiosity(model, store)
    mine.learn = lambda fresh: 0.0  # type: ignore[method-assign]
    for failure in (Failure("policy", "bad_arguments"), Failure("tool", "timeout")):
        ended = replace(good.turns[1], result=ToolResult(False, "OCR", failure=failure))
        [(raw, _), (lone, _)] = mine.earned(
            [replace(good, turns=(good.turns[0], ended, good.turns[2])), play(("SEG", BOX, "K7P"))]
        )[0]
        assert raw == pytest.approx(lone / 2) and lone > 0


def test_curiosity_is_measured_before_the_head_learns(model: Model, store: MediaStore, play: Callable[..., Trajectory]) -> None:
    some, mine, still = [play(("SEG", BOX, "K7P"))], curiosity(model, store), curiosity(model, store)
    still.learn = lambda fresh: 0.0  # type: ignore[method-assign]
    assert mine.earned(some)[0] == still.earned(some)[0]
    assert mine.earned(some)[0][0][0] < still.earned(some)[0][0][0]


def test_the_scale_is_each_operations_own_and_bounded(model: Model, store: MediaStore, play: Callable[..., Trajectory]) -> None:
    rng = np.random.default_rng(0)
    mine = curiosity(model, store)
    for _ in range(20):
        some = [play(("SEG", BOX, "".join(rng.choice(list(WORDS), 3)))) for _ in range(4)]
        for _, scaled in mine.earned(some)[0]:
            assert 0 <= scaled <= 3
    assert set(mine.scales) == {"SEG"} and mine.scales["SEG"].count == 80


def test_reading_random_codes_earns_nothing_once_the_head_knows_that_they_are_random(
    model: Model, store: MediaStore, play: Callable[..., Trajectory]
) -> None:
    """Their error never falls to zero: paid for it, a policy would read for ever. Learning progress does."""
    rng = np.random.default_rng(0)

    def codes(n: int) -> list[Trajectory]:
        return [play(("OCR", BOX, "".join(rng.choice(list(WORDS), 3)))) for _ in range(n)]

    raw, progress = curiosity(model, store), curiosity(model, store, ("OCR",))
    told: dict[str, list[float]] = {"raw": [], "progress": []}
    for _ in range(150):
        some = codes(8)
        told["raw"].append(float(np.mean([scaled for _, scaled in raw.earned(some)[0]])))
        told["progress"].append(float(np.mean([scaled for _, scaled in progress.earned(some)[0]])))
    assert max(told["progress"][:40]) > 0.3  # while it learns, there is something to earn
    assert np.mean(told["progress"][-40:]) < 0.1
    assert np.mean(told["raw"][-40:]) > 5 * np.mean(told["progress"][-40:])


def test_image_and_text_are_foreseen_apart(model: Model, store: MediaStore, play: Callable[..., Trajectory]) -> None:
    """What was not shown cannot be wrong: a call that only tells is judged by what it told."""
    senses = Senses(model, FeatureCache(model, store))
    source = play().media[0]
    both, _ = senses.transitions(play(("ZOOM", BOX, '{"ok":true}', View(source, (10, 10, 120, 60)))))
    text, _ = senses.transitions(play(("OCR", BOX, "K7P")))
    assert both.seen.tolist() == [[True, True]] and text.seen.tolist() == [[False, True]]
    assert torch.equal(text.after[0, 0], text.before[0, 0])  # still in sight
    assert not torch.equal(both.after[0, 0], both.before[0, 0])


def test_arguments_are_told_apart_and_absent_ones_are_zero() -> None:
    assert torch.equal(fourier({}), torch.zeros(64))
    assert torch.equal(fourier({"box": "all"}), torch.zeros(64))
    a, b = fourier({"box": [0, 0, 500, 500]}), fourier({"box": [0, 0, 500, 531]})
    assert not torch.equal(a, b) and a.abs().max() <= 1


def test_a_saved_head_goes_on_as_if_nothing_had_happened(
    model: Model, store: MediaStore, play: Callable[..., Trajectory]
) -> None:
    some = [play(("SEG", BOX, "K7P")), play(("OCR", BOX, "X2"))]
    whole = curiosity(model, store, ("OCR",))
    told = [whole.earned(some) for _ in range(6)]
    cut = curiosity(model, store, ("OCR",))
    for _ in range(3):
        cut.earned(some)
    resumed = curiosity(model, store, ("OCR",))
    resumed.restore(*cut.state())
    assert [resumed.earned(some) for _ in range(3)] == told[3:]
