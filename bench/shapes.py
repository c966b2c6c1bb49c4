"""Qwen3-VL with random weights: at the true shape of the 8B, and the same kinds of layers at toy width."""

from typing import Any

import torch
from transformers import AutoModelForImageTextToText, Qwen3VLConfig

from pixelis.actors import nano
from pixelis.memory.model import Card, Model

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
