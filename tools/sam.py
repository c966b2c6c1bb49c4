"""SEG and TRK with SAM 2: one network, whose picture features are shared by all prompts on a view."""

import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pixelis.tools.cache import Cache
from pixelis.tools.call import SegArgs, ToolFailure, TrkArgs
from pixelis.tools.device import Device, each, file_hash, finite, in_time, only
from pixelis.tools.frame import Rect, View
from pixelis.tools.handle import Mask, Spot, Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.seg import segment
from pixelis.tools.tool import Outcome
from pixelis.tools.trk import asked, followed
from pixelis.tools.zoom import still

CACHE_BYTES = 1 << 30  # a view's features are 16 MiB in float32
TOGETHER = 8  # most views encoded, or prompts decoded, at once on CUDA
SIDE = 1024  # pixels: what the published weights were trained at
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of the colours the published weights were trained on
SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}  # (width, blocks) of the image encoder
BOX = (2, 3)  # SAM's labels for the corners of a box; a point is 1, a negative point 0

Levels = tuple[Any, ...]
"""A view's features, three tensors 1xCxHxW from fine to coarse: what `forward_image` calls backbone_fpn."""


class Sam:
    """A SAM 2 network (SAM2VideoPredictor, which is also the image model) and the features it has made.

    `label` names the weights in the ids of its tools. Features are kept per (label, media hash, rectangle, frame).
    """

    def __init__(self, network: Any, label: str, device: str = "cpu", cache: Cache[Any] | None = None) -> None:
        self.device = Device(device)
        self.label = label + self.device.precision
        self.network = network.to(device).eval()
        self.network.fill_hole_area = 0  # needs sam2's compiled extension: results would depend on whether it was built
        self.cache: Cache[Any] = Cache(CACHE_BYTES) if cache is None else cache
        # On a processor it is slower together (sam2 tiny, one core): 4 views 17 s, not 4 times 3.5; 8 prompts 0.9 s, not 0.5.
        self.together = TOGETHER if self.device.name.startswith("cuda") else 1
        self.places: list[Any] = []  # position encodings, equal for all pictures

    @staticmethod
    def load(path: Path, device: str = "cpu", cache: Cache[Any] | None = None, side: int = SIDE) -> "Sam":
        """The network of a checkpoint file; raises ValueError with one line when the file holds something else."""
        import torch

        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)["model"]
            config = config_of(weights)
            network = build(config, side)
            network.load_state_dict(weights)
        except (KeyError, TypeError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            told = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"{path}: not a SAM 2 checkpoint: {told}") from error
        size = config.rpartition("_")[2].removesuffix(".yaml")
        label = f"sam2-{version('sam2')}-hiera_{size}-{file_hash(path)}"
        return Sam(network, label if side == SIDE else f"{label}-{side}", device, cache)

    def features(self, views: dict[View, MediaStore], until: float) -> dict[View, Levels | ToolFailure]:
        """The features of all views; those not kept are encoded. Call it in the device's turn."""
        found: dict[View, Levels | ToolFailure] = {}
        missing = []
        for view in views:
            kept = self.cache.get(self._key(view))
            if kept is None:
                missing.append(view)
            else:
                found[view] = kept
        pictures = each(lambda view: self._picture(views[view].pixels(view)), missing)
        ready = []
        for view, picture in zip(missing, pictures, strict=True):
            if isinstance(picture, ToolFailure):
                found[view] = picture
            else:
                ready.append((view, picture))
        for start in range(0, len(ready), self.together):
            in_time(until, f"SAM 2 had encoded {start} of {len(ready)} views")
            found |= self._encode(ready[start : start + self.together])
        return found

    def masks(
        self, levels: Levels, size: tuple[int, int], points: Any, labels: Any
    ) -> list[tuple[np.ndarray, float] | ToolFailure]:
        """The best mask and its predicted IoU for each of B prompts on one view; HxW bool, H and W being `size`.

        `points` is BxNx2 (x, y) in pixels of the view, `labels` BxN. This is what SAM2ImagePredictor._predict does,
        less the enlarging of the masks that are not the best: those of an 8000x6000 picture would take 1 GB a prompt.
        """
        import torch

        net, (height, width) = self.network, size
        where = torch.as_tensor(points, dtype=torch.float32) / torch.tensor([width, height]) * net.image_size
        kinds = torch.as_tensor(labels, dtype=torch.int32)
        sparse, dense = net.sam_prompt_encoder(
            points=(where.to(self.device.name), kinds.to(self.device.name)), boxes=None, masks=None
        )
        fine, middle, coarse = levels
        if net.directly_add_no_mem_embed:
            coarse = coarse + net.no_mem_embed.reshape(1, -1, 1, 1)
        low, ious, _, _ = net.sam_mask_decoder(
            image_embeddings=coarse,
            image_pe=net.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=len(where) > 1,
            high_res_features=[fine, middle],
        )
        return each(lambda one: _best(*one, size), zip(low.float(), ious.float(), strict=True))

    def _key(self, view: View) -> tuple[str, View]:
        return self.label, view

    def _picture(self, pixels: np.ndarray) -> Any:
        """HxWx3 uint8 to the network's input, 3xSxS: what sam2's SAM2Transforms does, but on the device."""
        import torch
        from torchvision.transforms import functional

        picture = torch.from_numpy(np.array(pixels)).to(self.device.name).permute(2, 0, 1).float() / 255
        side = [self.network.image_size] * 2
        return functional.normalize(functional.resize(picture, side, antialias=True), MEAN, STD)

    def _encode(self, pictures: list[tuple[View, Any]]) -> dict[View, Levels]:
        import torch

        out = self.network.forward_image(torch.stack([picture for _, picture in pictures]))
        self.places = self.places or [place[:1].clone() for place in out["vision_pos_enc"]]
        made: dict[View, Levels] = {}
        for i, (view, _) in enumerate(pictures):
            levels = tuple(level[i : i + 1].clone() for level in out["backbone_fpn"])  # a slice would hold the whole batch
            made[view] = self.cache.put(self._key(view), levels, sum(level.nbytes for level in levels))
        return made


class SamSeg:
    """SEG by point or box; raises tool no_segment when the mask is next to nothing, tool unknown_text for text."""

    def __init__(self, sam: Sam) -> None:
        self.sam = sam
        self.id = f"seg-sam2@1#{sam.label}"

    def run(self, workspace: Workspace, args: SegArgs, until: float) -> Outcome:
        """One mask handle on the view of `on`; {"box", "area" per mille of the view, "score": predicted IoU 0..1000}."""
        return only(self.batch([(workspace, args)], until))

    def batch(self, asked: Sequence[tuple[Workspace, SegArgs]], until: float) -> list[Outcome | ToolFailure]:
        """On CUDA views that are not known are encoded together, and prompts of one form on one view decoded together."""
        prompts = each(lambda one: _prompt(*one), asked)
        found: list[Outcome | ToolFailure | None] = [p if isinstance(p, ToolFailure) else None for p in prompts]
        alike: dict[tuple[View, int, bool], list[int]] = defaultdict(list)
        for i, prompt in enumerate(prompts):
            if isinstance(prompt, _Prompt):
                alike[prompt.view, len(prompt.labels), prompt.labels[0] == BOX[0]].append(i)
        with self.sam.device.turn(until):
            stores = {view: asked[places[0]][0].store for (view, _, _), places in alike.items()}
            features = self.sam.features(stores, until)
            for (view, _, _), places in alike.items():
                for start in range(0, len(places), self.sam.together):
                    some = places[start : start + self.sam.together]
                    answers = self._answers(features[view], [p for i in some if isinstance(p := prompts[i], _Prompt)])
                    for i, answer in zip(some, answers, strict=True):
                        found[i] = answer
        return [answer for answer in found if answer is not None]

    def _answers(self, levels: Levels | ToolFailure, prompts: list["_Prompt"]) -> list[Outcome | ToolFailure]:
        if isinstance(levels, ToolFailure):
            return [levels] * len(prompts)
        size = (prompts[0].view.height, prompts[0].view.width)
        best = self.sam.masks(levels, size, [p.points for p in prompts], [p.labels for p in prompts])
        # Each in its own view: views of the same pixels are equal, yet their 0 and 1000 may lie a fraction of one apart.
        return each(lambda one: _segment(*one), zip([p.view for p in prompts], best, strict=True))


class SamTrk:
    """TRK by SAM 2's memory; a spot's `score` is the object score, in sight from 0.5. Raises tool lost_at_once."""

    def __init__(self, sam: Sam) -> None:
        self.sam = sam
        self.id = f"trk-sam2@1#{sam.label}"

    def run(self, workspace: Workspace, args: TrkArgs, until: float) -> Outcome:
        """One track handle; {"boxes": [[t, x0, y0, x1, y1], ...]}: at most 8 samples of where it was in sight."""
        view, numbers, start = asked(workspace, args)
        frames = _Frames(self.sam, workspace.store, view, numbers, until)
        mask = workspace.get(args.init) if args.init is not None else None
        prompt = None if mask is None else _in_clip(view, mask.view, mask.payload)
        return followed(workspace, view, follow(self.sam, frames, start, prompt))


class _Frames:
    """The visited frames as the inference state's `cached_features`: encoded when asked for, kept in the shared cache."""

    def __init__(self, sam: Sam, store: MediaStore, view: View, numbers: list[int], until: float) -> None:
        self.sam, self.store, self.view, self.numbers, self.until = sam, store, view, numbers, until

    def __len__(self) -> int:
        return len(self.numbers)

    def get(self, index: int, missing: Any = None) -> tuple[Any, dict[str, list[Any]]]:
        """The network's input, of which only the number of its dimensions is looked at, and the features of a frame."""
        view = View(self.view.source, self.view.rect, self.numbers[index])
        (levels,) = self.sam.features({view: self.store}, self.until).values()
        if isinstance(levels, ToolFailure):
            raise levels
        return levels[0][:, :, :1, :1], {"backbone_fpn": list(levels), "vision_pos_enc": list(self.sam.places)}


def follow(sam: Sam, frames: _Frames, start: Rect, mask: np.ndarray | None) -> list[Spot]:
    """A Spot per frame, the first one being `start` (source pixels); the prompt is `mask` (HxW of the clip) or `start`.

    This is SAM2VideoPredictor.propagate_in_video without its progress bar, one frame per turn on the device, and with
    what the memory no longer looks at let go. Relied on: `inference_state`, `propagate_in_video_preflight`,
    `_run_single_frame_inference` and the names inside the state; tests/tools/test_sam.py compares with the original.
    """
    network, view, numbers, until = sam.network, frames.view, frames.numbers, frames.until
    spots = [Spot(numbers[0], start, 1.0, True)]
    if len(numbers) == 1:
        return spots
    state = inference_state(network, frames)
    with sam.device.turn(until):
        _prompted(network, state, view, start, mask)
        network.propagate_in_video_preflight(state)
    outputs = state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
    reach = max(network.num_maskmem * network.memory_temporal_stride_for_eval, network.max_obj_ptrs_in_encoder)
    for index in range(1, len(numbers)):
        in_time(until, f"TRK had followed {index} of {len(numbers)} frames")
        with sam.device.turn(until):
            outputs[index], logits = network._run_single_frame_inference(
                inference_state=state,
                output_dict=state["output_dict_per_obj"][0],
                frame_idx=index,
                batch_size=1,
                is_init_cond_frame=False,
                point_inputs=None,
                mask_inputs=None,
                reverse=False,
                run_mem_encoder=True,
            )
            spots.append(_spot(view, numbers[index], spots[-1].box, outputs[index]["object_score_logits"], logits))
        outputs.pop(index - reach, None)
    return spots


def inference_state(network: Any, frames: _Frames) -> dict[str, Any]:
    """What SAM2VideoPredictor.init_state makes from a folder of JPEG files, made from frames that we decode.

    `cached_features` is asked first and never misses, so `images` stays unread.
    """
    return {
        "images": frames,
        "num_frames": len(frames),
        "offload_video_to_cpu": False,
        "offload_state_to_cpu": False,
        "video_height": frames.view.height,
        "video_width": frames.view.width,
        "device": network.device,
        "storage_device": network.device,
        "point_inputs_per_obj": {},
        "mask_inputs_per_obj": {},
        "cached_features": frames,
        "constants": {},
        "obj_id_to_idx": OrderedDict(),
        "obj_idx_to_id": OrderedDict(),
        "obj_ids": [],
        "output_dict_per_obj": {},
        "temp_output_dict_per_obj": {},
        "frames_tracked_per_obj": {},
    }


def config_of(weights: dict[str, Any]) -> str:
    """The config inside the sam2 package that fits a checkpoint's tensors; raises KeyError for an unknown network."""
    width = weights["image_encoder.trunk.patch_embed.proj.weight"].shape[0]
    blocks = {name.split(".")[3] for name in weights if name.startswith("image_encoder.trunk.blocks.")}
    if (width, len(blocks)) not in SIZES:
        raise KeyError(f"an image encoder {width} wide with {len(blocks)} blocks")
    family = "sam2.1" if "no_obj_embed_spatial" in weights else "sam2"
    return f"configs/{family}/{family}_hiera_{SIZES[width, len(blocks)]}.yaml"


def build(config: str, side: int = SIDE) -> Any:
    """An untrained network by one of sam2's own configs, for pictures of side x side pixels."""
    from sam2.build_sam import build_sam2_video_predictor

    return build_sam2_video_predictor(config, device="cpu", hydra_overrides_extra=[f"++model.image_size={side}"])


@dataclass(frozen=True, slots=True)
class _Prompt:
    """Points on a view, (x, y) in its pixels, with SAM's labels; a box is its two corners."""

    view: View
    points: tuple[tuple[float, float], ...]
    labels: tuple[int, ...]


def _prompt(workspace: Workspace, args: SegArgs) -> _Prompt:
    view = still(workspace, args.on).view
    if args.text is not None:
        raise ToolFailure("tool", "unknown_text", "SAM 2 takes points and boxes only")
    at = partial(_pixels, view)
    avoid = [at(*point) for point in args.neg]
    if args.box is not None:
        x0, y0, x1, y1 = args.box
        return _Prompt(view, (at(x0, y0), at(x1, y1), *avoid), (*BOX, *[0] * len(avoid)))
    assert args.point is not None
    return _Prompt(view, (at(*args.point), *avoid), (1, *[0] * len(avoid)))


def _segment(view: View, found: tuple[np.ndarray, float] | ToolFailure) -> Outcome:
    if isinstance(found, ToolFailure):
        raise found
    inside, iou = found
    return segment(view, inside, round(1000 * min(1.0, max(0.0, iou))))


def _pixels(view: View, x: float, y: float) -> tuple[float, float]:
    """0..1000 of a view as pixels from its own corner, not rounded."""
    across, down = view.to_source(x, y)
    return across - view.rect[0], down - view.rect[1]


def _best(logits: Any, ious: Any, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Of some masks (Mxhxw) and their predicted IoUs (M) the one that promises most."""
    best = int(finite(ious, "SAM 2's predicted IoU").argmax())
    return _enlarged(logits[best], size), float(ious[best])


def _enlarged(logits: Any, size: tuple[int, int]) -> np.ndarray:
    """Low-resolution logits hxw to an HxW bool mask, bilinear as sam2 does it; raises infra bad_result."""
    import torch

    logits = finite(logits.float(), "a mask of SAM 2")[None, None]
    large = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
    return (large[0, 0] > 0).cpu().numpy()


def _in_clip(view: View, of: View, mask: Any) -> np.ndarray:
    """A mask of some part of a frame as an array of the clip's size."""
    assert isinstance(mask, Mask)
    whole = np.zeros((view.height, view.width), bool)
    left, top = of.rect[0] - view.rect[0], of.rect[1] - view.rect[1]
    whole[top : top + mask.height, left : left + mask.width] = mask.array()
    return whole


def _prompted(network: Any, state: dict[str, Any], view: View, start: Rect, mask: np.ndarray | None) -> None:
    if mask is not None:
        network.add_new_mask(state, frame_idx=0, obj_id=1, mask=mask)
        return
    left, top = view.rect[0], view.rect[1]
    box = np.array([start[0] - left, start[1] - top, start[2] - left, start[3] - top], np.float32)
    network.add_new_points_or_box(state, frame_idx=0, obj_id=1, box=box)


def _spot(view: View, number: int, last: Rect, score: Any, logits: Any) -> Spot:
    """Where the thing is in one frame; out of sight it stays where it was."""
    sure = float(finite(score.float(), "SAM 2's object score").sigmoid().item())
    inside = _enlarged(logits[0, 0], (view.height, view.width))
    if sure <= 0.5 or not inside.any():
        return Spot(number, last, sure, False)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    left, top = view.rect[0], view.rect[1]
    box = (left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1)
    return Spot(number, box, sure, True)
