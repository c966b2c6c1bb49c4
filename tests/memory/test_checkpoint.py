import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from pixelis.memory import checkpoint
from pixelis.memory.checkpoint import (
    CheckpointError,
    latest,
    load,
    pack_optimizer,
    pack_rng,
    save,
    unpack_optimizer,
    unpack_rng,
)

STATE = {"cursor": 40, "dropped": {"stale": 2}, "lr": 0.1 + 0.2}


def tensors():
    tied = torch.arange(6.0).view(2, 3)
    model = {
        "embed": tied,
        "head": tied,
        "part": torch.arange(10)[3:5],
        "half": torch.tensor([1.5, -0.0], dtype=torch.bfloat16),
        "turned": tied.T,
        "none": torch.zeros(0, 4),
        "step": torch.tensor(3.0),
    }
    return {"model": model, "rng": {"cpu": torch.get_rng_state()}}


def saved(folder, name="step-1"):
    return save(folder / name, tensors(), STATE, {"episodes": pa.table({"id": ["a", "b"], "score": [0.5, None]})})


def test_round_trip_is_exact(tmp_path):
    found = load(saved(tmp_path))
    assert found.state == STATE
    assert found.tables["episodes"].to_pydict() == {"id": ["a", "b"], "score": [0.5, None]}
    assert set(found.tensors) == {"model", "rng"}
    for file, named in tensors().items():
        assert set(found.tensors[file]) == set(named)
        for name, tensor in named.items():
            assert found.tensors[file][name].dtype == tensor.dtype and torch.equal(found.tensors[file][name], tensor)


def test_the_files_keep_their_names(tmp_path):
    names = {p.name for p in saved(tmp_path).iterdir()}
    assert names == {"model.safetensors", "rng.safetensors", "state.json", "episodes.arrow", "manifest.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_a_taken_place_is_refused_and_an_empty_folder_filled(tmp_path):
    (tmp_path / "step-1").mkdir()  # RLlib hands over an empty folder
    saved(tmp_path)
    with pytest.raises(CheckpointError, match="step-1: exists already"):
        saved(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "rng.safetensors", "state.json", "episodes.arrow"])
def test_a_missing_short_or_changed_file_is_named(tmp_path, name):
    path = saved(tmp_path)
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"^{path}: {name} was changed.*"):
        load(path)
    (path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=f"{name} has {len(data) // 2} bytes instead of {len(data)}"):
        load(path)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load(path)


def test_what_is_no_checkpoint_is_told_in_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path)
    for foreign in ([], {"format": 1, "files": {}}, {"format": 2}, {"format": 2, "files": {}}):
        (tmp_path / "manifest.json").write_text(json.dumps(foreign))
        with pytest.raises(CheckpointError):
            load(tmp_path)


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="JSON"):
        save(tmp_path / "step-1", {}, {"x": object()})
    monkeypatch.setattr(checkpoint, "_seal", lambda folder: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        saved(tmp_path)
    assert list(tmp_path.iterdir()) == [] and latest(tmp_path) is None


def test_a_killed_save_leaves_no_half_checkpoint_and_the_next_one_works(tmp_path, monkeypatch):
    saved(tmp_path, "step-1")
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(checkpoint, "_seal", lambda folder: os.kill(os.getpid(), signal.SIGKILL))
        saved(tmp_path, "step-2")
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / "step-2").exists() and len(list(tmp_path.iterdir())) == 2
    assert latest(tmp_path) == tmp_path / "step-1"
    assert latest(tmp_path) != saved(tmp_path, "step-2") == latest(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_latest_counts_numbers_by_value(tmp_path):
    for name in ("step-9", "step-12", "step-100.tmp"):
        (tmp_path / name).mkdir()
    for name in ("step-9", "step-12"):
        saved(tmp_path, name)
    (tmp_path / ".step-13.tmp").mkdir()
    (tmp_path / ".step-13.tmp" / "manifest.json").write_text("{}")
    assert latest(tmp_path) == tmp_path / "step-12"
    assert latest(tmp_path / "nowhere") is None


def training():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    bias = [p for n, p in model.named_parameters() if n.endswith("bias")]
    weight = [p for n, p in model.named_parameters() if n.endswith("weight")]
    groups = [{"params": weight}, {"params": bias, "weight_decay": 0.0, "lr": 3e-3}]
    return model, torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.99))


def step(model, optimizer):
    optimizer.zero_grad()
    loss = (model(torch.randn(16, 4)) ** 2).mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def test_training_goes_on_to_the_bit(tmp_path):
    model, optimizer = training()
    for _ in range(3):
        step(model, optimizer)
    moments, packed = pack_optimizer(optimizer)
    save(tmp_path / "c", {"model": model.state_dict(), "optimizer": moments, "rng": pack_rng()}, {"optimizer": packed})
    expected = [step(model, optimizer) for _ in range(3)]

    again, fresh = training()
    found = load(tmp_path / "c")
    again.load_state_dict(dict(found.tensors["model"]))
    unpack_optimizer(fresh, found.tensors["optimizer"], found.state["optimizer"])
    unpack_rng(found.tensors["rng"])
    assert [step(again, fresh) for _ in range(3)] == expected
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert fresh.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_unpacked_moments_are_copies():
    model, optimizer = training()
    step(model, optimizer)
    moments, packed = pack_optimizer(optimizer)
    kept = {name: value.clone() for name, value in moments.items()}
    other, fresh = training()
    unpack_optimizer(fresh, kept, packed)
    step(other, fresh)
    assert all(torch.equal(kept[name], moments[name]) for name in kept)


def test_an_optimizer_over_other_parameters_is_refused():
    model, optimizer = training()
    step(model, optimizer)
    moments, packed = pack_optimizer(optimizer)
    with pytest.raises(CheckpointError, match=r"groups of \[2, 2\] parameters, this optimizer has \[4\]"):
        unpack_optimizer(torch.optim.AdamW(model.parameters()), moments, packed)
    wide = [torch.nn.Parameter(torch.zeros(9, 9)) for _ in range(4)]
    with pytest.raises(CheckpointError, match=r"has shape \(8, 4\), its parameter \(9, 9\)"):
        unpack_optimizer(torch.optim.AdamW([{"params": wide[:2]}, {"params": wide[2:]}]), moments, packed)


def test_the_other_memory_modules_do_not_need_torch():
    names = "trajectory", "task", "codec", "log", "replay"
    code = f"import sys; {'; '.join(f'import pixelis.memory.{n}' for n in names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path.home()).returncode == 0
