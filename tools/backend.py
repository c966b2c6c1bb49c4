"""Which backend each tool runs on: the learned ones whose weights are here, the classical ones otherwise."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelis.tools.cache import Cache
from pixelis.tools.easy import DETECTOR, RECOGNISER
from pixelis.tools.limits import MediaLimits
from pixelis.tools.local import classical
from pixelis.tools.server import Server, ServerSettings
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


def tools(learned: Learned) -> dict[str, Tool]:
    """The tools by op: learned where their weights are here, classical otherwise (`missing` says which and why).

    Raises ValueError with one line when a file is here but holds something else.
    """
    found = classical()
    cache: Cache[Any] = Cache(learned.embedding_bytes)
    if learned.sam and (sam_path := _sam_path(learned.sam)):
        from pixelis.tools.sam import Sam, SamSeg, SamTrk

        sam = Sam.load(sam_path, learned.device, cache)
        found |= {"SEG": SamSeg(sam), "TRK": SamTrk(sam)}
    if learned.easyocr and (folder := _easyocr_folder(learned.easyocr)):
        from pixelis.tools.easy import EasyOcr

        found["OCR"] = EasyOcr.load(folder, learned.device)
    if learned.clip and (folder := _clip_folder(learned.clip)):
        from pixelis.tools.matcher import Matcher, SegText, TempClip

        matcher = Matcher.load(folder, learned.device, cache)
        found |= {"TEMP": TempClip(matcher, found["TEMP"]), "SEG": SegText(matcher, found["SEG"])}
    return found


def server(learned: Learned, settings: ServerSettings, limits: MediaLimits) -> Server:
    """These tools, served to many callers."""
    return Server(tools(learned), settings, limits)


def missing(learned: Learned) -> list[str]:
    """A line for each that is named but not here: what to get, where to put it, and what runs instead. Loads nothing."""
    lines = []
    if learned.sam and _sam_path(learned.sam) is None:
        files = _sam_files()
        repo = learned.sam if learned.sam in files else "facebook/sam2.1-hiera-tiny"
        source = f"{files[repo]} of the hub repository {repo}"
        lines.append(_missing("SAM 2's weights", learned.sam, source, repo, "SEG", "TRK"))
    if learned.easyocr and _easyocr_folder(learned.easyocr) is None:
        source = f"{DETECTOR} and {RECOGNISER} (in craft_mlt_25k.zip and english_g2.zip of JaidedAI/EasyOCR's GitHub releases)"
        lines.append(_missing("EasyOCR's weights", learned.easyocr, source, "", "OCR"))
    if learned.clip and _clip_folder(learned.clip) is None:
        repo = learned.clip if _is_hub_id(learned.clip) else "openai/clip-vit-base-patch32"
        source = f"config.json, {WEIGHTS[0]}, {PICTURES} and the tokenizer's files of the hub repository {repo}"
        lines.append(_missing("the CLIP model", learned.clip, source, repo, "TEMP", "SEG"))
    return lines


def _missing(what: str, name: str, source: str, repo: str, *ops: str) -> str:
    """One line: what is missing, where to get it, where to put it, and which tools run instead."""
    from huggingface_hub.constants import HF_HUB_CACHE

    where = "into one place and name its path"
    if repo:
        where = f"into the hub cache {HF_HUB_CACHE} (`hf download {repo}`), or anywhere, and name the path"
    found = classical()
    instead = ", ".join(f"{op} on {found[op].id}" for op in ops)
    return f"{what} are not here ({name}): put {source} {where}; instead run {instead}"


def _sam_files() -> dict[str, str]:
    """Hub repository -> checkpoint file, of all published sizes."""
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    return {repo: file for repo, (_, file) in HF_MODEL_ID_TO_FILENAMES.items()}


def _easyocr_folder(name: str) -> Path | None:
    return _folder(name, [DETECTOR], [RECOGNISER])


def _clip_folder(name: str) -> Path | None:
    return _folder(name, ["config.json"], [PICTURES], [*WEIGHTS])


def _sam_path(name: str) -> Path | None:
    files, path = _sam_files(), Path(name).expanduser()
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
