"""Weights survive the flat array bit for bit, in every dtype."""

import numpy as np
import pytest
import torch

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
