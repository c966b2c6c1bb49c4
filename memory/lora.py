"""LoRA: small matrices that train beside frozen ones (peft), and the way back to plain weights.

Only adapters travel and are saved while a phase goes on; what a phase leaves, and where the next one starts, is a whole
policy into which they are added.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pixelis.memory.model import Features, Model, ModelError

TEXT = r"model\.language_model\.layers\..+_proj"
VISION = r"model\.visual\.(blocks|merger|deepstack_merger_list)\..*(qkv|proj|fc1|fc2)"
NAME = "default"
"""What peft calls an adapter that nobody has named."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Which matrices get an adapter: W becomes W + alpha / rank * B A, where A and B train (Hu et al. 2021)."""

    rank: int = 0
    """Rows of A; 0 for no adapters: the policy trains whole."""
    alpha: int = 64
    dropout: float = 0.0
    """Of what an adapter reads. For imitation only: rollouts would be judged by other networks than the one that acted."""
    targets: str = f"{TEXT}|{VISION}"
    """Regular expression of the whole names of linear modules: those of text layers, mergers and vision blocks. With text
    alone ('model\\.language_model\\..*_proj') pictures are encoded once and kept, as vision does not change."""


def adapt(model: Model, settings: LoraSettings) -> None:
    """Put adapters into a network and freeze the rest; at first they change nothing, and they are the same everywhere.

    Adapters are float32 whatever the network computes in: a step is smaller than bfloat16 can tell. ModelError when no
    module has such a name, or another kind than a linear one of a layer.
    """
    if not settings.rank:
        return
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import: only who has adapters pays

    chosen = {name: module for name, module in model.net.named_modules() if re.fullmatch(settings.targets, name)}
    wrong = [name for name, module in chosen.items() if not isinstance(module, nn.Linear) or name == "lm_head"]
    if wrong or not chosen:
        told = f"{wrong[0]} is no linear module of a layer" if wrong else "no module has such a name"
        raise ModelError(f"learner.lora.targets: {told}; the default reaches text, mergers and vision blocks")
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=settings.targets
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inject_adapter_in_model(config, model.net, NAME)
    for parameter in model.net.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def layers(net: nn.Module) -> dict[str, Any]:
    """The modules of a network that have an adapter, by name: peft's LoraLayer."""
    return {name: module for name, module in net.named_modules() if hasattr(module, "lora_A")}


def shapes(weights: Mapping[str, tuple[int, ...]], settings: LoraSettings) -> dict[str, tuple[int, ...]]:
    """The shapes of the adapters of a network whose weights have these shapes.

    Example:
        >>> shapes({"model.language_model.layers.0.mlp.up_proj.weight": (8, 4)}, LoraSettings(rank=2))
        {'model.language_model.layers.0.mlp.up_proj.lora_A.default.weight': (2, 4), \
'model.language_model.layers.0.mlp.up_proj.lora_B.default.weight': (8, 2)}
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in weights.items():
        module = name.removesuffix(".weight")
        if settings.rank and module != name and re.fullmatch(settings.targets, module):
            found[f"{module}.lora_A.{NAME}.weight"] = (settings.rank, shape[1])
            found[f"{module}.lora_B.{NAME}.weight"] = (shape[0], settings.rank)
    return found


def merged(net: nn.Module, whole: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> dict[str, Tensor]:
    """The state of the same network without adapters, in which they are added to their matrices (in float32).

    `whole` gathers a tensor of which this process holds a part; a network without adapters gives its state as it is.
    """
    state = {name: whole(tensor) for name, tensor in net.state_dict().items()}
    for name, layer in layers(net).items():
        down, up = (state.pop(f"{name}.{part}.{NAME}.weight") for part in ("lora_A", "lora_B"))
        base = state[f"{name}.base_layer.weight"]
        added = base.float() + layer.scaling[NAME] * (up @ down)
        state[f"{name}.base_layer.weight"] = added.to(base.dtype)
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}


@torch.no_grad()
def merge(model: Model) -> None:
    """Add a network's adapters to their matrices, in place: it is a plain one again. One without adapters stays as it is."""
    found = layers(model.net)
    if not found:
        return
    state = merged(model.net)
    for name, layer in found.items():
        parent, _, last = name.rpartition(".")
        setattr(model.net.get_submodule(parent), last, layer.get_base_layer())
    model.net.load_state_dict(state)
    model.net.requires_grad_(True)


@contextmanager
def off(net: nn.Module) -> Iterator[None]:
    """The network without its adapters, for as long as this lasts."""
    found = layers(net).values()
    for layer in found:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in found:
            layer.enable_adapters(True)


class Unadapted(Model):
    """What a policy was before it got its adapters: the same network, computing without them and without gradients."""

    @torch.no_grad()
    def encode(self, *args: Any, **kwargs: Any) -> list[Features]:
        """As `Model.encode`."""
        with off(self.net):
            return super().encode(*args, **kwargs)

    @torch.no_grad()
    def hidden(self, *args: Any, **kwargs: Any) -> Tensor:
        """As `Model.hidden`."""
        with off(self.net):
            return super().hidden(*args, **kwargs)


def save_adapter(tensors: Mapping[str, Tensor], settings: LoraSettings, base: Path, folder: Path) -> None:
    """Write adapters, by parameter name, as a folder that `PeftModel.from_pretrained(network of base, folder)` loads."""
    from peft import LoraConfig

    folder.mkdir(parents=True, exist_ok=True)
    LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=settings.targets,
        base_model_name_or_path=str(base), inference_mode=True,
    ).save_pretrained(str(folder))  # fmt: skip
    named = {f"base_model.model.{name.replace(f'.{NAME}.', '.')}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def trains_vision(names: Iterable[str]) -> bool:
    """Whether parameters of these names change what a policy sees in a picture."""
    return any(name.startswith("model.visual.") for name in names)
