"""The policy that training is held close to: a frozen copy, asked for log-probs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from pixelis.learners.batch import Batch
from pixelis.memory.model import Features, Model


def logprobs(model: Model, batch: Batch, features: list[Features]) -> Tensor:
    """Log-probs [N] at temperature 1 of the sampled tokens of a batch."""
    hidden = model.hidden(batch.tokens, batch.positions, features)
    rows, columns = batch.mask.nonzero(as_tuple=True)
    scores = model.logits(hidden[rows, columns - 1]).log_softmax(-1)
    return scores.gather(-1, batch.tokens[rows, columns, None])[:, 0]


class Reference:
    """A frozen full copy of the text side of a policy; its vision tower is shared while that is frozen too."""

    def __init__(self, model: Model) -> None:
        memo = {id(model.net.model.visual): model.net.model.visual}
        net = copy.deepcopy(model.net, memo).requires_grad_(False).eval()
        self.model = Model(net, model.tokenizer, model.card)

    @torch.no_grad()
    def logprobs(self, batch: Batch, features: list[Features]) -> Tensor:
        """Log-probs [N] under the reference."""
        return logprobs(self.model, batch, features)
