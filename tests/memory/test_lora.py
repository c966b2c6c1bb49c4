"""Adapters: where they sit, that they change nothing at first, and that they come off, add up and travel."""

from pathlib import Path

import pytest
import torch

from bench import shapes
from pixelis.memory import lora
from pixelis.memory.lora import LoraSettings, Unadapted, adapt, layers, merge, merged
from pixelis.memory.model import Features, Model, ModelError, check

SETTINGS = LoraSettings(rank=4, alpha=8)


@pytest.fixture
def model() -> Model:
    torch.set_num_threads(1)
    return shapes.build("toy", seed=1)


def trained(model: Model, settings: LoraSettings = SETTINGS) -> Model:
    """With adapters that no longer are what they were at first."""
    adapt(model, settings)
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.net.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.1)
    return model


@torch.no_grad()
def said(model: Model) -> torch.Tensor:
    """Scores of a sequence with a picture of 2 x 3 tokens."""
    draws = torch.Generator().manual_seed(7)
    pixels = torch.randint(0, 256, (64, 96, 3), generator=draws).byte().numpy()
    patches, grid = model.patchify(pixels)
    layout = model.layout
    tokens = torch.tensor([[9, layout.start, *[layout.pad] * 6, layout.end, 20, 21, 22]])
    positions = torch.arange(tokens.shape[1]).expand(3, 1, -1)
    features: list[Features] = model.encode([patches], [grid])
    return model.net.lm_head(model.hidden(tokens, positions, features)).float()


def test_the_default_reaches_every_matrix_of_text_mergers_and_vision_blocks(model: Model) -> None:
    linear = {name for name, module in model.net.named_modules() if isinstance(module, torch.nn.Linear)}
    adapt(model, SETTINGS)
    assert set(layers(model.net)) == linear - {"lm_head"}
    ends = {name.split(".")[2] for name in layers(model.net)}
    assert ends == {"layers", "blocks", "merger", "deepstack_merger_list"}
    trains = {name for name, p in model.net.named_parameters() if p.requires_grad}
    assert trains and all("lora_" in name for name in trains)
    assert lora.trains_vision(list(trains))


def test_vision_can_be_left_out(model: Model) -> None:
    adapt(model, LoraSettings(rank=2, targets=r"model\.language_model\..*_proj"))
    assert not lora.trains_vision([name for name, p in model.net.named_parameters() if p.requires_grad])


def test_adapters_change_nothing_at_first_and_are_the_same_everywhere(model: Model) -> None:
    before = said(model)
    other = shapes.build("toy", seed=1)
    torch.manual_seed(3)
    adapt(model, SETTINGS)
    torch.manual_seed(4)
    state = torch.random.get_rng_state()
    adapt(other, SETTINGS)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(said(model), before)
    assert all(torch.equal(a, b) for a, b in zip(model.net.parameters(), other.net.parameters(), strict=True))


def test_without_adapters_it_is_the_policy_that_got_them(model: Model) -> None:
    before = said(model)
    trained(model)
    trains = [p.requires_grad for p in model.net.parameters()]
    assert (said(model) - before).abs().max() > 1e-2
    assert torch.equal(said(Unadapted(model.net, model.tokenizer, model.card)), before)
    assert [p.requires_grad for p in model.net.parameters()] == trains
    assert not torch.equal(said(model), before)


def test_merged_it_says_the_same_as_with_adapters(model: Model, tmp_path: Path) -> None:
    names = list(model.net.state_dict())
    before = said(trained(model))
    state = merged(model.net)
    assert list(state) == names
    model.save(tmp_path / "whole", state)
    check(tmp_path / "whole")
    merge(model)
    assert not layers(model.net) and all(p.requires_grad for p in model.net.parameters())
    again = Model.load(tmp_path / "whole")
    assert torch.equal(said(model), said(again))
    torch.testing.assert_close(said(model), before, rtol=1e-4, atol=1e-4)


def test_a_plain_network_is_its_own_merger(model: Model) -> None:
    state = merged(model.net)
    assert all(tensor is state[name] or torch.equal(tensor, state[name]) for name, tensor in model.net.state_dict().items())


def test_shapes_are_known_without_a_network(model: Model) -> None:
    plain = {name: tuple(p.shape) for name, p in model.net.named_parameters()}
    adapt(model, SETTINGS)
    found = {name: tuple(p.shape) for name, p in model.net.named_parameters() if p.requires_grad}
    assert lora.shapes(plain, SETTINGS) == found


def test_adapters_are_float32_whatever_the_network_computes_in() -> None:
    model = shapes.build("toy", torch.bfloat16)
    adapt(model, SETTINGS)
    kinds = {("lora_" in name, p.dtype) for name, p in model.net.named_parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    assert model.hidden(torch.tensor([[3, 4]]), torch.arange(2).expand(3, 1, -1), ()).dtype == torch.bfloat16
    assert {t.dtype for t in merged(model.net).values()} == {torch.bfloat16}


def test_peft_loads_a_saved_adapter(model: Model, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import Qwen3VLForConditionalGeneration

    model.save(tmp_path / "base")
    before = said(trained(model))
    tensors = {name: p.detach() for name, p in model.net.named_parameters() if p.requires_grad}
    lora.save_adapter(tensors, SETTINGS, tmp_path / "base", tmp_path / "adapter")
    base = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "base", local_files_only=True)
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.equal(said(Model(theirs.base_model.model, model.tokenizer, model.card)), before)
    assert theirs.peft_config["default"].base_model_name_or_path == str(tmp_path / "base")


@pytest.mark.parametrize("targets", ["no_such_module", r"lm_head", r"model\.visual\.pos_embed", r"model\.language_model\..*"])
def test_what_cannot_be_a_target_is_named(model: Model, targets: str) -> None:
    with pytest.raises(ModelError, match=r"^learner\.lora\.targets: ") as error:
        adapt(model, LoraSettings(rank=2, targets=targets))
    assert "\n" not in str(error.value) and not layers(model.net)
