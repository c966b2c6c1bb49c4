"""Paths that hold no policy are refused in one line."""

from pathlib import Path

import pytest
import torch

from pixelis.cluster.errors import UsageError
from pixelis.cluster.policy import export, open_policy, resolve
from pixelis.memory.checkpoint import CheckpointError, save


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
