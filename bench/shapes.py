"""Qwen3-VL with random weights: at the true shape of the 8B, and the same kinds of layers at toy width.

Run by itself it tells what the 8B weighs, and its adapters, its keys and values.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, Qwen3VLConfig

from pixelis.actors import nano
from pixelis.memory.lora import LoraSettings, adapt
from pixelis.memory.model import Card, Model

RANKS = (16, 64)

SHAPES: dict[str, dict[str, Any]] = {
    "8b": {  # config.json of Qwen3-VL-8B-Instruct
        "text": {
            "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "mrope": [24, 20, 20],
        },
        "vision": {
            "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096,
            "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
        },
        "card": Card(),
    },
    "toy": {
        "text": {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 0, "mrope": [4, 2, 2],
        },
        "vision": {
            "depth": 4, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64,
            "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1, 2],
        },
        "card": Card(image_area=96 * 96, frame_area=64 * 64, max_scale=0.4, clip_frames=8, grid=nano.GRID),
    },
}  # fmt: skip


def build(shape: str, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> Model:
    """A policy of one of SHAPES, with the tokenizer of the nano policy, whose words are a part of its vocabulary."""
    tokenizer, told = nano.build_tokenizer(), SHAPES[shape]
    ids, text = tokenizer.get_vocab().__getitem__, dict(told["text"])
    rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": text.pop("mrope"), "rope_theta": 5_000_000.0}
    text |= {"vocab_size": text["vocab_size"] or len(tokenizer), "rope_parameters": rope, "rms_norm_eps": 1e-6}
    config = Qwen3VLConfig(
        text_config={**text, "max_position_embeddings": 262_144, "pad_token_id": tokenizer.pad_token_id},
        vision_config={**told["vision"], "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|image_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        net = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return Model(net.eval(), tokenizer, told["card"])


def step_flops(model: Model, lengths: Sequence[int], sampled: int, patches: Sequence[int]) -> float:
    """Multiplications and additions of one training step: trajectories of `lengths` tokens, of which `sampled` are scored,
    and pictures of so many `patches`, each encoded once.

    Forward 2 for each weight and token, backward 2 more, and 2 for the gradient of a weight that trains. What checkpointing
    computes again does not count: this is what MFU is a share of.
    """
    net: Any = model.net
    visual, text = net.config.vision_config, net.config.text_config
    groups = visual.spatial_merge_size**2
    tokens, tiles = sum(lengths), sum(patches)
    mergers = [part for name, part in net.model.visual.named_children() if "merger" in name]
    linear = (
        _work(net.model.language_model) * tokens + _work(net.lm_head) * sampled + _work(net.model.visual.blocks) * tiles
        + sum(map(_work, mergers)) * tiles / groups + 2 * net.model.visual.patch_embed.proj.weight.numel() * tiles
    )  # fmt: skip
    width = text.num_attention_heads * text.head_dim
    causal = 6 * text.num_hidden_layers * width * sum(n * n for n in lengths)
    whole = 12 * visual.depth * visual.hidden_size * sum(n * n for n in patches)
    return float(linear + causal + whole)


def _work(part: nn.Module) -> int:
    """Of the linear modules in a part, for one token."""
    linear = [m.weight for m in part.modules() if isinstance(m, nn.Linear)]
    return sum(w.numel() * (6 if w.requires_grad else 4) for w in linear)


def step_bytes(model: Model, rows: int, length: float) -> float:
    """Bytes that one decoding step reads: every weight of the text side, and keys and values of `rows` sequences."""
    net: Any = model.net
    parts = (net.model.language_model.layers, net.lm_head)
    weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    return weights + rows * length * row_bytes(model)


def row_bytes(model: Model) -> int:
    """Bytes of the keys and values of one token."""
    text: Any = model.net.config.text_config
    return 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * model.net.dtype.itemsize


def main() -> None:
    """Counts what no GPU is needed for."""
    model = build("8b", torch.bfloat16, "meta")
    count = sum(p.numel() for p in model.net.parameters())
    print(f"Qwen3-VL-8B: {count / 1e9:.2f} G parameters, {2 * count / 1e9:.1f} GB in bfloat16")
    print(f"keys and values: {row_bytes(model) / 1e3:.0f} kB a token")
    for rank in RANKS:
        model = build("8b", torch.bfloat16, "meta")
        adapt(model, LoraSettings(rank=rank))
        trains = sum(p.numel() for p in model.net.parameters() if p.requires_grad)
        sizes = f"{4 * trains / 1e9:.2f} GB to publish, {16 * trains / 1e9:.2f} GB with gradients and AdamW's moments"
        print(f"adapters of rank {rank}: {trains / 1e6:.0f} M parameters in float32, {sizes}")


if __name__ == "__main__":
    main()
