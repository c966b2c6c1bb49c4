"""A toolbox whose calls fail by infrastructure now and then, as they do when tools are other processes."""

from typing import Any

import numpy as np

from pixelis.tools.call import ToolCall, ToolFailure
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Outcome, Toolbox


class FlakyToolbox(Toolbox):
    """Every try of a call fails with a probability, remembered results included.

    Example: FlakyToolbox(store, probability=0.05, seed=0)
    """

    def __init__(self, store: MediaStore, probability: float, seed: int, **settings: Any) -> None:
        super().__init__(store, **settings)
        self.probability, self.rng = probability, np.random.default_rng(seed)

    def _outcome(self, workspace: Workspace, call: ToolCall, until: float) -> Outcome:
        if self.rng.random() < self.probability:
            raise ToolFailure("infra", "died", "the tool's process died")
        return super()._outcome(workspace, call, until)
