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
    """SAM 2.1 tiny for pictures of side x side (sam2's config allows other sides than 1024), without a checkpoint.

    What predicts the IoU is turned up until not always the same one of the masks is the best.
    """
    import torch

    from pixelis.tools.sam import build

    network = seeded(lambda: build("configs/sam2.1/sam2.1_hiera_t.yaml", side))
    with torch.no_grad():
        network.sam_mask_decoder.iou_prediction_head.layers[-1].weight.mul_(100)
    return network


class Counted:
    """How many pictures have gone through a module, in how many calls."""

    def __init__(self, module: Any) -> None:
        self.pictures = self.calls = 0
        module.register_forward_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        self.calls += 1
        self.pictures += len(next(iter((*inputs, *named.values()))))


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


WORDS = ("a", "red", "green", "blue", "gray", "plate", "dog", "text", "sky", "wheel", "hand", "cup")


def tokenizer() -> Any:
    """A tokenizer of whole words, made here: those of published models are downloads."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(("<pad>", "<unk>", "<bos>", "<eos>", *WORDS))}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def clip_network(kind: str = "clip") -> Any:
    """A small CLIPModel or SiglipModel."""
    import transformers

    small: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2
    }  # fmt: skip
    text = {**small, "vocab_size": 32, "max_position_embeddings": 16, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    vision = {**small, "image_size": 32, "patch_size": 8}
    if kind == "siglip":
        config = transformers.SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=vision)
        return seeded(lambda: transformers.SiglipModel(config))
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    return seeded(lambda: transformers.CLIPModel(config))
