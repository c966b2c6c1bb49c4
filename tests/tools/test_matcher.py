"""CLIP and SigLIP of the true classes, small and untrained: which frames they prefer means nothing, that we say so does."""

import hashlib
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pixelis.tools.cache import Cache
from pixelis.tools.call import SegArgs, TempArgs, ToolFailure
from pixelis.tools.frame import View
from pixelis.tools.handle import Mask
from pixelis.tools.local import Local
from pixelis.tools.matcher import Matcher, SegText, TempClip, neighbours, proposals, runs, smoothed, stand_out, strongest
from pixelis.tools.sam import Sam, SamSeg
from pixelis.tools.seg import Seg
from pixelis.tools.temp import Temp
from pixelis.tools.tool import Outcome
from tests.fakes_media import BLUE, GREEN, RED, avi, blank, plate, png
from tests.tools.bench import Bench, refusal
from tests.tools.learned import WORDS, Counted, clip_network, sam_network, tokenizer

COLORS = ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28])


@pytest.fixture(scope="module", params=["clip", "siglip"])
def network(request: pytest.FixtureRequest) -> Any:
    return clip_network(request.param)


@pytest.fixture(scope="module")
def siglip() -> Any:
    return clip_network("siglip")


def matcher(network: Any, cache: Cache[Any] | None = None) -> Matcher:
    return Matcher(network, tokenizer(), COLORS, "clip-test", cache=cache)


def cosine(network: Any, pixels: np.ndarray, text: str) -> float:
    """The model's own forward pass, on a picture squeezed into its square."""
    from transformers import CLIPImageProcessor

    side = {"height": 32, "width": 32}
    pictures = CLIPImageProcessor(size=side, do_center_crop=False, image_mean=COLORS[0], image_std=COLORS[1])
    inputs = pictures(images=np.array(pixels), return_tensors="pt")
    tokens = tokenizer()([text], padding="max_length", max_length=16, return_tensors="pt")
    with torch.inference_mode():
        out = network(**tokens, **inputs)
    return float(torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)[0])


def until() -> float:
    return time.monotonic() + 60


def test_scores_are_the_models_own_cosines(network: Any) -> None:
    """At the model's side, so that no resizing (ours averages, theirs interpolates) blurs the comparison."""
    rng = np.random.default_rng(0)
    for text in ("red plate", "a dog", "sky"):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        bench = Bench(png(pixels))
        (score,) = matcher(network).scores(bench.store, [bench.workspace.get("img0").view], text, until())
        assert score == pytest.approx(cosine(network, pixels, text), abs=2e-4) and score.dtype == np.float32


def test_the_text_matters(network: Any) -> None:
    bench = Bench(png(plate("K7P")))
    view = bench.workspace.get("img0").view
    scores = {float(matcher(network).scores(bench.store, [view], word, until())[0]) for word in WORDS}
    assert len(scores) == len(WORDS)


def test_a_long_text_is_cut_not_refused(network: Any) -> None:
    bench = Bench(png(plate("K7P")))
    view = bench.workspace.get("img0").view
    assert np.isfinite(matcher(network).scores(bench.store, [view], "red plate " * 20, until())).all()


def test_pictures_are_encoded_once_and_again_after_eviction(siglip: Any) -> None:
    tool = matcher(siglip, Cache(4 * 32 * 4))  # four features of 32 float32
    bench = Bench(png(plate("K7P")))
    whole = bench.workspace.get("img0").view
    views = [whole.crop((0, 0, n, n)) for n in (200, 400, 600, 800)]
    counted = Counted(siglip.vision_model)
    first = tool.scores(bench.store, views, "red", until())
    assert counted.calls == 1 and counted.pictures == 4
    tool.scores(bench.store, views, "a dog", until())
    assert counted.calls == 1 and len(tool.cache) == 4
    tool.scores(bench.store, [whole], "red", until())
    assert counted.calls == 2 and len(tool.cache) == 4
    assert tool.scores(bench.store, views, "red", until()) == pytest.approx(first, abs=1e-6)
    assert counted.calls == 3


def test_many_pictures_are_encoded_as_one_by_one(network: Any) -> None:
    bench = Bench(png(plate("K7P")))
    views = [bench.workspace.get("img0").view.crop(box) for box in proposals()[:20]]
    together = matcher(network).scores(bench.store, views, "red", until())
    alone = [matcher(network).scores(bench.store, [view], "red", until())[0] for view in views]
    assert together == pytest.approx(alone, abs=1e-5)


def test_memory_that_is_short_halves_the_pictures(siglip: Any) -> None:
    bench = Bench(png(plate("K7P")))
    views = [bench.workspace.get("img0").view.crop(box) for box in proposals()[:7]]
    wanted = matcher(siglip).scores(bench.store, views, "red", until())

    def short(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if len(named["inputs_embeds"]) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    hook = siglip.vision_model.encoder.register_forward_pre_hook(short, with_kwargs=True)
    try:
        found = matcher(siglip).scores(bench.store, views, "red", until())
    finally:
        hook.remove()
    assert found == pytest.approx(wanted, abs=1e-5)


def test_numbers_that_are_none_are_infrastructure_failures() -> None:
    network = clip_network()
    with torch.no_grad():
        network.visual_projection.weight[0, 0] = float("nan")
    tools = {"TEMP": TempClip(matcher(network), Temp()), "SEG": SegText(matcher(network), Seg())}
    assert refusal(Bench(avi([plate("A")] * 3), tools)("TEMP", on="img0", query="a dog")) == ("infra", "bad_result")
    assert refusal(Bench(png(plate("A")), tools)("SEG", on="img0", text="a dog")) == ("infra", "bad_result")


# TEMP


def segments(*lengths: int) -> list[np.ndarray]:
    looks = [("K7P", RED), ("A4F", GREEN), ("K7P", RED), ("M39", BLUE)]
    return [plate(*looks[i]) for i, n in enumerate(lengths) for _ in range(n)]


def test_windows_are_the_frames_that_the_model_prefers(siglip: Any) -> None:
    """For every word: where red frames score higher than green ones the red windows come back, and the other way round."""
    tools = Local().tools | {"TEMP": TempClip(matcher(siglip), Temp())}
    red, green = [[0, 300], [700, 1000]], [[300, 700]]
    seen = []
    for word in WORDS:
        bench = Bench(avi(segments(6, 8, 6)), tools)
        scores = matcher(siglip).scores(bench.store, [_frame(bench, n) for n in range(20)], word, until())
        result = bench("TEMP", on="img0", query=word)
        if abs(scores[0] - scores[10]) < 0.02:
            continue
        assert result.data["windows"] == (red if scores[0] > scores[10] else green), (word, scores)
        seen.append(bool(scores[0] > scores[10]))
        names = [f"w{i + 1}" for i in range(len(result.data["windows"]))]
        assert [name for name in bench.workspace.handles if name != "img0"] == names
        assert result.shown == () and result.tool == f"temp-clip@1#clip-test+{Temp().id}"
    assert set(seen) == {True, False}


def _frame(bench: Bench, number: int) -> View:
    view = bench.workspace.get("img0").view
    return View(view.source, view.rect, number)


def test_change_and_window_are_the_classical_tools(siglip: Any) -> None:
    counted = Counted(siglip.text_model)
    data = avi(segments(4, 7, 5))
    ours, classical = Bench(data, {"TEMP": TempClip(matcher(siglip), Temp())}), Bench(data)
    for arguments in ({"query": "change"}, {"window": [0, 1000], "k": 4}):
        one, other = ours("TEMP", on="img0", **arguments), classical("TEMP", on="img0", **arguments)
        assert (one.data, one.views, one.payloads, one.shown) == (other.data, other.views, other.payloads, other.shown)
    assert counted.calls == 0


def test_a_clip_of_one_look_has_no_window(network: Any) -> None:
    tool = TempClip(matcher(network), Temp())
    for frames in ([plate("K7P")] * 12, [plate("K7P")]):
        assert refusal(Bench(avi(frames), {"TEMP": tool})("TEMP", on="img0", query="red")) == ("tool", "no_window")


def test_a_long_clip_costs_a_bounded_number_of_frames(siglip: Any) -> None:
    bench = Bench(avi([blank(16, 16, RED)] * 150 + [blank(16, 16, GREEN)] * 150))
    tool = TempClip(matcher(siglip), Temp())
    ends = [_frame(bench, 0), _frame(bench, 299)]
    red, green = tool.matcher.scores(bench.store, ends, "gray", until())
    assert abs(red - green) > 0.02  # seeded: the untrained model tells the two colours apart
    counted = Counted(siglip.vision_model)
    found = tool.run(bench.workspace, TempArgs(on="img0", query="gray"), until())
    assert found.data["windows"] == ([[0, 500]] if red > green else [[500, 1000]])
    assert counted.pictures == 96 - 2  # the two ends were known


def test_the_deadline_holds(siglip: Any) -> None:
    bench = Bench(avi(segments(4, 4)))
    with pytest.raises(ToolFailure) as raised:
        TempClip(matcher(siglip), Temp()).run(bench.workspace, TempArgs(on="img0", query="red"), time.monotonic() - 1)
    assert (raised.value.cls, raised.value.code) == ("infra", "timeout")


@given(st.integers(1, 60), st.integers(1, 59), st.floats(0.02, 0.5), st.integers(0, 2**32 - 1))
def test_a_group_clearly_above_the_rest_is_found_whatever_its_size(count: int, share: int, gap: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, inside = count + 1, np.arange(count + 1) < max(1, min(count, share))
    scores = 0.2 + gap * inside + rng.uniform(-gap / 40, gap / 40, count)
    assert (stand_out(scores) == inside).all()


@given(st.integers(0, 96), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.001]))
def test_what_is_alike_does_not_stand_out(count: int, seed: int, width: float) -> None:
    assert not stand_out(0.2 + np.random.default_rng(seed).normal(0, width, count)).any()


def test_noise_seldom_stands_out() -> None:
    rng = np.random.default_rng(0)
    wrong = sum(stand_out(smoothed(rng.normal(0.2, 0.03, 64))).any() for _ in range(300))
    assert wrong <= 3
    assert not stand_out(np.linspace(0.1, 0.4, 50)).any()  # a slow drift has no two groups


@given(st.lists(st.booleans(), max_size=50))
def test_runs_are_the_stretches(inside: list[bool]) -> None:
    spans = runs(np.array(inside, bool))
    again = np.zeros(len(inside), bool)
    for a, b in spans:
        assert a < b
        again[a:b] = True
    assert again.tolist() == inside and all(b < c for (_, b), (c, _) in pairwise(spans))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50))
def test_smoothing_keeps_length_and_range(scores: list[float]) -> None:
    found = smoothed(np.array(scores))
    assert len(found) == len(scores) and min(scores) - 1e-9 <= found.min() and found.max() <= max(scores) + 1e-9


def test_the_strongest_windows_are_kept_in_time_order() -> None:
    scores = np.zeros(40)
    spans = [(4 * i, 4 * i + 2) for i in range(10)]
    for i, (a, b) in enumerate(spans):
        scores[a:b] = 1 if i not in (3, 6) else 0.5
    assert strongest(spans, scores) == [s for i, s in enumerate(spans) if i not in (3, 6)]


# SEG


def test_the_window_that_fits_best_becomes_the_box(siglip: Any) -> None:
    """The words for which some part of the picture stands out: our box is at least as good as every proposal."""
    bench = Bench(png(plate("")), {"SEG": SegText(matcher(siglip), Seg())})
    view = bench.workspace.get("img0").view
    cut = better = 0
    for word in WORDS:
        result = bench("SEG", on="img0", text=word)
        scores = matcher(siglip).scores(bench.store, [view.crop(box) for box in proposals()], word, until())
        if result.failure is not None:
            assert refusal(result) == ("tool", "no_segment")
            continue
        cut += 1
        box = SegText(matcher(siglip), Seg())._search(bench.store, view, word, until())
        (score,) = matcher(siglip).scores(bench.store, [view.crop(box)], word, until())
        assert score >= scores.max() - 1e-5
        better += bool(score > scores.max() + 1e-5)
        wanted = Bench(png(plate("")))("SEG", on="img0", box=list(box))
        assert result.data == wanted.data and result.payloads == wanted.payloads
    assert cut >= 2 and better >= 1
    assert result.tool == f"{Seg().id}+text-clip@1#clip-test"


def test_nothing_stands_out_on_an_even_picture(network: Any) -> None:
    bench = Bench(png(blank()), {"SEG": SegText(matcher(network), Seg())})
    assert refusal(bench("SEG", on="img0", text="red")) == ("tool", "no_segment")


def test_without_such_a_model_texts_and_queries_are_refused() -> None:
    assert refusal(Bench(png(blank()))("SEG", on="img0", text="red")) == ("tool", "unknown_text")
    assert refusal(Bench(avi([blank()] * 3))("TEMP", on="img0", query="red")) == ("tool", "unknown_query")


def test_a_batch_of_texts_points_and_boxes_on_sam(siglip: Any) -> None:
    sam = SamSeg(Sam(sam_network(), "sam2-test"))
    tool = SegText(matcher(siglip), sam)
    bench, even = Bench(png(plate(""))), Bench(png(blank()))
    word = next(w for w in WORDS if _box(tool, bench, w) is not None)
    texts = SegArgs(on="img0", text=word)
    asked = [
        (bench.workspace, SegArgs(on="img0", point=(500, 500))),
        (even.workspace, texts),
        (bench.workspace, texts),
        (bench.workspace, SegArgs(on="img0", box=(300, 300, 700, 600))),
    ]
    first, second, third, fourth = tool.batch(asked, until())
    assert isinstance(second, ToolFailure) and second.code == "no_segment"
    for one, args in ((first, asked[0][1]), (third, SegArgs(on="img0", box=_box(tool, bench, word))), (fourth, asked[3][1])):
        assert isinstance(one, Outcome)
        mine, wanted = one.made[0].payload, sam.run(bench.workspace, args, until()).made[0].payload
        assert isinstance(mine, Mask) and isinstance(wanted, Mask) and np.mean(mine.array() == wanted.array()) > 0.999


def _box(tool: SegText, bench: Bench, word: str) -> tuple[int, int, int, int] | None:
    try:
        return tool._search(bench.store, bench.workspace.get("img0").view, word, until())
    except ToolFailure:
        return None


@given(st.integers(0, 990), st.integers(0, 990), st.integers(1, 1000), st.integers(1, 1000), st.sampled_from([4, 8]))
def test_neighbours_are_boxes(x: int, y: int, width: int, height: int, share: int) -> None:
    box = (x, y, min(1000, x + width), min(1000, y + height))
    for x0, y0, x1, y1 in neighbours(box, share):
        assert 0 <= x0 < x1 <= 1000 and 0 <= y0 < y1 <= 1000
    assert all(0 <= x0 < x1 <= 1000 and 0 <= y0 < y1 <= 1000 for x0, y0, x1, y1 in proposals())


# weights on disk


def test_weights_on_disk_give_the_same_answer_and_their_hash(network: Any, tmp_path: Path) -> None:
    from transformers import CLIPImageProcessor

    network.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    CLIPImageProcessor(image_mean=COLORS[0], image_std=COLORS[1]).save_pretrained(tmp_path)
    loaded = Matcher.load(tmp_path)
    bench = Bench(png(plate("K7P")))
    view = bench.workspace.get("img0").view
    one, other = (tool.scores(bench.store, [view], "red plate", until()) for tool in (matcher(network), loaded))
    assert one == pytest.approx(other, abs=1e-6)
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()[:12]
    assert loaded.label.endswith(f"-{network.config.model_type}-{digest}")


def test_a_folder_of_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model of text and pictures"):
        Matcher.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match="no model of text and pictures"):
        Matcher.load(tmp_path)
