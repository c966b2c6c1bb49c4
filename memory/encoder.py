"""What makes the keys of the episode memory: the policy's own towers, or a model from a local folder (paper 6.2).

The policy's must be those of phase 1, whatever is trained later, since keys of other weights cannot be compared: an encoder
keeps copies of the weights that it was made with.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelis.memory.model import Model, ModelError
from pixelis.memory.recall import Encoder
from pixelis.tools.frame import View, frame_at
from pixelis.tools.media import MediaStore

FRAMES = 8
"""Frames of a clip that its key is the mean of, evenly spaced."""


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """Local folders; "" stands for the policy's own towers."""

    text: str = ""
    """A sentence-transformers model."""
    pixels: str = ""
    """A SigLIP model."""


def encoders(model: Model, store: MediaStore, settings: EncoderSettings) -> tuple[Encoder, Encoder]:
    """What makes keys of questions, and of media in a store. ModelError in one line for a folder that is no such model.

    Example: EpisodeMemory(shards, *encoders(model, store, EncoderSettings()))
    """
    text: Encoder = Sentences(settings.text) if settings.text else Words(model)
    pixels: Encoder = Siglip(settings.pixels, store) if settings.pixels else Tower(model, store)
    return text, pixels


class Words:
    """Questions as the mean of their words' embeddings: no forward, and as good as hidden states where it was measured."""

    def __init__(self, model: Model) -> None:
        self._tokenizer = model.tokenizer
        self._rows = model.net.model.language_model.embed_tokens.weight.detach().clone()
        self.hash = _digest("mean of word embeddings", [("embed_tokens", self._rows)])

    def __call__(self, items: Sequence[str], /) -> np.ndarray:
        """Keys float32 [n, d]. ValueError for a question without words."""
        out = np.zeros((len(items), self._rows.shape[1]), np.float32)
        for i, question in enumerate(items):
            ids = self._tokenizer.encode(question, add_special_tokens=False)
            if not ids:
                raise ValueError(f"question {question!r} has no words to be found by")
            out[i] = self._rows[ids].float().mean(0).cpu().numpy()
        return out


class Tower:
    """Media as the mean of the tokens that the policy's vision tower makes of them."""

    def __init__(self, model: Model, store: MediaStore) -> None:
        self._model, self._store = model, store
        self._visual: Any = copy.deepcopy(model.net.model.visual).eval()
        self.hash = _digest(f"mean of tokens {model.card}", self._visual.state_dict().items())

    @torch.no_grad()
    def __call__(self, items: Sequence[str], /) -> np.ndarray:
        """Keys float32 [n, d]. MediaError for a medium that is not in the store, or cannot be decoded."""
        out = []
        for sha in items:
            patches, grids = zip(*(self._model.patches(view, self._store) for view in shown(sha, self._store)), strict=True)
            pixels = torch.from_numpy(np.concatenate(patches)).to(self._visual.device, self._visual.dtype)
            tokens = self._visual(pixels, grid_thw=torch.tensor(grids, device=pixels.device), return_dict=True).pooler_output
            out.append(tokens.float().mean(0).cpu().numpy())
        return np.array(out, np.float32)


class Siglip:
    """Media as a SigLIP model sees them."""

    def __init__(self, folder: str | Path, store: MediaStore) -> None:
        from transformers import AutoImageProcessor, AutoModel

        self._store = store
        self._net: Any = _loaded(AutoModel, folder)
        self._processor: Any = _loaded(AutoImageProcessor, folder)
        if not hasattr(self._net, "get_image_features"):
            raise ModelError(f"{folder} holds a {self._net.config.model_type!r} model; pixel keys need one like siglip")
        self._net.eval()
        self.hash = _digest("siglip", self._net.vision_model.state_dict().items())

    @torch.no_grad()
    def __call__(self, items: Sequence[str], /) -> np.ndarray:
        """Keys float32 [n, d]. MediaError for a medium that is not in the store, or cannot be decoded."""
        out = []
        for sha in items:
            pictures = [np.ascontiguousarray(self._store.pixels(view)) for view in shown(sha, self._store)]
            told = self._net.get_image_features(**self._processor(images=pictures, return_tensors="pt"))
            features = told if isinstance(told, Tensor) else told.pooler_output
            out.append(torch.nn.functional.normalize(features.float(), dim=-1).mean(0).numpy())
        return np.array(out, np.float32)


class Sentences:
    """Questions as a sentence-transformers model reads them."""

    def __init__(self, folder: str | Path) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as e:
            raise ModelError(f"{folder}: text keys of this model need `pip install sentence-transformers`") from e
        if not Path(folder).is_dir():
            raise ModelError(f"{folder}: no such folder; models are loaded from local folders only")
        self._net = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        self.hash = _digest("sentence-transformers", self._net.state_dict().items())

    def __call__(self, items: Sequence[str], /) -> np.ndarray:
        """Keys float32 [n, d]."""
        return np.asarray(self._net.encode(list(items), show_progress_bar=False), np.float32)


def shown(sha: str, store: MediaStore) -> list[View]:
    """The whole picture, or evenly spaced frames of the clip."""
    info = store.info(sha)
    whole = (0, 0, info.width, info.height)
    if info.kind == "image":
        return [View(sha, whole)]
    return [View(sha, whole, frame_at(i * 1000 // FRAMES, info.frames)) for i in range(FRAMES)]


def _loaded(kind: Any, folder: str | Path) -> Any:
    if not Path(folder).is_dir():
        raise ModelError(f"{folder}: no such folder; models are loaded from local folders only")
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as e:
        raise ModelError(f"{folder}: {str(e).splitlines()[0]}") from e


def _digest(how: str, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 of weights and of how they are used."""
    found = hashlib.sha256(how.encode())
    for name, tensor in sorted(tensors, key=lambda one: one[0]):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
