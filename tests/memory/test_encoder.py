import sys

import numpy as np
import pytest
import torch
from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

from pixelis.actors import nano
from pixelis.memory.encoder import EncoderSettings, Sentences, Siglip, Tower, Words, encoders, shown
from pixelis.memory.model import ModelError
from pixelis.tools.media import MediaError, MediaStore
from tests.fakes_media import avi, moving_square, plate, png


@pytest.fixture(scope="module")
def model():
    return nano.build(0)


@pytest.fixture(scope="module")
def store():
    return MediaStore()


def cos(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_policys_own_towers_tell_pictures_and_questions_apart(model, store):
    text, pixels = encoders(model, store, EncoderSettings())
    same = [store.put(png(plate("K7P"))), store.put(png(plate("K7P")) + b" ")]
    other, clip = store.put(png(255 - plate("K7P"))), store.put(avi(moving_square(12)[0]))
    keys = pixels([*same, other, clip])
    patches, grid = model.patches(shown(other, store)[0], store)
    with torch.no_grad():
        [features] = model.encode([patches], [grid])
    assert np.allclose(keys[2], features.pooled.mean(0).numpy(), atol=1e-6)
    assert keys.shape == (4, 128) and keys.dtype == np.float32
    assert cos(keys[0], keys[1]) > 0.9999 > cos(keys[0], keys[2]) and len(shown(clip, store)) == 8
    red, blue, again = text(["the red plate", "the blue plate", "the red plate"])
    assert red.shape == (128,) and (red == again).all() and cos(red, blue) < 0.99


def test_keys_name_the_weights_that_made_them(model, store):
    """The hash changes with any vision weight, and with no other; the keys of a question with no text weight but its own."""
    before = Tower(model, store).hash, Words(model).hash
    other = nano.build(0)
    with torch.no_grad():
        other.net.model.language_model.layers[0].mlp.up_proj.weight[0, 0] += 1
    assert (Tower(other, store).hash, Words(other).hash) == before
    with torch.no_grad():
        other.net.model.visual.patch_embed.proj.weight.view(-1)[0] += 1
    assert Tower(other, store).hash != before[0] and Words(other).hash == before[1]


def test_training_later_does_not_change_what_an_episode_is_found_by(store):
    other, sha = nano.build(1), store.put(png(plate("K7P")))
    words, tower = Words(other), Tower(other, store)
    before = words(["the red plate"]), tower([sha])
    with torch.no_grad():
        for weight in other.net.parameters():
            weight.mul_(0.5)
    assert (words(["the red plate"]) == before[0]).all() and (tower([sha]) == before[1]).all()


def test_what_has_no_key_is_an_error(model, store):
    with pytest.raises(MediaError, match="no such medium"):
        Tower(model, store)(["9f" * 32])
    with pytest.raises(ValueError, match="question '' has no words"):
        Words(model)([""])


@pytest.mark.slow
def test_a_siglip_model_from_a_folder_makes_pixel_keys(tmp_path, model, store):
    """A small one of random weights, of SigLIP's own classes: its keys are what it says of the picture itself."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 32, "patch_size": 16}
    net = SiglipModel(SiglipConfig(text_config={**small, "vocab_size": 50}, vision_config=vision))
    net.save_pretrained(tmp_path)
    processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    sha = store.put(png(plate("K7P")))
    text, pixels = encoders(model, store, EncoderSettings(pixels=str(tmp_path)))
    [key] = pixels([sha])
    asked = processor(images=[store.pixels(shown(sha, store)[0])], return_tensors="pt")
    with torch.no_grad():
        expected = net.eval().vision_model(**asked).pooler_output[0].numpy()
    assert cos(key, expected) == pytest.approx(1, abs=1e-5) and isinstance(text, Words) and pixels.hash != text.hash


def test_models_come_from_local_folders_only(tmp_path, store, monkeypatch):
    with pytest.raises(ModelError, match=r"google/siglip-base: no such folder; models are loaded from local folders only"):
        Siglip("google/siglip-base", store)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match="need `pip install sentence-transformers`"):
        Sentences(tmp_path)
