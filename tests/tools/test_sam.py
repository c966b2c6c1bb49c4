"""SAM 2's true network, untrained, at 128x128: how it is asked, not what it finds. The seams to sam2 are tested here."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixelis.tools.cache import Cache
from pixelis.tools.call import SegArgs, ToolCall, ToolFailure
from pixelis.tools.frame import View
from pixelis.tools.handle import Mask, Track, Workspace
from pixelis.tools.local import Local, work
from pixelis.tools.media import MediaStore
from pixelis.tools.sam import Sam, SamSeg, SamTrk, _Frames, build, config_of, follow, inference_state
from pixelis.tools.tool import Ask, Outcome
from tests.fakes_media import avi, jpeg, moving_square, plate, png, rectangles
from tests.tools.bench import Bench, refusal
from tests.tools.learned import Counted, sam_network

SIDE = 128
PROMPTS: list[dict[str, Any]] = [
    {"point": [500, 500]},
    {"point": [1000, 0]},
    {"point": [430, 510], "neg": [[20, 20], [910, 33]]},
    {"box": [330, 370, 690, 590]},
    {"box": [0, 0, 1000, 1000], "neg": [[500, 500]]},
]


@pytest.fixture(scope="module")
def network() -> Any:
    return sam_network(SIDE)


@pytest.fixture
def sam(network: Any) -> Sam:
    return Sam(network, "sam2-test")


def mask(bench: Bench, name: str | None) -> np.ndarray:
    payload = bench.workspace.get(str(name)).payload
    assert isinstance(payload, Mask)
    return payload.array()


def spots(bench: Bench, name: str | None) -> list[tuple]:
    payload = bench.workspace.get(str(name)).payload
    assert isinstance(payload, Track)
    return [(s.frame, s.box, s.visible) for s in payload.spots]


def raw(network: Any, store: MediaStore, view: View, prompt: dict[str, Any]) -> tuple[np.ndarray, float]:
    """What sam2's own image predictor says to the same prompt in pixels of the view."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(network)
    predictor._bb_feat_sizes = [(SIDE // n, SIDE // n) for n in (4, 8, 16)]  # sam2 wrote those of 1024 down
    predictor.set_image(np.array(store.pixels(view)))

    def at(point: list[int]) -> np.ndarray:
        return np.array(view.to_source(*point)) - view.rect[:2]

    points = [at(point) for point in [*([prompt["point"]] if "point" in prompt else []), *prompt.get("neg", [])]]
    labels = [*([1] if "point" in prompt else []), *[0] * len(prompt.get("neg", []))]
    box = [at(prompt["box"][:2]), at(prompt["box"][2:])] if "box" in prompt else None
    masks, ious, _ = predictor.predict(
        point_coords=np.array(points) if points else None,
        point_labels=np.array(labels) if points else None,
        box=None if box is None else np.concatenate(box),
        multimask_output=True,
    )
    return masks[ious.argmax()] > 0, float(ious.max())


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("zoomed", [False, True])
def test_the_answer_is_the_image_predictors_to_the_same_pixels(sam: Sam, prompt: dict, zoomed: bool) -> None:
    bench = Bench(jpeg(plate("K7P")), Local().tools | {"SEG": SamSeg(sam)})
    on = bench("ZOOM", on="img0", box=[250, 313, 871, 777]).ref if zoomed else "img0"
    result = bench("SEG", on=on, **prompt)
    view = bench.workspace.get(str(on)).view
    wanted, iou = raw(sam.network, bench.store, view, prompt)
    handle = bench.workspace.get(str(result.ref))
    assert handle.view == view and wanted.shape == (view.height, view.width)
    assert np.mean(mask(bench, result.ref) == wanted) > 0.999
    assert result.data["score"] == pytest.approx(1000 * iou, abs=2)
    assert result.data["area"] == pytest.approx(1000 * wanted.mean(), abs=2)
    assert result.tool == "seg-sam2@1#sam2-test"


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 2), (700, 5)])
def test_odd_shapes_do_not_raise(sam: Sam, size: tuple[int, int]) -> None:
    bench = Bench(png(np.full((size[1], size[0], 3), 90, np.uint8)), {"SEG": SamSeg(sam)})
    for prompt in PROMPTS:
        result = bench("SEG", on="img0", **prompt)
        assert result.ok or refusal(result) == ("tool", "no_segment")
    clip = Bench(avi([np.full((16, 16, 3), n, np.uint8) for n in (10, 60, 90)]), {"TRK": SamTrk(sam)})
    for box in ([0, 0, 1, 1], [999, 999, 1000, 1000], [0, 500, 1000, 501]):
        result = clip("TRK", on="img0", box=box, t0=0)
        assert result.ok or refusal(result)[0] == "tool"


def test_a_prompt_matters(sam: Sam) -> None:
    bench = Bench(jpeg(plate("K7P")), {"SEG": SamSeg(sam)})
    found = [mask(bench, bench("SEG", on="img0", **prompt).ref) for prompt in PROMPTS]
    assert all((a != b).any() for i, a in enumerate(found) for b in found[:i])


def test_the_encoder_runs_once_a_view_and_again_after_eviction(network: Any) -> None:
    size = 4 * SIDE * SIDE * (32 // 16 + 64 // 64 + 1)  # bytes of a view's features at this side
    sam = Sam(network, "sam2-test", cache=Cache(2 * size))
    encoder = Counted(network.image_encoder)
    bench = Bench(png(rectangles(1, 96)), Local().tools | {"SEG": SamSeg(sam)}, memo_count=0)
    for prompt in PROMPTS:
        bench("SEG", on="img0", **prompt)
    assert encoder.pictures == 1 and sam.cache.bytes == size
    views = [bench("ZOOM", on="img0", box=box).ref for box in ([0, 0, 500, 500], [500, 500, 1000, 1000])]
    for on in views:
        bench("SEG", on=on, point=[500, 500])
    assert encoder.pictures == 3 and len(sam.cache) == 2
    bench("SEG", on=views[0], point=[1, 1])
    assert encoder.pictures == 3
    bench("SEG", on="img0", point=[1, 1])  # was the one unused for longest
    assert encoder.pictures == 4


def test_a_batch_answers_as_one_by_one(network: Any) -> None:
    bench = Bench(png(rectangles(2, 128)), Local().tools)
    zoom = bench("ZOOM", on="img0", box=[100, 200, 700, 900]).ref
    asks = [SegArgs(on=on, **prompt) for prompt in PROMPTS for on in ("img0", str(zoom))]
    together, alone = SamSeg(Sam(network, "sam2-test")), SamSeg(Sam(network, "sam2-test"))
    together.sam.together = 8  # as on CUDA
    encoder = Counted(network.image_encoder)
    decoder = Counted(network.sam_mask_decoder.transformer)
    found = together.batch([(bench.workspace, args) for args in asks], time.monotonic() + 60)
    assert encoder.calls == 1 and encoder.pictures == 2  # both views in one go
    assert decoder.calls == 2 * 4  # two views, four forms of prompt: the two lone points go together
    for args, one in zip(asks, found, strict=True):
        assert isinstance(one, Outcome)
        wanted = alone.run(bench.workspace, args, time.monotonic() + 60)
        assert one.data["score"] == pytest.approx(wanted.data["score"], abs=1)
        assert np.mean(_array(one) == _array(wanted)) > 0.999


def test_views_of_the_same_pixels_share_features_but_not_their_frame(network: Any) -> None:
    bench = Bench(png(rectangles(2, 128)), Local().tools)
    on = [str(bench("ZOOM", on="img0", box=box).ref) for box in ([250, 314, 871, 775], [251, 313, 870, 776])]
    views = [bench.workspace.get(name).view for name in on]
    assert views[0] == views[1] and views[0].edges != views[1].edges
    encoder = Counted(network.image_encoder)
    tool = SamSeg(Sam(network, "sam2-test"))
    found = tool.batch([(bench.workspace, SegArgs(on=name, point=(300, 700))) for name in on], time.monotonic() + 60)
    assert encoder.pictures == 1
    assert [one.made[0].view.edges for one in found if isinstance(one, Outcome)] == [view.edges for view in views]


def _array(outcome: Outcome) -> np.ndarray:
    payload = outcome.made[0].payload
    assert isinstance(payload, Mask)
    return payload.array()


def test_in_a_batch_every_question_fails_alone(sam: Sam) -> None:
    bench = Bench(png(rectangles(3, 64)))
    good = SegArgs(on="img0", point=(500, 500))
    text = SegArgs(on="img0", text="the dog")
    asked = [(bench.workspace, args) for args in (good, text, good)]
    first, second, third = SamSeg(sam).batch(asked, time.monotonic() + 60)
    assert isinstance(first, Outcome) and isinstance(third, Outcome)
    assert isinstance(second, ToolFailure) and (second.cls, second.code) == ("tool", "unknown_text")


def test_numbers_that_are_none_are_infrastructure_failures(network: Any) -> None:
    broken = sam_network(SIDE)
    with torch.no_grad():
        broken.sam_mask_decoder.iou_prediction_head.layers[-1].bias[2] = float("nan")
    bench = Bench(png(rectangles(3, 64)), {"SEG": SamSeg(Sam(broken, "sam2-test"))})
    assert refusal(bench("SEG", on="img0", point=[500, 500])) == ("infra", "bad_result")
    frames, _ = moving_square(3)
    with torch.no_grad():
        broken.sam_mask_decoder.pred_obj_score_head.layers[-1].bias[0] = float("nan")
    clip = Bench(avi(frames), {"TRK": SamTrk(Sam(broken, "sam2-test"))})
    assert refusal(clip("TRK", on="img0", box=[100, 300, 400, 700], t0=0)) == ("infra", "bad_result")


def test_a_batch_too_large_for_the_memory_is_halved(network: Any) -> None:
    sam = Sam(network, "sam2-test")
    sam.together = 8  # as on CUDA
    bench = Bench(png(rectangles(4, 64)), Local().tools)
    views = ["img0", *(str(bench("ZOOM", on="img0", box=[0, 0, n, n]).ref) for n in (300, 500, 700))]

    def short(module: Any, inputs: tuple[Any, ...]) -> None:
        if len(inputs[0]) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    hook = network.image_encoder.register_forward_pre_hook(short)
    try:
        tool = SamSeg(sam)
        ids = {"SEG": tool.id}
        asks = [Ask.of(bench.workspace, ToolCall("SEG", {"on": on, "point": [500, 500]}), ids) for on in views]
        with pytest.raises(ToolFailure) as raised:
            tool.batch([(ask.workspace(bench.store), ask.args) for ask in asks], time.monotonic() + 60)
        assert (raised.value.cls, raised.value.code) == ("infra", "out_of_memory")
        answers = work(tool, bench.store, [(ask, None) for ask in asks], 60)
    finally:
        hook.remove()
    assert all(isinstance(answer.found, Outcome) for answer in answers)


def test_a_busy_model_is_waited_for_until_the_deadline_only(sam: Sam) -> None:
    bench = Bench(png(rectangles(4, 64)), {"SEG": SamSeg(sam)}, deadline=0.2)
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with sam.device.turn(time.monotonic() + 60):
            inside.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        inside.wait()
        assert refusal(bench("SEG", on="img0", point=[500, 500])) == ("infra", "timeout")
    finally:
        done.set()
        holder.join()
    assert Bench(png(rectangles(4, 64)), {"SEG": SamSeg(sam)})("SEG", on="img0", point=[500, 500]).ok


def test_weights_on_disk_give_the_same_answer_and_their_hash(tmp_path: Path, network: Any) -> None:
    import hashlib

    path = tmp_path / "any-name.pt"
    torch.save({"model": network.state_dict()}, path)
    sam = Sam.load(path, side=SIDE)
    data = png(rectangles(5, 64))
    ours, loaded = Bench(data, {"SEG": SamSeg(Sam(network, "sam2-test"))}), Bench(data, {"SEG": SamSeg(sam)})
    for prompt in PROMPTS:
        one, other = ours("SEG", on="img0", **prompt), loaded("SEG", on="img0", **prompt)
        assert one.payloads == other.payloads and one.data == other.data
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert other.tool == f"seg-sam2@1#sam2-1.1.0-hiera_t-{digest}-128"
    assert SamTrk(sam).id == f"trk-sam2@1#sam2-1.1.0-hiera_t-{digest}-128"


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.pt"
    for content in (b"", b"not weights", png(rectangles(1, 64))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.pt: not a SAM 2 checkpoint"):
            Sam.load(path)
    torch.save({"model": {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(7, 3, 7, 7)}}, path)
    with pytest.raises(ValueError, match="7 wide with 0 blocks"):
        Sam.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam2/sam2_hiera_t", *(f"sam2.1/sam2.1_hiera_{size}" for size in ("t", "s", "b+", "l"))])
def test_a_checkpoint_tells_its_config(name: str) -> None:
    config = f"configs/{name}.yaml"
    assert config_of(build(config, SIDE).state_dict()) == config


# TRK and its seams


def test_our_inference_state_has_the_names_of_the_original(tmp_path: Path, sam: Sam) -> None:
    bench = Bench(avi(moving_square(3)[0]))
    frames = _frames(sam, bench, [0, 1, 2])
    theirs = sam.network.init_state(str(_folder(tmp_path, bench, [0, 1, 2])))
    ours = inference_state(sam.network, frames)
    assert set(ours) == set(theirs)
    lazy = ("images", "cached_features")
    assert {k: v for k, v in ours.items() if k not in lazy} == {k: v for k, v in theirs.items() if k not in lazy}
    (image, features), (_, mine) = theirs["cached_features"][0], frames.get(0)
    assert mine.keys() <= features.keys() and image.dim() == 4
    for name in mine:
        assert [t.shape for t in mine[name]] == [t.shape for t in features[name]]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["box", "mask"])
def test_the_track_is_the_video_predictors(tmp_path: Path, sam: Sam, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 frames: longer than SAM's memory, so that what we let go of would be missed."""
    bench = Bench(avi(moving_square(40, 3)[0]))
    numbers = list(range(0, 40, 2))
    frames = _frames(sam, bench, numbers)
    inside = np.zeros((240, 320), bool)
    inside[90:138, 40:88] = True
    steps: list[dict[str, Any]] = []
    original = sam.network._run_single_frame_inference

    def kept(**rest: Any) -> Any:
        out, logits = original(**rest)
        steps.append(out)
        return out, logits

    monkeypatch.setattr(sam.network, "_run_single_frame_inference", kept)
    found = follow(sam, frames, (40, 90, 88, 138), inside if by == "mask" else None)
    ours, steps[:] = list(steps), []
    state = sam.network.init_state(str(_folder(tmp_path, bench, numbers)))
    with torch.inference_mode():
        pictures = [sam._picture(bench.store.pixels(View(frames.view.source, frames.view.rect, n))) for n in numbers]
    state["images"], state["cached_features"] = pictures, {}  # JPEG and another resizing aside, which is not our matter
    if by == "mask":
        sam.network.add_new_mask(state, 0, 1, inside)
    else:
        sam.network.add_new_points_or_box(state, 0, 1, box=np.array([40, 90, 88, 138], np.float32))
    theirs = [masks for _, _, masks in sam.network.propagate_in_video(state)]
    assert len(found) == len(theirs) == len(ours) == len(steps) == 20
    for mine, one in zip(ours, steps, strict=True):
        assert torch.equal(mine["pred_masks"], one["pred_masks"])
        assert torch.equal(mine["object_score_logits"], one["object_score_logits"])
    for spot, step, masks in zip(found[1:], steps[1:], theirs[1:], strict=True):
        rows, columns = np.nonzero(masks[0, 0].numpy() > 0)
        assert spot.score == pytest.approx(torch.sigmoid(step["object_score_logits"]).item(), abs=1e-6)
        if spot.visible:
            assert spot.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert any(spot.visible for spot in found[1:])


def _frames(sam: Sam, bench: Bench, numbers: list[int]) -> _Frames:
    return _Frames(sam, bench.store, bench.workspace.get("img0").view, numbers, time.monotonic() + 300)


def _folder(tmp_path: Path, bench: Bench, numbers: list[int]) -> Path:
    view = bench.workspace.get("img0").view
    for i, number in enumerate(numbers):
        Image.fromarray(bench.store.pixels(View(view.source, view.rect, number))).save(tmp_path / f"{i}.jpg")
    return tmp_path


def test_stride_and_window_choose_the_frames_and_features_are_kept(network: Any) -> None:
    sam = Sam(network, "sam2-test")
    bench = Bench(avi(moving_square(16)[0]), {"TRK": SamTrk(sam)}, memo_count=0)
    encoder = Counted(network.image_encoder)
    result = bench("TRK", on="img0", box=[125, 375, 275, 575], t0=250, t1=700, stride=2)
    assert [s[0] for s in spots(bench, result.ref)] == [4, 6, 8, 10] and encoder.pictures == 4
    assert spots(bench, result.ref)[0][1:] == ((40, 90, 88, 138), True)
    again = bench("TRK", on="img0", box=[125, 375, 275, 575], t0=250, t1=700, stride=2)
    assert encoder.pictures == 4 and again.payloads == result.payloads
    bench("TRK", on="img0", box=[400, 375, 575, 575], t0=250, t1=700, stride=2)  # another thing on the same frames
    assert encoder.pictures == 4
    one = bench("TRK", on="img0", box=[125, 375, 275, 575], t0=0, t1=0)
    assert len(spots(bench, one.ref)) == 1 and len(one.data["boxes"]) == 1


def test_seg_on_a_frame_and_trk_share_its_features(network: Any) -> None:
    sam = Sam(network, "sam2-test")
    bench = Bench(avi(moving_square(4)[0]), Local().tools | {"SEG": SamSeg(sam), "TRK": SamTrk(sam)})
    encoder = Counted(network.image_encoder)
    bench("TEMP", on="img0", window=[0, 0])
    assert bench("SEG", on="f1", box=[125, 375, 275, 575]).ref == "m1" and encoder.pictures == 1
    result = bench("TRK", on="img0", init="m1", t0=0)
    assert encoder.pictures == 4 and len(spots(bench, result.ref)) == 4


def test_a_mask_of_a_crop_starts_where_it_lies(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(avi(moving_square(4)[0]), Local().tools | {"TRK": SamTrk(sam)})
    bench("TEMP", on="img0", window=[0, 0])
    bench("ZOOM", on="f1", box=[100, 300, 400, 700])
    bench("SEG", on="img1", box=[50, 100, 600, 800])  # the classical SEG: a mask of the thing
    handle = bench.workspace.get("m1")
    assert isinstance(handle.payload, Mask)
    seen: list[np.ndarray] = []
    original = sam.network.add_new_mask
    monkeypatch.setattr(
        sam.network, "add_new_mask", lambda state, mask, **rest: seen.append(mask) or original(state, mask=mask, **rest)
    )
    bench("TRK", on="img0", init="m1", t0=0)
    x0, y0, x1, y1 = handle.view.rect
    assert seen[0].shape == (240, 320) and seen[0].sum() == handle.payload.area
    assert (seen[0][y0:y1, x0:x1] == handle.payload.array()).all()


def test_what_the_object_score_denies_is_out_of_sight() -> None:
    network = sam_network(SIDE)
    with torch.no_grad():
        network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(-9)
    bench = Bench(avi(moving_square(4)[0]), {"TRK": SamTrk(Sam(network, "sam2-test"))})
    assert refusal(bench("TRK", on="img0", box=[125, 375, 275, 575], t0=0)) == ("tool", "lost_at_once")
    found = follow(Sam(network, "sam2-test"), _frames(Sam(network, "sam2-test"), bench, [0, 1, 2]), (1, 2, 30, 40), None)
    assert [s.visible for s in found] == [True, False, False] and found[2].box == (1, 2, 30, 40)
    assert 0 < found[2].score < 0.01


def test_trk_stops_at_its_deadline_between_frames(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sam = Sam(network, "sam2-test")
    bench = Bench(avi(moving_square(12)[0]))
    frames = _frames(sam, bench, list(range(12)))
    counted = Counted(network.image_encoder)
    original = network._run_single_frame_inference

    def slow(**rest: Any) -> Any:
        if rest["frame_idx"] == 3:
            frames.until = time.monotonic() - 1
        return original(**rest)

    monkeypatch.setattr(network, "_run_single_frame_inference", slow)
    with pytest.raises(ToolFailure) as raised:
        follow(sam, frames, (40, 90, 88, 138), None)
    assert (raised.value.cls, raised.value.code) == ("infra", "timeout") and counted.pictures <= 4


def test_trk_refuses_what_the_classical_trk_refuses(sam: Sam) -> None:
    bench = Bench(avi(moving_square(4)[0]), Local().tools | {"TRK": SamTrk(sam)})
    assert refusal(bench("TRK", on="img0", init="img0", t0=0)) == ("policy", "wrong_modality")
    still = Bench(png(plate("K7P")), {"TRK": SamTrk(sam)})
    assert refusal(still("TRK", on="img0", box=[1, 1, 9, 9], t0=0)) == ("policy", "wrong_modality")


@pytest.mark.slow
def test_the_published_side_works_too() -> None:
    network = sam_network(1024)
    bench = Bench(jpeg(plate("K7P")), {"SEG": SamSeg(Sam(network, "sam2-test"))}, deadline=120)
    result = bench("SEG", on="img0", point=[500, 500])
    assert result.ok and mask(bench, result.ref).shape == (240, 320)


def test_features_are_float32_here_and_belong_to_the_view(sam: Sam) -> None:
    store = MediaStore()
    workspace = Workspace(store, store.put(png(rectangles(6, 64))))
    view = workspace.get("img0").view
    with sam.device.turn(time.monotonic() + 60):
        (levels,) = sam.features({view: store}, time.monotonic() + 60).values()
    assert [tuple(level.shape) for level in levels] == [(1, 32, 32, 32), (1, 64, 16, 16), (1, 256, 8, 8)]
    assert {level.dtype for level in levels} == {torch.float32} and {level.device.type for level in levels} == {"cpu"}
