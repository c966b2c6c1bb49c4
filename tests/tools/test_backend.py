"""Weights that are here are used and named, weights that are not are asked for; the networks are the true classes."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelis.tools.backend import Learned, missing, tools
from pixelis.tools.cache import Cache
from pixelis.tools.local import classical
from tests.fakes_media import avi, moving_square, plate, png
from tests.tools.bench import Bench, refusal
from tests.tools.learned import clip_network, ocr_networks, sam_network, tokenizer


def ids(found: dict[str, Any]) -> dict[str, str]:
    return {op: tool.id for op, tool in found.items()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache."""
    import huggingface_hub.file_download as file_download
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(file_download.constants, "HF_HUB_CACHE", str(cache))
    return cache


def snapshot(hub: Path, repo: str) -> Path:
    """A repository in the cache, laid out as the hub's client lays it out; returns the folder of its files."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    (folder / "snapshots" / ("a" * 40)).mkdir(parents=True)
    return folder / "snapshots" / ("a" * 40)


def test_nothing_named_is_all_classical() -> None:
    assert ids(tools(Learned())) == ids(classical()) and missing(Learned()) == []


@pytest.mark.parametrize(
    ("learned", "parts"),
    [
        (
            Learned(sam="facebook/sam2.1-hiera-tiny"),
            ["sam2.1_hiera_tiny.pt of the hub repository facebook/sam2.1-hiera-tiny", "SEG on seg-flood", "TRK on trk-csrt"],
        ),
        (Learned(sam="facebook/sam2-hiera-large"), ["sam2_hiera_large.pt", "hf download facebook/sam2-hiera-large"]),
        (Learned(sam="/no/such/file.pt"), ["(/no/such/file.pt)", "sam2.1_hiera_tiny.pt"]),
        (Learned(easyocr="/no/such"), ["craft_mlt_25k.pth", "english_g2.pth", "JaidedAI/EasyOCR", "OCR on ocr-rapidocr"]),
        (
            Learned(clip="openai/clip-vit-base-patch16"),
            ["model.safetensors", "repository openai/clip-vit-base-patch16", "TEMP on temp-diff", "SEG on seg-flood"],
        ),
    ],
)
def test_weights_that_are_not_here_are_asked_for(hub: Path, learned: Learned, parts: list[str]) -> None:
    assert ids(tools(learned)) == ids(classical())
    (line,) = missing(learned)
    assert "\n" not in line and all(part in line for part in parts), line
    if "hub repository" in line:
        assert str(hub) in line


def test_a_folder_that_lacks_a_file_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "craft_mlt_25k.pth").write_bytes(b"half of it")
    (tmp_path / "config.json").write_text("{}")
    learned = Learned(str(tmp_path), str(tmp_path), str(tmp_path))
    assert ids(tools(learned)) == ids(classical()) and len(missing(learned)) == 3


def test_a_file_of_something_else_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"mine\.pt: not a SAM 2 checkpoint"):
        tools(Learned(sam=str(path)))


@pytest.mark.slow
def test_weights_are_found_by_path_folder_or_hub_id(hub: Path, tmp_path: Path) -> None:
    name, repo = "sam2.1_hiera_tiny.pt", "facebook/sam2.1-hiera-tiny"
    path = snapshot(hub, repo) / name
    torch.save({"model": sam_network(1024).state_dict()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    for where in (repo, str(path), str(path.parent)):
        found = tools(Learned(sam=where))
        assert found["SEG"].id == f"seg-sam2@1#sam2-1.1.0-hiera_t-{digest}"
        assert found["TRK"].id == f"trk-sam2@1#sam2-1.1.0-hiera_t-{digest}"
    bench = Bench(png(plate("K7P")), found, deadline=120)
    assert bench("SEG", on="img0", point=[500, 500]).ok


@pytest.mark.slow
def test_all_backends_together(hub: Path, tmp_path: Path) -> None:
    from transformers import CLIPImageProcessor

    pictures = snapshot(hub, "someone/clip")
    clip_network("siglip").save_pretrained(pictures)
    tokenizer().save_pretrained(pictures)
    CLIPImageProcessor().save_pretrained(pictures)
    for network, name in zip(ocr_networks(), ("craft_mlt_25k.pth", "english_g2.pth"), strict=True):
        torch.save(network.state_dict(), tmp_path / name)
    found = tools(Learned(easyocr=str(tmp_path), clip="someone/clip", embedding_bytes=1 << 20))
    assert [found[op].id.split("@")[0] for op in ("OCR", "TEMP", "SEG")] == ["ocr-easyocr", "temp-clip", "seg-flood-grabcut"]
    assert "text-clip@1#" in found["SEG"].id and found["PROP"].id == classical()["PROP"].id
    bench = Bench(png(plate("K7P")), found)
    assert bench("OCR", on="img0", level="line").ok
    result = bench("SEG", on="img0", text="dog")
    assert result.ok or refusal(result) == ("tool", "no_segment")
    clip = Bench(avi(moving_square(6)[0]), found)
    assert clip("TEMP", on="img0", window=[0, 1000], k=2).ok
    shared = found["SEG"].matcher.cache  # type: ignore[attr-defined]
    assert isinstance(shared, Cache) and shared.limit == 1 << 20 and shared is found["TEMP"].matcher.cache  # type: ignore[attr-defined]
