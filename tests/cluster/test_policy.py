"""Paths that hold no policy are refused in one line."""

from pathlib import Path

import pytest
import torch

from pixelis.cluster.policy import resolve
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
