"""The true networks of the learned backends, untrained: what they find means nothing, how they are asked can be checked."""

from typing import Any


def seeded(build: Any, seed: int = 0) -> Any:
    """build() with torch's generator seeded; the generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def sam_network(side: int = 128) -> Any:
    """SAM 2.1 tiny for pictures of side x side (sam2's config allows other sides than 1024), without a checkpoint."""
    from pixelis.tools.sam import build

    return seeded(lambda: build("configs/sam2.1/sam2.1_hiera_t.yaml", side))


class Counted:
    """How many pictures went through a module since `reset`."""

    def __init__(self, module: Any) -> None:
        self.pictures = self.calls = 0
        module.register_forward_hook(self._count)

    def _count(self, module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        self.calls += 1
        self.pictures += len(inputs[0])
