"""Bad input through the command line, as a user would give it: one line on stderr, exit status 2, nothing lost."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pixelis.memory import checkpoint
from pixelis.memory.model import ModelError, check
from tests.fakes_media import plate, png

WEIGHT = "model.language_model.layers.0.mlp.up_proj.weight"


def pixelis(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder."""
    command = [sys.executable, "-m", "pixelis.cluster.cli", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def refused(*words: str | Path, cwd: Path) -> str:
    """The one line with which a command line is refused."""
    done = pixelis(*words, cwd=cwd)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("pixelis: ")
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", [("tool", "OCR"), ("ask", "nowhere")])
def test_media_that_are_not_whole(command: tuple[str, str], tmp_path: Path) -> None:
    whole = png(plate("K7P"))
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").touch()
    more = ["What is it?"] if command[0] == "ask" else []
    assert "cut.png: broken image" in refused(*command, "cut.png", *more, cwd=tmp_path)
    assert "empty.mp4: empty (0 bytes)" in refused(*command, "empty.mp4", *more, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"on": "img0", "box": [0, 0, 1001, 9]}, "OCR: box.2: Input should be less than or equal to 1000 (box_out_of_range)"),
        ({"on": "img0", "box": [-1, 0, 10, 9]}, "(box_out_of_range)"),
        ({"on": "f7"}, "OCR: on: no handle 'f7' (dangling_handle)"),
        ({"on": "img0", "bocks": [0, 0, 10, 9]}, "OCR: bocks: Extra inputs are not permitted (bad_args)"),
    ],
)
def test_calls_that_cannot_be_meant(arguments: dict, told: str, tmp_path: Path) -> None:
    (tmp_path / "plate.png").write_bytes(png(plate("K7P")))
    assert told in refused("tool", "OCR", "plate.png", "--args", json.dumps(arguments), cwd=tmp_path)


@pytest.mark.slow
def test_a_misspelt_key(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('name = "own"\nphase = "sft"\n[rollout]\ngrop = 3\n')
    told = refused("train", "own.toml", cwd=tmp_path)
    assert "own.toml: unknown key rollout.grop; known at [rollout]: group" in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_files_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "photo.arrow").write_bytes(png(plate("K7P")))
    assert "photo.arrow: not an Arrow stream" in refused("replay", "photo.arrow", cwd=tmp_path)
    assert "pixelis: .: no run (neither config-PHASE.toml" in refused("report", ".", cwd=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photo.arrow"]


def _config(folder: Path, **changes: object) -> None:
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | changes))


def _weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "another model": (lambda f: _config(f, model_type="llama"), "holds a 'llama' model; pixelis needs qwen3_vl"),
    "another shape": (lambda f: _weights(f, lambda w: w.update({WEIGHT: torch.zeros(3, 4)})), f"{WEIGHT} has shape (3, 4)"),
    "a weight too few": (lambda f: _weights(f, lambda w: w.pop(WEIGHT)), f"1 weights are missing, the first is {WEIGHT}"),
    "a weight too many": (lambda f: _weights(f, lambda w: w.update(extra=torch.ones(2))), "extra is no weight of the network"),
    "half a file": (_cut, "model.safetensors: not a whole safetensors file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "tokenizer.json or vocab.json is missing"),
    "half a config": (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
    "another card": (lambda f: (f / "policy.json").write_text('{"colour": 1}'), "policy.json: unknown colour"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_policy_folders_that_do_not_fit(name: str, untrained: Path, tmp_path: Path) -> None:
    shutil.copytree(untrained, tmp_path / "policy")
    check(tmp_path / "policy")
    spoil, told = WRONG[name]
    spoil(tmp_path / "policy")
    with pytest.raises(ModelError) as error:
        check(tmp_path / "policy")
    assert told in str(error.value) and "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["eval", "ask", "train"])
def test_a_policy_of_another_architecture_is_refused_by_every_command(command: str, untrained: Path, tmp_path: Path) -> None:
    """Weights that do not fit their own config, and a checkpoint of a phase whose tensors do not fit its policy."""
    shutil.copytree(untrained, tmp_path / "policy")
    base = {"base": str(untrained), "phase": "sft"}
    checkpoint.save(tmp_path / "step-000001", {"model": {WEIGHT: torch.zeros(3, 4)}}, base)
    WRONG["another shape"][0](tmp_path / "policy")
    (tmp_path / "plate.png").write_bytes(png(plate("K7P")))
    for start in ("policy", "step-000001"):
        words = {
            "eval": ["eval", start, "--n", "1"],
            "ask": ["ask", start, "plate.png", "What is it?"],
            "train": ["train", "tiny_sft", "--set", f"start={start}"],
        }[command]
        assert f"{start}: {WEIGHT} has shape (3, 4)" in refused(*words, cwd=tmp_path)
    assert not (tmp_path / "runs").exists()
