"""A policy folder as a network: load, encode views once, run text with cached visual features.

A policy folder is a plain transformers checkpoint (`config.json`, `model.safetensors`, tokenizer files) plus `policy.json`,
the card that says how views are shown; a published Qwen3-VL has none yet. The same code serves the nano policy and the 8B.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pixelis.memory.layout import Layout
from pixelis.tools.frame import View
from pixelis.tools.media import MediaStore

if TYPE_CHECKING:  # transformers' Qwen3-VL takes seconds to import: only a process that opens a policy pays
    from transformers import PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration


Precision = Literal["auto", "float32", "bfloat16"]
"""What a network computes in; `auto`: as its policy folder says."""
TOKENIZERS = ("tokenizer.json", "vocab.json")
"""Files of which a folder with a tokenizer holds one."""


class ModelError(ValueError):
    """A policy folder that cannot be loaded; the message says what is missing and where."""


@dataclass(frozen=True, slots=True)
class Card:
    """How a policy is talked to, saved beside its weights as `policy.json`."""

    system: str = ""
    """Text of the system turn; empty for none."""
    image_area: int = 1_003_520
    """Square pixels at which an image, or a crop of one, is shown at most: 980 tokens of 32 x 32 pixels."""
    frame_area: int = 200_704
    """The same of a frame of a clip: 196 tokens."""
    max_scale: float = 1.0
    """Largest ratio of shown to source side."""
    clip_frames: int = 8
    """Frames of a clip shown with the question, evenly spaced."""
    grid: tuple[int, ...] = ()
    """Coordinates the tokenizer has tokens for; numbers in observations are snapped to them. Empty: any integer."""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Card:
        """From JSON."""
        return cls(**{**told, "grid": tuple(told.get("grid", ()))})


@dataclass(frozen=True, slots=True)
class Features:
    """What the vision tower says of one view: [n, d] for the input and for each deepstack layer."""

    pooled: Tensor
    deepstack: tuple[Tensor, ...]

    def to(self, dtype: torch.dtype) -> Features:
        """The same features in another dtype."""
        return Features(self.pooled.to(dtype), tuple(layer.to(dtype) for layer in self.deepstack))


class Model:
    """A policy: network, tokenizer and layout."""

    def __init__(self, net: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, card: Card) -> None:
        self.net = net
        self.tokenizer = tokenizer
        self.card = card
        config: Any = net.config  # transformers types its parts as dict or None
        vision = config.vision_config
        self._time = vision.temporal_patch_size
        self.layout = Layout(
            patch=vision.patch_size,
            merge=vision.spatial_merge_size,
            image_area=card.image_area,
            frame_area=card.frame_area,
            max_scale=card.max_scale,
            start=config.vision_start_token_id,
            pad=config.image_token_id,
            end=config.vision_end_token_id,
        )
        placeholders = {self.layout.start, self.layout.pad, self.layout.end, config.video_token_id}
        self._unwritable = torch.tensor(sorted(placeholders), device=net.device)

    @classmethod
    def load(
        cls, folder: str | Path, dtype: Precision = "auto", device: str | torch.device = "cpu", card: Card | None = None
    ) -> Model:
        """Open a policy folder. ModelError says in one line what is missing or does not fit (`check`).

        `dtype`: what it computes in; by default what the folder says its weights are. `card`: of a folder that has none.
        """
        folder = Path(folder)
        check(folder)
        from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

        net: Any = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=dtype, local_files_only=True)
        return cls(net.to(device), AutoTokenizer.from_pretrained(folder, local_files_only=True), read_card(folder, card))

    def save(self, folder: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write a policy folder that `load` and transformers' `from_pretrained` open; `state`: these tensors instead."""
        folder = Path(folder)
        self.net.save_pretrained(folder, state_dict=None if state is None else dict(state))
        self.tokenizer.save_pretrained(folder)
        (folder / "policy.json").write_text(json.dumps(asdict(self.card), indent=1))

    def with_eyes_of_its_own(self) -> Model:
        """The same policy with a copy of the vision tower that nothing trains; the text side is shared."""
        shared = {id(part): part for part in (self.net.model.language_model, self.net.lm_head)}
        return Model(copy.deepcopy(self.net, shared).eval(), self.tokenizer, self.card)

    @property
    def device(self) -> torch.device:
        """Where its weights are, and what it is given must be."""
        return self.net.device

    def patches(self, view: View, store: MediaStore) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Patches [n, channels * time * patch * patch] of a view in merge order, and its (1, rows, columns) patch grid.

        The same values as transformers' Qwen2-VL image processor without resizing (a test compares them).
        """
        height, width = self.layout.size(view)
        image = cv2.resize(store.pixels(view), (width, height), interpolation=cv2.INTER_AREA)
        return self.patchify(image)

    def patchify(self, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
        """`patches` for pixels uint8 [height, width, 3] whose sides are already multiples of a token's."""
        patch, merge, time = self.layout.patch, self.layout.merge, self._time
        rows, cols = image.shape[0] // patch, image.shape[1] // patch
        x = (image.astype(np.float32) / 127.5 - 1.0).transpose(2, 0, 1)
        x = x.reshape(3, rows // merge, merge, patch, cols // merge, merge, patch)
        x = x.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
        x = np.repeat(x, time, axis=5)
        return x.reshape(rows * cols, -1), (1, rows, cols)

    def encode(self, patches: Sequence[np.ndarray], grids: Sequence[tuple[int, int, int]]) -> list[Features]:
        """Features of some views, one forward of the vision tower."""
        visual = self.net.model.visual
        pixels = torch.from_numpy(np.concatenate(patches)).to(visual.device, visual.dtype)
        out = visual(pixels, grid_thw=torch.tensor(grids, device=visual.device), return_dict=True)
        counts = [rows * cols // visual.spatial_merge_size**2 for _, rows, cols in grids]
        layers = [layer.split(counts) for layer in out.deepstack_features]
        return [
            Features(pooled, tuple(layer[i] for layer in layers)) for i, pooled in enumerate(out.pooler_output.split(counts))
        ]

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        features: Sequence[Features],
        mask: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Last hidden states [B, S, d] of `tokens` [B, S] at `positions` [3, B, S].

        `features` lists what the placeholders show, row by row. Without a mask attention is causal: pad on the right. With
        a fourth line of positions before the others, several sequences may share a row: each begins at its 0, and sees
        itself alone.
        """
        text = self.net.model.language_model
        embeds = text.embed_tokens(tokens)
        visual = tokens == self.layout.pad
        deepstack: list[Tensor] | None = None
        if features:
            pooled = torch.cat([f.pooled for f in features]).to(embeds.dtype)
            embeds = embeds.masked_scatter(visual.unsqueeze(-1), pooled)
            layers = zip(*(f.deepstack for f in features), strict=True)
            deepstack = [torch.cat(layer).to(embeds.dtype) for layer in layers]
        return text(
            inputs_embeds=embeds,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            visual_pos_masks=visual if deepstack else None,
            deepstack_visual_embeds=deepstack,
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., vocabulary] in float32 of hidden states [..., d]; a policy can never write a placeholder."""
        return self.net.lm_head(hidden).float().index_fill(-1, self._unwritable, -torch.inf)


def device_of(gpus: float) -> torch.device:
    """Where a process computes that was given so many GPUs (or a part of one). ModelError when it sees none."""
    if not gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ModelError(f"{gpus:g} GPU asked for, and torch {torch.__version__} sees none here")
    torch.set_float32_matmul_precision("high")  # adapters are float32: without TF32 they take longer than what they adapt
    return torch.device("cuda")


def read_card(folder: Path, otherwise: Card | None = None) -> Card:
    """The card of a policy folder, or of one that has none `otherwise` (the defaults, which suit a published Qwen3-VL).

    ModelError names what is missing or wrong: files, model type, fields of the card.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is not a policy folder: config.json is missing")
    if not any((folder / name).is_file() for name in TOKENIZERS):  # transformers would make up an empty one
        raise ModelError(f"{folder} is not a policy folder: {' or '.join(TOKENIZERS)} is missing")
    kind = _json(folder / "config.json").get("model_type")
    if kind != "qwen3_vl":
        raise ModelError(f"{folder} holds a {kind!r} model; pixelis needs qwen3_vl")
    if not (folder / "policy.json").is_file():
        return otherwise or Card()
    told = _json(folder / "policy.json")
    unknown = set(told) - {field.name for field in fields(Card)}
    if unknown:
        raise ModelError(f"{folder / 'policy.json'}: unknown {', '.join(sorted(unknown))}")
    return Card.of(told)


def check(folder: Path) -> dict[str, tuple[int, ...]]:
    """Whether a policy folder can be loaded, from the heads of its files; returns name -> shape of every weight.

    ModelError in one line: transformers fills a missing weight with random numbers, and prints a table for a wrong shape.
    """
    read_card(folder)
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    with torch.device("meta"):
        net: Any = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_pretrained(folder, local_files_only=True))
    wanted = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    found, tied = _stored(folder), set(net.all_tied_weights_keys or ())
    for name, shape in found.items():
        if name not in wanted:
            raise ModelError(f"{folder}: {name} is no weight of the network in its config.json")
        if shape != wanted[name]:
            raise ModelError(f"{folder}: {name} has shape {shape}, its config.json says {wanted[name]}")
    missing = sorted(set(wanted) - set(found) - tied)
    if missing:
        raise ModelError(f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}")
    return wanted


def _stored(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the weights on disk; nothing but the heads of the files is read."""
    shapes: dict[str, tuple[int, ...]] = {}
    index = folder / "model.safetensors.index.json"
    names = set(_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    for name in sorted(names):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} is not a policy folder: {name} is missing")
        try:
            with safe_open(folder / name, framework="pt") as file:
                shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  # not a dict
        except SafetensorError as e:
            raise ModelError(f"{folder / name}: not a whole safetensors file: {e}") from e
    return shapes


def _json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text())
    except ValueError as e:
        raise ModelError(f"{path}: not JSON: {e}") from e
    if not isinstance(told, dict):
        raise ModelError(f"{path}: not a JSON object")
    return told


class FeatureCache:
    """Features by view, for as long as no vision parameter trains. Bounded by bytes, oldest out first.

    Kept in half precision: float16, or bfloat16 where the network computes in that.
    """

    def __init__(self, model: Model, store: MediaStore, dtype: torch.dtype | None = None, limit: int = 2**30) -> None:
        own = model.net.dtype
        self.model, self.store, self.limit = model, store, limit
        self.dtype = dtype or (torch.float16 if own == torch.float32 else own)
        self._kept: dict[View, Features] = {}
        self._bytes = 0

    @torch.no_grad()
    def get(self, views: Sequence[View]) -> list[Features]:
        """Features of `views`; the missing ones are encoded together, each once."""
        missing = [view for view in dict.fromkeys(views) if view not in self._kept]
        fresh: dict[View, Features] = {}
        for at in range(0, len(missing), 64):
            some = missing[at : at + 64]
            patches, grids = zip(*(self.model.patches(view, self.store) for view in some), strict=True)
            for view, features in zip(some, self.model.encode(patches, grids), strict=True):
                fresh[view] = features.to(self.dtype)
        found = [fresh[view] if view in fresh else self._kept[view] for view in views]
        for view, features in fresh.items():
            self._keep(view, features)
        return found

    def clear(self) -> None:
        """Forget everything: the vision weights changed."""
        self._kept.clear()
        self._bytes = 0

    def _keep(self, view: View, features: Features) -> None:
        size = sum(t.numel() * t.element_size() for t in (features.pooled, *features.deepstack))
        # clones: a slice would keep the whole batch alive
        self._kept[view] = Features(features.pooled.clone(), tuple(t.clone() for t in features.deepstack))
        self._bytes += size
        while self._bytes > self.limit and self._kept:
            old = self._kept.pop(next(iter(self._kept)))
            self._bytes -= sum(t.numel() * t.element_size() for t in (old.pooled, *old.deepstack))
