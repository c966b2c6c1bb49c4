"""A policy that does not look at its picture is refused before it can train."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pixelis.actors import nano
from pixelis.actors.liveness import BlindPolicy, check_vision
from pixelis.actors.render import Renderer
from pixelis.actors.tasks import TaskSource
from pixelis.memory.model import Features, Model
from pixelis.memory.task import Task
from pixelis.tools.media import MediaStore


@pytest.fixture(scope="module")
def model() -> Model:
    torch.set_num_threads(1)
    return nano.build(seed=2)


@pytest.fixture(scope="module")
def store() -> MediaStore:
    return MediaStore(None)


@pytest.fixture(scope="module")
def tasks(store: MediaStore) -> list[Task]:
    source = TaskSource(("code", "clip"), "rft", store)
    return [source.gold(i).task for i in range(8)]


def test_swapping_the_picture_moves_the_log_probs(model: Model, store: MediaStore, tasks: list[Task]) -> None:
    """Red when the vision input of the policy is broken anywhere between the medium and the scores."""
    assert check_vision(model, Renderer(model), store, tasks) > 1e-3


def test_a_blind_policy_is_refused(model: Model, store: MediaStore, tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(patches: Sequence[np.ndarray], grids: Sequence[tuple[int, int, int]]) -> list[Features]:
        return [Features(torch.zeros(r * c // 4, 128), (torch.zeros(r * c // 4, 128),)) for _, r, c in grids]

    monkeypatch.setattr(model, "encode", blind)
    with pytest.raises(BlindPolicy):
        check_vision(model, Renderer(model), store, tasks)
