"""The true networks of the learned backends, untrained: what they find means nothing, how they are asked can be checked."""

from typing import Any

from tests.fakes_media import plate


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


def ocr_networks() -> tuple[Any, Any]:
    """CRAFT and the CRNN. Untrained they find and believe nothing: their last layers are spread until they do."""
    import torch

    from pixelis.tools.easy import networks

    detector, recogniser = seeded(lambda: torch.nn.ModuleList(networks()))
    picture = torch.from_numpy(plate("K7P")).permute(2, 0, 1)[None].float() / 128 - 1
    strip = torch.nn.functional.interpolate(picture[:, :1, 90:140, 110:220], (64, 128))
    with torch.no_grad():
        _spread(detector.conv_cls[-1], detector(picture)[0].reshape(-1, 2), 0.5)
        _spread(recogniser.Prediction, recogniser(strip, None)[0], 400.0)
    return detector, recogniser


def _spread(layer: Any, seen: Any, width: float) -> None:
    """Makes a last layer's answers, NxC so far, have mean 0 and standard deviation `width` in every class."""
    scale = width / seen.std(dim=0)
    layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.dim() - 1)))
    layer.bias.copy_((layer.bias - seen.mean(dim=0)) * scale)
