"""The nano policy: the class of Qwen3-VL-8B with about a million parameters, and a tokenizer of PixelWorld's words.

Its number tokens are the strings 0, 31, 62 ... 1000 and its fixed JSON fragments are single tokens, so that decoding
gives the same call text as the 8B policy's and one parser serves both.
"""

from __future__ import annotations

import math
import string

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from pixelis.memory.model import Card, Model

GRID = tuple(i * 1000 // 32 for i in range(33))
"""Coordinates with a token of their own."""

_SPECIAL = ["<|endoftext|>", "<unk>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]
_TURNS = [
    "<|im_start|>user\n",
    "\n<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>\n<|im_start|>user\n<tool_response>\n",
    "\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    "<answer>",
    "</answer>",
]
_CALLS = [
    '<tool_call>{"name":"', '","arguments":{"on":"', '","arguments":{"of":"', '","box":[', '","point":[', '","window":[',
    '","query":"change"}}</tool_call>', '","keys":["', '","t0":', '],"t0":', ',"t1":', '],"level":"line"}}</tool_call>',
    '","level":"line"}}</tool_call>', '],"k":1}}</tool_call>', ']}}</tool_call>', '"]}}</tool_call>', '}}</tool_call>',
]  # fmt: skip
_RESULTS = [
    '{"ok":true,"ref":"', '{"ok":true,"data":{"text":"', '{"ok":true,"data":{"color":"', '","data":{"box":[',
    '","data":{"times":[', '","data":{"windows":[[', '","data":{"boxes":[[', '],"area":', ',"score":', '],[', ']]}}',
    ']}}', '}}', '"}}', '"}', '{"ok":false,"error":"',
]  # fmt: skip
_OPS = ["SEG", "ZOOM", "TRK", "OCR", "TEMP", "PROP"]
_HANDLES = [f"{kind}{i}" for kind in ("img", "f", "m") for i in range(9)] + ["t1", "t2", "w1", "w2", "w3"]
_ERRORS = [
    "bad_json", "bad_call", "bad_args", "unknown_op", "dangling_handle", "wrong_modality", "box_out_of_range",
    "over_budget", "no_text", "no_segment", "no_change", "no_motion", "lost_at_once", "unknown_query", "unknown_text",
]  # fmt: skip
_PHRASES = [
    "What is the code on the ", " plate?", "What is the code while the lamp is ", "?", "Where is the ",
    "When is the lamp ", "Where is the plate?", "Look for ", ". ", "Repeat ", "[", "]", " ", ".", ",",
]  # fmt: skip
COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "cyan", "pink")
KINDS = ("plate", "shape", "lamp")
_WORDS = [*COLORS, *KINDS, "magenta", "white", "black", "gray", "brown", "color", "area", "change"]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, numbers and JSON fragments over single characters; decoding is concatenation."""
    characters = [*string.printable[:95], "\n"]
    tokenizer = Tokenizer(
        models.WordLevel({c: i for i, c in enumerate(dict.fromkeys(["<unk>", *characters]))}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()  # without one, decoding puts blanks between tokens
    numbers = [str(n) for n in GRID]
    pieces = [*_TURNS, *_CALLS, *_RESULTS, *_OPS, *_HANDLES, *_ERRORS, *_PHRASES, *_WORDS, *numbers]
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in _SPECIAL])
    tokenizer.add_tokens([AddedToken(p, special=False, normalized=False) for p in dict.fromkeys(pieces)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def build(seed: int) -> Model:
    """An untrained nano policy (about 1.3 M parameters), initialised from `seed`."""
    tokenizer = build_tokenizer()
    ids = tokenizer.get_vocab().__getitem__
    rope = {"rope_type": "default", "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "initializer_range": 0.04,
            "rope_parameters": {**rope, "rope_theta": 100_000.0, "mrope_section": [6, 5, 5]}, "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 4096,
        },
        vision_config={
            "depth": 3, "hidden_size": 96, "intermediate_size": 192, "num_heads": 3, "patch_size": 8,
            "spatial_merge_size": 2, "temporal_patch_size": 1, "out_hidden_size": 128, "num_position_embeddings": 144,
            "deepstack_visual_indexes": [0], "initializer_range": 0.04,
            "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
        },
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|image_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        _number_rows(net.model.language_model.embed_tokens.weight, [ids(str(n)) for n in GRID])
        _grid_rows(net.model.visual.pos_embed.weight)
    card = Card(image_area=96 * 96, frame_area=48 * 48, max_scale=0.4, clip_frames=8, grid=GRID)
    return Model(net, tokenizer, card)


def _waves(positions: Tensor, width: int) -> Tensor:
    """Sine-cosine code [len(positions), width]: neighbours are alike, so numbers start out ordered."""
    rates = torch.exp(torch.arange(width // 2) * (-math.log(64.0) / (width // 2)))
    angles = positions[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _number_rows(weight: Tensor, rows: list[int]) -> None:
    code = _waves(torch.arange(len(rows)).float(), weight.shape[1])
    weight[rows] = code * (0.04 / code.std())


def _grid_rows(weight: Tensor) -> None:
    side = int(weight.shape[0] ** 0.5)
    axis = _waves(torch.arange(side).float(), weight.shape[1] // 2)
    rows, cols = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    weight.copy_(0.3 * torch.cat([axis[rows.flatten()], axis[cols.flatten()]], dim=1))
