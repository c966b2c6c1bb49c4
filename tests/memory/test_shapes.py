"""The networks of bench/shapes.py: of Qwen3-VL-8B's shape, and what their steps are counted to cost."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import shapes
from pixelis.memory.lora import LoraSettings, adapt
from pixelis.memory.model import Model


@pytest.fixture
def model() -> Model:
    torch.set_num_threads(1)
    return shapes.build("toy", seed=1)


def kinds(model: Model) -> set[str]:
    """The classes of all modules."""
    return {type(module).__name__ for module in model.net.modules()}


@pytest.mark.slow
def test_the_toy_has_the_layers_of_the_8b(model: Model) -> None:
    big = shapes.build("8b", torch.bfloat16, "meta")
    assert kinds(big) == kinds(model) and type(big.net) is type(model.net)
    assert sum(p.numel() for p in big.net.parameters()) == 8_767_123_696  # of Qwen3-VL-8B-Instruct
    told = [set(part.to_dict()) for part in (big.net.config.text_config, model.net.config.text_config)]
    assert told[0] == told[1]
    assert len(big.net.model.visual.deepstack_merger_list) == len(model.net.model.visual.deepstack_merger_list) == 3
    assert replace(big.card, grid=()) == big.card and big.card.image_area > model.card.image_area


def test_steps_cost_what_torch_counts(model: Model) -> None:
    """Forward and backward with adapters everywhere; first layers, whose inputs need no gradient, cost a little less."""
    adapt(model, LoraSettings(rank=4))
    model.net.set_attn_implementation("eager")  # it computes what causal attention may leave out, too
    pixels = torch.randint(0, 256, (64, 96, 3)).byte().numpy()
    patches, grid = model.patchify(pixels)
    pads = grid[1] * grid[2] // 4
    layout = model.layout
    tokens = torch.tensor([[9, layout.start, *[layout.pad] * pads, layout.end, *range(20, 50)]])
    positions = torch.arange(tokens.shape[1]).expand(3, 1, -1)
    with FlopCounterMode(display=False) as counter:
        hidden = model.hidden(tokens, positions, model.encode([patches], [grid]))
        model.logits(hidden[0, -8:]).log_softmax(-1)[:, 7].sum().backward()
    length, text = tokens.shape[1], model.net.config.text_config
    above = 6 * text.num_hidden_layers * text.num_attention_heads * text.head_dim * length**2
    counted = shapes.step_flops(model, [length], 8, [len(patches)]) + above
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_decoding_reads_weights_keys_and_values(model: Model) -> None:
    text = model.net.config.text_config
    one = shapes.row_bytes(model)
    assert one == 2 * 4 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    assert shapes.step_bytes(model, 3, 10) - shapes.step_bytes(model, 2, 10) == 10 * one
    whole = model.net.model.language_model
    read = [*whole.layers.parameters(), *model.net.lm_head.parameters()]
    assert shapes.step_bytes(model, 0, 0) == 4 * sum(p.numel() for p in read)
