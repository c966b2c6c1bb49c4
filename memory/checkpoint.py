"""A checkpoint: a directory of safetensors, JSON and Arrow that exists only when it is complete.

    model.safetensors  optimizer.safetensors  state.json  episodes.arrow  manifest.json

`manifest.json` names every other file with its sha256. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pixelis.memory.log import sync

FORMAT = 2
MANIFEST = "manifest.json"


class CheckpointError(RuntimeError):
    """A directory that is no complete checkpoint of this format, or does not fit what it is loaded into."""


class TensorFile(Mapping[str, Tensor]):
    """Name -> tensor of one safetensors file, each read when asked for; `dict(file)` reads all."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, framework="pt")
        except SafetensorError as e:
            raise CheckpointError(f"{path}: not a safetensors file: {e}") from e
        self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Checkpoint:
    """What `load` found: tensors by file name without suffix (read lazily), the JSON state, Arrow tables.

    Example: load(path).tensors["model"]["lm_head.weight"]
    """

    path: Path
    tensors: dict[str, TensorFile]
    state: dict[str, Any]
    tables: dict[str, pa.Table]


def save(
    path: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: dict[str, Any],
    tables: Mapping[str, pa.Table] | None = None,
) -> Path:
    """Write a checkpoint at `path`: into a sibling, synced, manifest last, then renamed. Returns `path`.

    Raises: CheckpointError when `path` is taken (an empty directory is not); OSError when there is no room; TypeError when
    `state` is not JSON.
    Whatever goes wrong, nothing incomplete stands at `path`.

    Example: save(run / "step-000012", {"model": model.state_dict()}, {"cursor": 40})
    """
    text = json.dumps(state, indent=1)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(f"{path}: exists already")
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a save that was killed
    temporary.mkdir(parents=True)
    try:
        (temporary / "state.json").write_text(text)
        for name, named in tensors.items():
            _write_tensors(named, temporary / f"{_checked(name)}.safetensors")
        for name, table in (tables or {}).items():
            _write_table(table, temporary / f"{_checked(name)}.arrow")
        _seal(temporary)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)
    return path


def load(path: Path) -> Checkpoint:
    """Open a checkpoint after checking every file against the manifest. Raises CheckpointError with one line."""
    files = _manifest(path)
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{path}: {name} is missing")
        if file.stat().st_size != expected["bytes"]:
            raise CheckpointError(f"{path}: {name} has {file.stat().st_size} bytes instead of {expected['bytes']}")
        if _sha256(file) != expected["sha256"]:
            raise CheckpointError(f"{path}: {name} was changed: its sha256 is not the one in {MANIFEST}")
    paths = [path / name for name in files]
    return Checkpoint(
        path,
        {p.stem: TensorFile(p) for p in paths if p.suffix == ".safetensors"},
        json.loads((path / "state.json").read_text()),
        {p.stem: pa.ipc.open_file(p.read_bytes()).read_all() for p in paths if p.suffix == ".arrow"},
    )


def latest(folder: Path) -> Path | None:
    """The complete checkpoint in `folder` whose name counts highest (step-12 after step-9), None when there is none."""
    found = [p for p in folder.glob("*") if not p.name.startswith(".") and (p / MANIFEST).is_file()]
    return max(found, key=_counted, default=None)


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors named "<parameter number>.<moment>", JSON for groups and plain numbers), for `unpack_optimizer`.

    The tensors are the optimizer's own: save or copy them before the next step.
    """
    raw = optimizer.state_dict()
    tensors = {f"{i}.{k}": v for i, s in raw["state"].items() for k, v in s.items() if isinstance(v, Tensor)}
    numbers = {f"{i}.{k}": v for i, s in raw["state"].items() for k, v in s.items() if not isinstance(v, Tensor)}
    return tensors, {"groups": raw["param_groups"], "numbers": numbers}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], packed: dict[str, Any]
) -> torch.optim.Optimizer:
    """Put a packed state into an optimizer over the same parameters, in the same order; returns it.

    Raises: CheckpointError when the groups or the shapes differ.
    """
    now = optimizer.state_dict()["param_groups"]
    sizes, expected = [len(g["params"]) for g in packed["groups"]], [len(g["params"]) for g in now]
    if sizes != expected:
        raise CheckpointError(f"optimizer state for groups of {sizes} parameters, this optimizer has {expected}")
    groups = [{k: _like(v, g.get(k)) for k, v in p.items()} for p, g in zip(packed["groups"], now, strict=True)]
    params = [p for g in optimizer.param_groups for p in g["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in packed["numbers"].items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        found, shape = tuple(value.shape), tuple(params[int(index)].shape)
        if value.ndim and found != shape:
            raise CheckpointError(f"optimizer state {name} has shape {found}, its parameter {shape}")
        state.setdefault(int(index), {})[key] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return optimizer


def pack_rng() -> dict[str, Tensor]:
    """torch's generators as uint8 tensors: "cpu", and "cuda:<n>" where there are such."""
    out = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        out |= {f"cuda:{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return out


def unpack_rng(tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `pack_rng`; generators of devices that are not here are left out."""
    torch.set_rng_state(tensors["cpu"])
    for i in range(torch.cuda.device_count()):
        if f"cuda:{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda:{i}"], i)


def _separate(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, none sharing memory with another (tied weights): safetensors keeps no aliases."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in named.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        out[name] = plain
    return out


def _checked(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or f"{name}.json" in ("state.json", MANIFEST):
        raise ValueError(f"{name!r} cannot name a file of a checkpoint")
    return name


def _write_tensors(named: Mapping[str, Tensor], path: Path) -> None:
    try:
        save_file(_separate(named), path)
    except SafetensorError as e:
        code = re.search(r"\(os error (\d+)\)", str(e))  # its only way to say that the disk is full
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from e


def _write_table(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _seal(folder: Path) -> None:
    """Sync every file, and write the manifest last."""
    files = {p.name: {"sha256": _sha256(p), "bytes": p.stat().st_size} for p in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1))
    for p in folder.iterdir():
        sync(p)
    sync(folder)


def _manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise CheckpointError(f"{path}: " + (f"no checkpoint (no {MANIFEST})" if path.exists() else "does not exist"))
    try:
        raw = json.loads(file.read_text())
    except ValueError as e:
        raise CheckpointError(f"{file}: damaged: {e}") from e
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"{file}: format {found}; this version reads format {FORMAT}")
    files = raw.get("files")
    if not isinstance(files, dict) or "state.json" not in files:
        raise CheckpointError(f"{file}: names no state.json")
    return files


def _counted(path: Path) -> list[tuple[str, int]]:
    """A name cut into words and numbers, so that numbers compare by value."""
    return [(word, int(n or 0)) for word, n in re.findall(r"(\D*)(\d*)", path.name)]


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _like(value: Any, now: Any) -> Any:
    """A list from JSON as the tuple it was (AdamW's betas)."""
    return tuple(value) if isinstance(now, tuple) else value
