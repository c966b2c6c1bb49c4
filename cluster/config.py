"""What a run is: a tree of frozen dataclasses, read from TOML and changed by `--set key=value`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pixelis.actors.rollout import RolloutSettings
from pixelis.actors.world import FAMILIES, Split
from pixelis.cluster.grant import PoolSettings
from pixelis.learners.learner import LearnerSettings
from pixelis.memory.encoder import EncoderSettings
from pixelis.memory.model import Card
from pixelis.memory.select import RecallSettings
from pixelis.tools.backend import Learned
from pixelis.tools.limits import MediaLimits
from pixelis.tools.server import ServerSettings

Phase = Literal["sft", "rft", "ttrl"]
ANY = "any"
"""In a mixture: of all families alike."""
CONFIGS = Path(__file__).parent.parent / "configs"
"""The configs that come with pixelis: `configs/` of a checkout, or beside the installed packages."""


class ConfigError(ValueError):
    """A setting that cannot be; the message names it and says what can."""


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Which questions a run asks."""

    families: tuple[str, ...] = ("code", "clip")
    """In turns; a family named twice has two turns in a round. Evaluation asks all equally."""
    split: Split = "demo"
    scenes: dict[str, int] = field(default_factory=dict)
    """Scenes of each family; one that has none left is passed over. Empty for no end (every step asks new ones)."""
    traces: str = ""
    """A file of demonstrations (docs/traces.md) that SFT imitates in place of the teacher's."""
    file: str = ""
    """A file of questions (docs/tasks.md): with answers, which RFT asks over and over in place of PixelWorld's, or for TTRL,
    which asks each once and drops what the file says of their answers."""
    rounds: int = 1
    """How often TTRL goes through its file."""


@dataclass(frozen=True, slots=True)
class RolloutConfig(RolloutSettings):
    """How the rollout actors act."""

    actors: int = 2
    gpus: float = 0.0
    """GPUs of each actor, or the part of one that it shares; 0: it acts on the CPU."""
    groups: int = 16
    """Questions an iteration, shared by the actors. In SFT: scenes that the teacher recites while the learner trains."""
    staleness: int = 0
    """Updates by which a rollout may be older than the weights that it trains: with 0 the actors wait for each update, and
    a run repeats to the bit; with 1 or 2 they go on meanwhile (set `learner.grpo.truncate = 2.0` then)."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Up to optimizer step `until` (0: to the end), a batch holds this many trajectories of each family, `any` being all.

    Example: ``Stage(400, {"code.caption": 16})``
    """

    until: int = 0
    batch: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """How the learner draws from the replay shard."""

    mode: Literal["once", "epochs"] = "once"
    """`once`: every group once, in order. `epochs`: again and again, by `mixture`."""
    steps_per_call: int = 10
    """Optimizer steps an iteration (`epochs`); `once` takes one."""
    mixture: tuple[Stage, ...] = (Stage(),)
    shards: int = 1
    """Replay shards, each an actor with a log of its own."""
    segment_bytes: int = 64 << 20
    """Size at which a segment of a shard's log is full: then learners on its node read it from disk, and it can be given up."""
    keep_bytes: int = 0
    """Bytes that a shard's log may have (`once`): the oldest segments that the learner has had are given up; 0: keep all."""
    keep_steps: int = 0
    """Updates after which what older weights have sampled is given up (`once`), segment by segment; 0: keep all."""
    strata: Literal["family", "signature"] = "family"
    """What groups can be drawn by: the kind of question, or the operations of the most frequent chain."""


@dataclass(frozen=True, slots=True)
class ToolConfig:
    """Where the tools of a run work."""

    where: Literal["pool", "here", "serve"] = "pool"
    """On a pool of actors that all rollout actors share, in each rollout actor, or on a Ray Serve deployment."""
    deadline: float = 10.0
    """Seconds of one attempt at a call."""
    pool: PoolSettings = field(default_factory=PoolSettings)
    server: ServerSettings = field(default_factory=ServerSettings)
    """Of each replica of the pool."""
    learned: Learned = field(default_factory=Learned)
    """Weights of the learned backends (docs/backends.md); without any the classical ones work."""
    limits: MediaLimits = field(default_factory=MediaLimits)
    """Media beyond them are refused."""


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """The episode memory of test-time training (docs/memory.md)."""

    shards: int = 1
    """Actors that hold it; 0: there is none, and nobody votes but the rollouts of the question."""
    recall: RecallSettings = field(default_factory=RecallSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)


@dataclass(frozen=True, slots=True)
class StopSettings:
    """When a phase ends: after `steps` optimizer steps, or at a gate on the dev split."""

    steps: int = 100
    gate: float = 0.0
    """Success over all families of PixelWorld at which to stop; 0 for no gate."""
    gate_every: int = 50
    gate_n: int = 100
    """Questions a family at a gate."""


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """The evaluation that ends a phase."""

    n: int = 1000
    """Questions a family."""
    split: Split = "heldout"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One phase of a run.

    Example:
        >>> load("configs/sft.toml", ["stop.steps=10"]).stop.steps          # doctest: +SKIP
        10
    """

    name: str
    phase: Phase
    seed: int = 0
    start: str = ""
    """Policy folder, checkpoint or run to start from; empty: the nano backbone of `pixelis pretrain`."""
    card: Card = field(default_factory=Card)
    """How a start policy is talked to that has no policy.json: a Qwen3-VL as published. Saved with what it becomes."""
    tasks: TaskSettings = field(default_factory=TaskSettings)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    learner: LearnerSettings = field(default_factory=LearnerSettings)
    replay: ReplaySettings = field(default_factory=ReplaySettings)
    tools: ToolConfig = field(default_factory=ToolConfig)
    memory: MemorySettings = field(default_factory=MemorySettings)
    stop: StopSettings = field(default_factory=StopSettings)
    eval: EvalSettings = field(default_factory=EvalSettings)
    save_every: int = 50
    """Optimizer steps between checkpoints."""
    tracking: str = "sqlite:///{runs}/mlflow.db"
    """MLflow tracking URI ({runs}: the folder of all runs); empty for none."""
    deadline: float = 600.0
    """Seconds after which a part that has not answered ends the run."""
    watch: float = 120.0
    """Seconds after which a part that has not moved is told of, with what it is doing."""

    def __post_init__(self) -> None:
        _check(self)


def load(path: str | Path, sets: Sequence[str] = ()) -> RunConfig:
    """Read a TOML file, or a config that comes with pixelis by its bare name, and apply `key.key=value` settings.

    ConfigError names what is wrong and where.

    Example:
        >>> load("sft").phase
        'sft'
    """
    path = _found(Path(path))
    try:
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError as e:
        known = ", ".join(sorted(one.stem for one in CONFIGS.glob("*.toml")))
        raise ConfigError(f"{path}: no such config; give a file, or one that comes with pixelis: {known}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not TOML: {e}") from e
    for one in sets:
        _override(raw, one)
    return build(RunConfig, raw, str(path))


def changed(config: RunConfig, sets: Mapping[str, Any]) -> RunConfig:
    """A config with some settings replaced, like ``{"learner.lr": 1e-4}``. ConfigError as from `load`."""
    raw = tomllib.loads(dump(config))
    for key, value in sets.items():
        _put(raw, key, value, f"{key}={value}")
    return build(RunConfig, raw, "config")


def build(cls: Any, raw: Mapping[str, Any], where: str = "config", prefix: str = "") -> Any:
    """A dataclass from nested mappings. Unknown keys, missing ones and wrong types are ConfigErrors."""
    types = _types(cls)
    for key in raw:
        if key not in types:
            table = f"[{prefix[:-1]}]" if prefix else "the top level"
            raise ConfigError(f"{where}: unknown key {prefix}{key}; known at {table}: {', '.join(types)}")
    values = {key: _convert(types[key], value, where, prefix + key) for key, value in raw.items()}
    try:
        return cls(**values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{where}: {f'[{prefix[:-1]}] ' if prefix else ''}{e}") from e


def _found(path: Path) -> Path:
    """The file, or else the config of that name in CONFIGS."""
    own = CONFIGS / f"{path}.toml"
    return own if not path.is_file() and path.name == str(path) and own.is_file() else path


def dump(config: Any) -> str:
    """The whole tree as TOML that `load` reads back."""
    return "\n".join(_tables(asdict(config), "")) + "\n"


def _tables(tree: Mapping[str, Any], prefix: str) -> list[str]:
    lines = [f"{key} = {_toml(value)}" for key, value in tree.items() if not isinstance(value, dict)]
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += ["", f"[{prefix}{key}]", *_tables(value, f"{prefix}{key}.")]
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{k}" = {_toml(v)}' for k, v in value.items()) + "}"
    return repr(value)


@cache
def _types(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


def _override(raw: dict[str, Any], text: str) -> None:
    """Put one `a.b=value` into nested tables; the value is TOML, or else a plain string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write key=value, for example --set stop.steps=100")
    try:
        read = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        read = value
    _put(raw, key.strip(), read, f"--set {text}")


def _put(raw: dict[str, Any], key: str, value: Any, what: str) -> None:
    """Put a value at `a.b` in nested tables."""
    *tables, last = key.split(".")
    for name in tables:
        raw = raw.setdefault(name, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"{what}: {name} is a value, not a table")
    raw[last] = value


def _convert(kind: Any, value: Any, where: str, key: str) -> Any:
    """`value` as type `kind`, or a ConfigError that names the key."""
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {key} must be a table, not {value!r}")
        return build(kind, value, where, f"{key}.")
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}: {key} must be one of {', '.join(map(str, args))}, not {value!r}")
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {key} must be a table, not {value!r}")
        return {name: _convert(args[1], item, where, f"{key}.{name}") for name, item in value.items()}
    if origin is tuple:
        return _convert_tuple(args, value, where, key)
    if origin in (Union, UnionType):
        some = next(a for a in args if a is not type(None))
        return None if value is None else _convert(some, value, where, key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where}: {key} must be {kind.__name__}, not {value!r}")
    return value


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str, key: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: {key} must be a list, not {value!r}")
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(kinds) != len(value):
        raise ConfigError(f"{where}: {key} must have {len(kinds)} values, not {len(value)}")
    return tuple(_convert(k, v, where, f"{key}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))


def _check(config: RunConfig) -> None:
    """What types cannot say."""
    unknown = [name for name in config.tasks.families if name not in FAMILIES]
    if unknown or not config.tasks.families:
        raise ConfigError(f"tasks.families: unknown family {unknown}; known: {', '.join(FAMILIES)}")
    if not config.name or "/" in config.name or config.name.startswith("."):
        raise ConfigError(f"name: {config.name!r} cannot name a folder")
    for name, value, least in (
        ("rollout.actors", config.rollout.actors, 1), ("rollout.groups", config.rollout.groups, 1),
        ("rollout.group", config.rollout.group, 1), ("stop.steps", config.stop.steps, 1), ("eval.n", config.eval.n, 0),
        ("rollout.staleness", config.rollout.staleness, 0),
        ("replay.steps_per_call", config.replay.steps_per_call, 1), ("replay.shards", config.replay.shards, 1),
        ("replay.segment_bytes", config.replay.segment_bytes, 1), ("replay.keep_bytes", config.replay.keep_bytes, 0),
        ("replay.keep_steps", config.replay.keep_steps, 0), ("tasks.rounds", config.tasks.rounds, 1),
        ("memory.shards", config.memory.shards, 0),
        ("save_every", config.save_every, 1), ("learner.ranks", config.learner.ranks, 1),
        ("tools.pool.replicas", config.tools.pool.replicas, 1), ("tools.server.batch", config.tools.server.batch, 1),
        ("tools.server.queue", config.tools.server.queue, 1),
        ("rollout.gpus", config.rollout.gpus, 0), ("learner.gpus", config.learner.gpus, 0),
        *((f"tasks.scenes.{name}", n, 1) for name, n in config.tasks.scenes.items()),
    ):  # fmt: skip
        if value < least:
            raise ConfigError(f"{name}: {value} is below {least}")
    if config.learner.shard and config.learner.ranks == 1:
        raise ConfigError("learner.shard: one rank has nobody to share with; learner.ranks must be 2 or more")
    _check_lora(config.learner)
    heads = asdict(config.learner.heads)
    for name, weight in heads.items():
        if weight < 0:
            raise ConfigError(f"learner.heads.{name}: {weight} is below 0")
    if config.learner.loss != "imitation" and any(heads.values()):
        raise ConfigError("learner.heads: they learn by imitation only; set them to 0 for a phase that learns from rollouts")
    scenes = config.tasks.scenes
    if scenes and set(scenes) != set(config.tasks.families):
        raise ConfigError(f"tasks.scenes: name each of {', '.join(config.tasks.families)}, not {', '.join(scenes)}")
    if config.tasks.traces and config.phase != "sft":
        raise ConfigError(f"tasks.traces: demonstrations are for phase sft, this is {config.phase}; questions go to tasks.file")
    if config.tasks.file and config.phase == "sft":
        raise ConfigError("tasks.file: questions are for phases rft and ttrl, this is sft; demonstrations go to tasks.traces")
    own = config.tasks.traces or config.tasks.file
    if own and config.stop.gate:
        raise ConfigError("stop.gate: it asks PixelWorld's dev split, not what tasks.file or tasks.traces holds; set it to 0")
    if config.tasks.split == "demo" and not own and not 0 < max(scenes.values(), default=0) <= 2000:
        raise ConfigError(f"tasks.scenes: the demo split has 1 to 2000 scenes a family, {scenes or 'no end'} asked for")
    if config.replay.mode == "epochs" and not all(stage.batch for stage in config.replay.mixture):
        raise ConfigError('replay.mixture: each stage needs a batch, like {until = 100, batch = {"code" = 8, "clip" = 8}}')
    if config.replay.mode == "epochs" and (config.replay.keep_bytes or config.replay.keep_steps):
        raise ConfigError('replay.keep_bytes and keep_steps: with replay.mode = "epochs" all that is stored is drawn again')
    if config.phase == "sft" and (config.replay.mode, config.learner.loss) != ("epochs", "imitation"):
        raise ConfigError('phase sft needs replay.mode = "epochs" and learner.loss = "imitation"')
    if config.phase == "rft" and (config.replay.mode, config.learner.loss) != ("once", "grpo"):
        raise ConfigError('phase rft needs replay.mode = "once" and learner.loss = "grpo"')
    if config.phase == "ttrl" and (config.replay.mode, config.learner.loss) != ("once", "ttrl"):
        raise ConfigError('phase ttrl needs replay.mode = "once" and learner.loss = "ttrl"')


def _check_lora(learner: LearnerSettings) -> None:
    lora = learner.lora
    try:
        re.compile(lora.targets)
    except re.error as e:
        raise ConfigError(f"learner.lora.targets: {lora.targets!r} is no regular expression: {e}") from e
    if lora.rank < 0 or not 0 <= lora.dropout < 1:
        raise ConfigError(f"learner.lora: rank {lora.rank} and dropout {lora.dropout:g} must not be negative, dropout below 1")
    if learner.dtype == "bfloat16" and not lora.rank:
        raise ConfigError("learner.dtype: whole weights do not train in bfloat16; set learner.lora.rank, or float32")
    if lora.rank and learner.train_vision:
        raise ConfigError("learner.train_vision: with adapters, learner.lora.targets says whether vision trains")
    if lora.rank and learner.matrix_lr:
        raise ConfigError("learner.matrix_lr: Muon is for whole matrices; with learner.lora.rank set it to 0")
    if lora.rank and lora.dropout and learner.loss != "imitation":
        raise ConfigError("learner.lora.dropout: for imitation only; rollouts were sampled without it")
