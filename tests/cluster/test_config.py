"""Configs: every file loads, what is wrong is named, what is written is read back."""

from dataclasses import replace
from pathlib import Path

import pytest

from pixelis.cluster.config import ConfigError, RunConfig, Stage, dump, load

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
SFT = next(path for path in CONFIGS if path.name == "tiny_sft.toml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_config_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = load(path)
    (tmp_path / "copy.toml").write_text(dump(config))
    assert load(tmp_path / "copy.toml") == config


def test_a_bare_name_means_a_config_that_comes_with_pixelis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("tiny_sft", ["stop.steps=3"]) == load(SFT, ["stop.steps=3"])
    (tmp_path / "tiny_sft").write_text(SFT.read_text().replace('name = "tiny"', 'name = "own"'))
    assert load("tiny_sft").name == "own"
    known = "rft, rft_8b, sft, sft_8b, tiny_rft, tiny_sft, tiny_ttrl, traces, ttrl"
    with pytest.raises(ConfigError, match=rf"^sfft: no such config; .*{known}$"):
        load("sfft")


@pytest.mark.parametrize("phase", ["sft", "rft"])
def test_the_8b_trains_adapters_in_bfloat16(phase: str) -> None:
    config = load(f"{phase}_8b")
    learner = config.learner
    assert (learner.dtype, learner.lora.rank, learner.checkpointing, learner.pack) == ("bfloat16", 64, True, True)
    assert learner.lr == {"sft": 1e-4, "rft": 1e-5}[phase]
    assert config.rollout.actors * config.rollout.gpus + learner.ranks * learner.gpus <= 1


def test_text_of_many_lines_survives_a_round_trip(tmp_path: Path) -> None:
    config = load("tiny_sft")
    config = replace(config, card=replace(config.card, system='two\nlines\t"of \\ them" \N{GRINNING FACE}'))
    (tmp_path / "copy.toml").write_text(dump(config))
    assert load(tmp_path / "copy.toml") == config


def test_settings_override_the_file() -> None:
    config = load(SFT, ["stop.steps=3", "name=other", "learner.betas=[0.8, 0.9]", "replay.mixture=[{batch={code=5}}]"])
    assert (config.stop.steps, config.name, config.learner.betas) == (3, "other", (0.8, 0.9))
    assert config.replay.mixture == (Stage(0, {"code": 5}),)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("rollout.grop=3", "unknown key rollout.grop; known at [rollout]: group"),
        ("speed=3", "unknown key speed; known at the top level: name"),
        ("stop.steps=many", "stop.steps must be int, not 'many'"),
        ("stop.steps=true", "stop.steps must be int"),
        ("phase=sftt", "phase must be one of sft, rft"),
        ("learner.betas=[0.9]", "learner.betas must have 2 values"),
        ("replay.mixture=[{untl=3}]", "unknown key replay.mixture[0].untl; known at"),
        ("rollout=3", "rollout must be a table"),
        ("tasks.families=['maze']", "unknown family ['maze']; known: code"),
        ("tasks.scenes.code=9999", "1 to 2000 scenes a family"),
        ("tasks.scenes.sizes=3", "name each of code, clip"),
        ("rollout.actors=0", "rollout.actors: 0 is below 1"),
        ("learner.shard=true", "learner.ranks must be 2 or more"),
        ("learner.loss=grpo", "phase sft needs"),
        ("learner.lora.targets='('", "learner.lora.targets: '(' is no regular expression"),
        ("learner.lora={rank=4, dropout=1.5}", "dropout below 1"),
        ("learner={lora={rank=4}, train_vision=true}", "learner.lora.targets says whether vision trains"),
        ("learner={lora={rank=4}, matrix_lr=0.01}", "Muon is for whole matrices"),
        ("learner.dtype=bfloat16", "whole weights do not train in bfloat16; set learner.lora.rank"),
        ("learner={loss='grpo', lora={rank=4, dropout=0.1}}", "learner.lora.dropout: for imitation only"),
        ("rollout.gpus=-1.0", "rollout.gpus: -1.0 is below 0"),
        ("learner.heads.box=-0.2", "learner.heads.box: -0.2 is below 0"),
        ("replay.shards=0", "replay.shards: 0 is below 1"),
        ("replay.keep_bytes=9", "all that is stored is drawn again"),
        ("steps", "write key=value"),
    ],
)
def test_what_is_wrong_is_named(setting: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(SFT, [setting])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_heads_are_for_imitation() -> None:
    assert load("sft", ["learner.heads.box=0.2"]).learner.heads.box == 0.2
    with pytest.raises(ConfigError, match=r"learner\.heads: they learn by imitation only"):
        load("rft", ["learner.heads.box=0.2"])


def test_a_missing_file_and_a_broken_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config"):
        load(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(ConfigError, match=r"broken.toml: not TOML"):
        load(tmp_path / "broken.toml")


def test_a_config_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="cannot name a folder"):
        RunConfig("a/b", "sft")
