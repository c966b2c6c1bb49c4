"""Weights survive the flat array bit for bit, in every dtype."""

import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from pixelis.memory.weights import flatten, slots, unflatten


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_round_trip(dtype: torch.dtype) -> None:
    named = {"a": torch.randn(3, 5).to(dtype), "b": torch.randn(7).to(dtype).reshape(7, 1).T, "c": torch.ones((), dtype=dtype)}
    flat = flatten(named)
    assert flat.dtype == np.uint8
    back = unflatten(flat, slots(named))
    assert list(back) == list(named)
    assert all(torch.equal(back[k], named[k]) and back[k].dtype == dtype for k in named)


def test_another_size_is_refused() -> None:
    named = {"a": torch.ones(3)}
    with pytest.raises(ValueError, match="11 bytes of weights for a plan of 12"):
        unflatten(flatten(named)[:-1], slots(named))


def test_dtypes_of_any_width_follow_each_other() -> None:
    named = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.randn(5, dtype=torch.bfloat16), "c": torch.randn(2, 3)}
    back = unflatten(flatten(named), slots(named))
    assert all(torch.equal(back[k], named[k]) for k in named)


def test_read_only_memory_is_loaded_without_a_copy_on_the_way_and_let_go() -> None:
    """As an object store hands it out: not writable, and pinned for as long as anything looks into it."""
    net, source = nn.Linear(3, 5), nn.Linear(3, 5)
    named = dict(source.named_parameters())
    flat = flatten(named)
    flat.setflags(write=False)
    gone = weakref.ref(flat)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = unflatten(flat, slots(named))
    assert all(np.shares_memory(tensor.view(torch.uint8).numpy(), flat) for tensor in state.values())
    net.load_state_dict(state)
    del state, flat
    assert gone() is None
    assert torch.equal(net.weight, source.weight) and torch.equal(net.bias, source.bias)
