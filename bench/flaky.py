"""A toolbox whose calls fail by infrastructure now and then, as they do when tools are other processes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pixelis.tools.call import Failure
from pixelis.tools.media import MediaStore
from pixelis.tools.tool import Answer, Ask
from pixelis.tools.toolbox import Toolbox


class FlakyToolbox(Toolbox):
    """Every try of a call fails with a probability, remembered results included.

    Example: FlakyToolbox(store, probability=0.05, seed=0)
    """

    def __init__(self, store: MediaStore, probability: float, seed: int, **settings: Any) -> None:
        super().__init__(store, **settings)
        self.probability, self.rng = probability, np.random.default_rng(seed)

    def _attempt(self, asks: Sequence[Ask]) -> dict[str, Answer]:
        died = Answer(Failure("infra", "died", "the tool's process died"))
        fails = [self.rng.random() < self.probability for _ in asks]
        worked = super()._attempt([ask for ask, failed in zip(asks, fails, strict=True) if not failed])
        return worked | {ask.key: died for ask, failed in zip(asks, fails, strict=True) if failed}
