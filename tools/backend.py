"""Which backend each tool runs on: the learned ones whose weights are here, the classical ones otherwise."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelis.tools.cache import Cache
from pixelis.tools.local import classical
from pixelis.tools.tool import Tool

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PICTURES, WEIGHTS = "preprocessor_config.json", ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class Learned:
    """The weights of the learned backends, "" for none: a path, or a hub id whose files are in the local hub cache.

    `sam` is a checkpoint of SAM 2, `easyocr` a folder of EasyOCR's files, `clip` a folder as transformers writes it.
    All run on `device`; features of pictures are kept up to `embedding_bytes`, all together. Nothing is downloaded.

    Example:
        >>> Learned(sam="facebook/sam2.1-hiera-tiny", device="cuda:0").clip
        ''
    """

    sam: str = ""
    easyocr: str = ""
    clip: str = ""
    device: str = "cpu"
    embedding_bytes: int = 1 << 30


def tools(learned: Learned, tell: Callable[[str], None]) -> dict[str, Tool]:
    """The tools by op. For weights that are named but not here `tell` gets one line: what to get, and what runs instead.

    Raises ValueError with one line when a file is here but holds something else.
    """
    found = classical()
    cache: Cache[Any] = Cache(learned.embedding_bytes)
    if learned.sam:
        _add_sam(found, learned, cache, tell)
    if learned.easyocr:
        _add_easyocr(found, learned, tell)
    if learned.clip:
        _add_clip(found, learned, cache, tell)
    return found


def _add_sam(found: dict[str, Tool], learned: Learned, cache: Cache[Any], tell: Callable[[str], None]) -> None:
    from pixelis.tools.sam import Sam, SamSeg, SamTrk

    files = _sam_files()
    path = _sam_path(learned.sam, files)
    if path is None:
        repo = learned.sam if learned.sam in files else "facebook/sam2.1-hiera-tiny"
        tell(_missing("SAM 2's weights", learned.sam, f"{files[repo]} of the hub repository {repo}", repo, found, "SEG", "TRK"))
        return
    sam = Sam.load(path, learned.device, cache)
    found |= {"SEG": SamSeg(sam), "TRK": SamTrk(sam)}


def _add_easyocr(found: dict[str, Tool], learned: Learned, tell: Callable[[str], None]) -> None:
    from pixelis.tools.easy import DETECTOR, RECOGNISER, EasyOcr

    folder = _folder(learned.easyocr, [DETECTOR], [RECOGNISER])
    if folder is None:
        source = f"{DETECTOR} and {RECOGNISER} (in craft_mlt_25k.zip and english_g2.zip of JaidedAI/EasyOCR's GitHub releases)"
        tell(_missing("EasyOCR's weights", learned.easyocr, source, "", found, "OCR"))
        return
    found["OCR"] = EasyOcr.load(folder, learned.device)


def _add_clip(found: dict[str, Tool], learned: Learned, cache: Cache[Any], tell: Callable[[str], None]) -> None:
    from pixelis.tools.matcher import Matcher, SegText, TempClip

    folder = _folder(learned.clip, ["config.json"], [PICTURES], [*WEIGHTS])
    if folder is None:
        repo = learned.clip if _is_hub_id(learned.clip) else "openai/clip-vit-base-patch32"
        source = f"config.json, {WEIGHTS[0]}, {PICTURES} and the tokenizer's files of the hub repository {repo}"
        tell(_missing("the CLIP model", learned.clip, source, repo, found, "TEMP", "SEG"))
        return
    matcher = Matcher.load(folder, learned.device, cache)
    found |= {"TEMP": TempClip(matcher, found["TEMP"]), "SEG": SegText(matcher, found["SEG"])}


def _missing(what: str, name: str, source: str, repo: str, found: dict[str, Tool], *ops: str) -> str:
    """One line: what is missing, where to get it, where to put it, and which tools run instead."""
    from huggingface_hub.constants import HF_HUB_CACHE

    where = "into one place and name its path"
    if repo:
        where = f"into the hub cache {HF_HUB_CACHE} (`hf download {repo}`), or anywhere, and name the path"
    instead = ", ".join(f"{op} on {found[op].id}" for op in ops)
    return f"{what} are not here ({name}): put {source} {where}; instead run {instead}"


def _sam_files() -> dict[str, str]:
    """Hub repository -> checkpoint file, of all published sizes."""
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    return {repo: file for repo, (_, file) in HF_MODEL_ID_TO_FILENAMES.items()}


def _sam_path(name: str, files: dict[str, str]) -> Path | None:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return next((path / file for file in files.values() if (path / file).is_file()), None)
    return _cached(name, files[name]) if name in files else None


def _folder(name: str, *needed: list[str]) -> Path | None:
    """The folder that holds a file of each list: a path, or the snapshot of a repository in the local hub cache."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        first = _cached(name, needed[0][0])
        if first is None:
            return None
        folder = first.parent
    complete = all(any((folder / file).is_file() for file in choices) for choices in needed)
    return folder if complete else None


def _cached(repo: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file) if _is_hub_id(repo) else None
    return Path(found) if isinstance(found, str) else None


def _is_hub_id(name: str) -> bool:
    return HUB_ID.fullmatch(name) is not None
