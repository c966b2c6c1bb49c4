"""Which policy a path means: a policy folder, a checkpoint of a phase, or a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelis.cluster.errors import UsageError
from pixelis.memory.checkpoint import MANIFEST, CheckpointError, latest, load

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pixelis.memory.lora import LoraSettings
    from pixelis.memory.model import Card, Model, Precision

PHASES = ("ttrl", "rft", "sft")


@dataclass(frozen=True, slots=True)
class Source:
    """A policy on disk: its folder, and the checkpoint whose tensors go over it."""

    folder: Path
    checkpoint: Path | None = None
    lora: LoraSettings | None = None
    """Of the adapters that the checkpoint's tensors are, if they are that."""
    card: Card | None = None
    """What the checkpoint says of a folder without policy.json."""


def resolve(path: str | Path) -> Source:
    """What `path` holds, looked at without loading it. CheckpointError or ModelError in one line when that is no policy.

    A run means its last phase's finished policy, or else its newest checkpoint.
    """
    source = _find(Path(path))
    from pixelis.memory import lora
    from pixelis.memory.model import check

    shapes = check(source.folder)
    if source.checkpoint is not None:
        expected = lora.shapes(shapes, source.lora) if source.lora else shapes
        _fits(source.checkpoint, _served(source.checkpoint), expected)
    return source


def _find(path: Path) -> Source:
    if (path / "config.json").is_file():
        return Source(path)
    if (path / MANIFEST).is_file():
        state = load(path).state
        if "base" not in state:
            raise CheckpointError(f"{path}: a checkpoint, but not one of a training phase")
        if not Path(state["base"]).is_dir():
            raise CheckpointError(f"{path}: the policy it started from is gone: {state['base']}")
        return Source(Path(state["base"]), path, _lora_of(state), _card_of(state))
    for phase in PHASES:
        if (path / "policy" / phase / "policy.json").is_file():
            return Source(path / "policy" / phase)
        newest = latest(path / "checkpoints" / phase)
        if newest is not None:
            return _find(newest)
    if not path.exists():
        raise CheckpointError(f"{path}: does not exist")
    raise CheckpointError(f"{path}: no policy here (neither config.json, nor a checkpoint, nor a run)")


def _lora_of(state: Mapping[str, Any]) -> LoraSettings | None:
    from pixelis.memory.lora import LoraSettings

    told = state.get("lora", {})
    return LoraSettings(**told) if told.get("rank") else None


def _card_of(state: Mapping[str, Any]) -> Card | None:
    from pixelis.memory.model import Card

    return Card.of(state["card"]) if "card" in state else None


def open_policy(
    path: str | Path, dtype: Precision = "auto", device: str | torch.device = "cpu", card: Card | None = None
) -> Model:
    """The policy that `path` means, loaded whole: adapters are added to their matrices. `card`: as in `Model.load`."""
    from pixelis.memory.lora import adapt, merge
    from pixelis.memory.model import Model

    source = resolve(path)
    model = Model.load(source.folder, dtype, device, source.card or card)
    if source.checkpoint is not None:
        if source.lora:
            adapt(model, source.lora)
        put(model, source.checkpoint)
        merge(model)
    return model


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What CC-RFT leaves to the phase after it: its statistics, and the policy that they are of."""

    origin: Path
    tensors: Mapping[str, Tensor]
    state: dict[str, Any]


def inheritance(path: str | Path) -> Inheritance | None:
    """What the newest checkpoint of CC-RFT has in the run that a policy is of; None where there is none, or it paid for
    neither curiosity nor coherence, or the policy that it started from is gone."""
    policy = _find(Path(path)).folder.resolve()
    newest = latest(policy.parent.parent / "checkpoints" / "rft") if policy.name == "rft" else None
    if newest is None:
        return None
    found = load(newest)
    state = found.state["learner"].get("intrinsic", {})
    origin = Path(found.state["base"])
    if not {"curiosity", "coherence"} & state.keys() or not origin.is_dir():
        return None
    return Inheritance(origin, found.tensors.get("intrinsic", {}), state)


def check_start(path: str | Path, lora: LoraSettings) -> None:
    """Whether a phase can start from what `path` means. UsageError for adapters on anything but a whole policy."""
    source = resolve(path)
    if source.checkpoint and (source.lora or lora.rank):
        raise UsageError(
            f"{path}: with adapters a phase starts from a whole policy, and this is checkpoint {source.checkpoint}: "
            f"write it with `pixelis export {source.checkpoint} FOLDER` and start from FOLDER"
        )


def export(path: str | Path, folder: Path, adapter: bool = False) -> None:
    """Write the policy that `path` means as a plain transformers checkpoint. UsageError when `folder` holds something.

    `adapter`: only what peft's `PeftModel.from_pretrained` puts over the policy that the phase started from.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: there is something already; name a folder that is empty or does not exist")
    if adapter:
        from pixelis.memory.lora import save_adapter

        source, settings, checkpoint = _adapted(Path(path))
        save_adapter(_served(checkpoint), settings, source, folder)
    else:
        open_policy(path).save(folder)


def _adapted(path: Path) -> tuple[Path, LoraSettings, Path]:
    """The policy folder, the adapters' settings and the newest checkpoint with adapters of what `path` means."""
    found = [path] if (path / MANIFEST).is_file() else [latest(path / "checkpoints" / phase) for phase in PHASES]
    checkpoint = next((one for one in found if one is not None), None)
    if checkpoint is None:
        raise UsageError(f"{path}: no checkpoint here; an adapter is in the run or the checkpoint of a phase with learner.lora")
    source = resolve(checkpoint)
    if source.lora is None or source.checkpoint is None:
        raise UsageError(f"{checkpoint}: trained without adapters; leave --adapter out, and the whole policy is written")
    return source.folder, source.lora, source.checkpoint


def put(model: Model, checkpoint: Path) -> None:
    """Put what is served of a checkpoint into a model. CheckpointError when it does not fit."""
    model.net.load_state_dict(dict(_fits(checkpoint, _served(checkpoint), _shapes(model))), strict=False)


def trained(checkpoint: Path, model: Model) -> Mapping[str, Tensor]:
    """A checkpoint's tensors that train, which are parameters of a model. CheckpointError when they do not fit."""
    return _fits(checkpoint, load(checkpoint).tensors["model"], _shapes(model))


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.net.named_parameters()}


def _served(checkpoint: Path) -> Mapping[str, Tensor]:
    """The average of the weights where there is one (`learners/ema.py`), else those that train."""
    tensors = load(checkpoint).tensors
    return tensors.get("ema", tensors["model"])


def _fits(checkpoint: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor]:
    for name in tensors:
        if name not in shapes:
            raise CheckpointError(f"{checkpoint}: {name} is no parameter of this policy")
        if tensors[name].shape != shapes[name]:
            found = tuple(tensors[name].shape)
            raise CheckpointError(f"{checkpoint}: {name} has shape {found}, this policy's has {shapes[name]}")
    return tensors
