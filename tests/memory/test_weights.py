"""Weights survive the flat array bit for bit, in every dtype, and are copied by neither end of the way."""

import copy
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pixelis.memory import checkpoint
from pixelis.memory.weights import ALIGN, FlatWeights, adopt, unflatten


def back(flat: FlatWeights) -> dict[str, torch.Tensor]:
    return unflatten(flat.array().copy(), flat.plan)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_round_trip(dtype: torch.dtype) -> None:
    named = {"a": torch.randn(3, 5).to(dtype), "b": torch.randn(7).to(dtype).reshape(7, 1).T, "c": torch.ones((), dtype=dtype)}
    before = {name: tensor.clone() for name, tensor in named.items()}
    flat = FlatWeights(named)
    assert flat.array().dtype == np.uint8
    found = back(flat)
    assert list(found) == list(named)
    assert all(torch.equal(found[k], before[k]) and found[k].dtype == dtype for k in named)


def test_another_size_is_refused() -> None:
    flat = FlatWeights({"a": torch.ones(3)})
    with pytest.raises(ValueError, match="11 bytes of weights for a plan of 12"):
        unflatten(flat.array()[:-1], flat.plan)


def test_dtypes_of_any_width_follow_each_other_each_at_its_alignment() -> None:
    named = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.randn(5, dtype=torch.bfloat16), "c": torch.randn(2, 3)}
    flat = FlatWeights(named)
    assert all(torch.equal(tensor, named[name]) for name, tensor in back(flat).items())
    assert all(slot.at % ALIGN == 0 for slot in flat.plan)
    assert all(tensor.data_ptr() % ALIGN == 0 for tensor in named.values())


def test_nothing_to_send_is_an_empty_array() -> None:
    assert unflatten(FlatWeights({}).array(), ()) == {}


def test_optimizer_steps_and_loading_change_the_array(tmp_path: Path) -> None:
    net, other = nn.Linear(3, 5), nn.Linear(3, 5)
    flat = FlatWeights(dict(net.named_parameters()))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.ones(3)).sum().backward()
    optimizer.step()
    assert torch.equal(back(flat)["weight"], net.weight)
    frozen = copy.deepcopy(net)
    net.load_state_dict(other.state_dict())
    assert torch.equal(back(flat)["weight"], other.weight)
    assert not torch.equal(frozen.weight, other.weight)  # a copy of the network has memory of its own
    saved = checkpoint.save(tmp_path / "one", {"model": dict(net.named_parameters())}, {})
    assert torch.equal(checkpoint.load(saved).tensors["model"]["bias"], other.bias)


def test_read_only_memory_is_adopted_without_a_copy_and_let_go_by_the_next() -> None:
    """As an object store hands it out: not writable, and pinned for as long as anything looks into it."""
    net, source = nn.Linear(3, 5), FlatWeights(dict(nn.Linear(3, 5).named_parameters()))
    arrays = [source.array().copy() for _ in range(2)]
    gone = weakref.ref(arrays[0])
    for array in arrays:
        array.setflags(write=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            adopt(dict(net.named_parameters()), unflatten(array, source.plan))
        assert np.shares_memory(net.weight.detach().numpy(), array)
    wanted = unflatten(arrays[0], source.plan)["weight"].clone()
    del array, arrays[0]
    assert gone() is None
    assert torch.equal(net.weight, wanted)


def test_tied_parameters_stay_one() -> None:
    net = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    net[1].weight = net[0].weight
    adopt(dict(net.named_parameters()), {"0.weight": torch.ones(4, 3)})
    assert net[1].weight is net[0].weight and bool((net[1].weight == 1).all())


@pytest.mark.parametrize(
    ("state", "error"),
    [({"weight": torch.ones(5, 4)}, ValueError), ({"weight": torch.ones(5, 3), "wait": torch.ones(1)}, KeyError)],
)
def test_weights_of_another_network_are_refused_whole(state: dict[str, torch.Tensor], error: type[Exception]) -> None:
    net = nn.Linear(3, 5)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(error):
        adopt(dict(net.named_parameters()), state)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())


def test_another_dtype_is_converted() -> None:
    net = nn.Linear(2, 1)
    adopt(dict(net.named_parameters()), {"weight": torch.full((1, 2), 0.5, dtype=torch.bfloat16)})
    assert net.weight.dtype == torch.float32 and net.weight.tolist() == [[0.5, 0.5]]
