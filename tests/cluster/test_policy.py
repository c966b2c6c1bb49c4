"""Paths that hold no policy are refused in one line."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelis.cluster.errors import UsageError
from pixelis.cluster.policy import check_start, export, open_policy, resolve
from pixelis.memory.checkpoint import CheckpointError, save
from pixelis.memory.lora import LoraSettings, adapt, layers
from pixelis.memory.model import Card, Model


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none: does not exist"):
        resolve(tmp_path / "none")
    with pytest.raises(CheckpointError, match="no policy here"):
        resolve(tmp_path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "step-1", {"model": {"w": torch.ones(2)}}, {})
    with pytest.raises(CheckpointError, match="not one of a training phase"):
        resolve(tmp_path / "step-1")


def test_an_exported_policy_opens_in_transformers_and_says_the_same(untrained: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

    export(untrained, tmp_path / "out")
    theirs = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "out", local_files_only=True)
    ours = open_policy(untrained)
    tokens = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "out").encode("What is the code on the red plate?")])
    with torch.no_grad():
        said = theirs(input_ids=tokens).logits
        here = ours.net(input_ids=tokens).logits
    assert torch.equal(said, here)
    with pytest.raises(UsageError, match="there is something already"):
        export(untrained, tmp_path / "out")


LORA = LoraSettings(rank=4, alpha=8)


def trained(model: Model) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.net.named_parameters() if p.requires_grad}


@pytest.fixture
def adapted(untrained: Path, tmp_path: Path) -> tuple[Path, Model]:
    """A checkpoint of a phase with adapters, as a run leaves it, and its policy with the adapters beside the weights."""
    model = Model.load(untrained)
    adapt(model, LORA)
    with torch.no_grad():
        for name, parameter in model.net.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    tensors = trained(model)
    run = tmp_path / "run"
    (run / "checkpoints" / "sft").mkdir(parents=True)
    state = {"base": str(untrained), "phase": "sft", "lora": asdict(LORA)}
    return save(run / "checkpoints" / "sft" / "step-000003", {"model": tensors}, state), model


TEXT = "What is the code on the red plate?"


@torch.no_grad()
def said(net: Any, model: Model) -> torch.Tensor:
    return net(input_ids=torch.tensor([model.tokenizer.encode(TEXT)])).logits.log_softmax(-1)


def test_a_checkpoint_of_adapters_is_opened_whole(adapted: tuple[Path, Model], untrained: Path) -> None:
    checkpoint, model = adapted
    opened = open_policy(checkpoint)
    assert not layers(opened.net)
    torch.testing.assert_close(said(opened.net, model), said(model.net, model), rtol=1e-4, atol=1e-4)
    assert (said(opened.net, model) - said(open_policy(untrained).net, model)).abs().max() > 1e-2
    source = resolve(checkpoint.parents[2])
    assert (source.checkpoint, source.lora) == (checkpoint, LORA)


def test_a_checkpoint_with_an_average_is_opened_as_that(untrained: Path, tmp_path: Path) -> None:
    last = {name: p.detach() for name, p in Model.load(untrained).net.named_parameters()}
    mean = {name: tensor + 1 for name, tensor in last.items()}
    path = save(tmp_path / "step-1", {"model": last, "ema": mean}, {"base": str(untrained), "phase": "ttrl"})
    opened = dict(open_policy(path).net.named_parameters())
    assert opened.keys() == mean.keys() and all(torch.equal(opened[name], mean[name]) for name in mean)


def test_adapters_are_exported_merged_or_alone(adapted: tuple[Path, Model], untrained: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import Qwen3VLForConditionalGeneration

    checkpoint, model = adapted
    run = checkpoint.parents[2]
    export(run, tmp_path / "whole")
    export(run, tmp_path / "adapter", adapter=True)
    whole = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "whole", local_files_only=True)
    told = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    base = Qwen3VLForConditionalGeneration.from_pretrained(told["base_model_name_or_path"], local_files_only=True)
    over = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.equal(said(over, model), said(model.net, model))
    torch.testing.assert_close(said(whole, model), said(model.net, model), rtol=1e-4, atol=1e-4)
    size = sum(p.stat().st_size for p in (tmp_path / "adapter").iterdir())
    assert size < 0.2 * (tmp_path / "whole" / "model.safetensors").stat().st_size


def test_a_published_folder_without_a_card_is_a_policy_and_what_it_becomes_keeps_its_own(
    untrained: Path, tmp_path: Path
) -> None:
    shutil.copytree(untrained, tmp_path / "published")
    (tmp_path / "published" / "policy.json").unlink()
    told = Card(system="Look closely.", image_area=9216, grid=(0, 500, 1000))
    assert open_policy(tmp_path / "published").card == Card()
    model = open_policy(tmp_path / "published", card=told)
    assert (model.card, model.layout.image_area) == (told, 9216)
    state = {"base": str(tmp_path / "published"), "lora": asdict(LORA), "card": asdict(told)}
    adapt(model, LORA)
    save(tmp_path / "step-000001", {"model": trained(model)}, json.loads(json.dumps(state)))
    assert open_policy(tmp_path / "step-000001").card == told
    export(tmp_path / "step-000001", tmp_path / "own")
    assert open_policy(tmp_path / "own", card=Card()).card == told


def test_where_there_is_no_adapter_the_way_out_is_told(untrained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint here; an adapter is in"):
        export(untrained, tmp_path / "out", adapter=True)
    model = Model.load(untrained)
    save(tmp_path / "step-1", {"model": dict(list(model.net.named_parameters())[:2])}, {"base": str(untrained)})
    with pytest.raises(UsageError, match="trained without adapters; leave --adapter out"):
        export(tmp_path / "step-1", tmp_path / "out", adapter=True)


def test_a_phase_with_adapters_starts_from_a_whole_policy(adapted: tuple[Path, Model], untrained: Path, tmp_path: Path) -> None:
    checkpoint, _ = adapted
    with pytest.raises(UsageError, match=rf"pixelis export {checkpoint} FOLDER"):
        check_start(checkpoint, LoraSettings())
    save(tmp_path / "step-1", {"model": {}}, {"base": str(untrained)})
    with pytest.raises(UsageError, match="starts from a whole policy"):
        check_start(tmp_path / "step-1", LORA)
    check_start(tmp_path / "step-1", LoraSettings())
    check_start(untrained, LORA)
