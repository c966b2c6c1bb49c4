"""What an episode leaves behind: turns, trajectories, groups. Tokens are the truth; text is never tokenised again."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.frame import View

Version = tuple[int, int]
"""Weights version (epoch, step). Epochs rise at every rebuild or resume, so a step number never means two things."""

Status = Literal["finished", "over_budget", "infra", "cancelled"]

ROLES = {
    "p": "prompt", "v": "observation",
    "t": "thought", "o": "op", "g": "argument", "s": "structure", "a": "answer", "x": "erroneous",
}  # fmt: skip
"""What a token is for, by its letter: the first two are observed, the others sampled (paper 3). Erroneous: the span of a
demonstration that must not be imitated, though its recovery must."""
LETTERS = "togsax"
SAMPLED = frozenset(LETTERS)


@dataclass(frozen=True, slots=True)
class Turn:
    """What the environment showed, then what the policy sampled, then what that did.

    Log-probs are natural logarithms, kept at float32 (the precision they are stored in), one per sampled token.
    `views` are the pictures whose placeholders occur in `observed`, in order. `result` is the result of `call`; its
    text is in the *next* turn's `observed`. `error` is a code when the sampled text was neither a call nor an answer.
    `roles` has a letter of ROLES for each sampled token; left out, all of it is thought.

    Raises: ValueError when lengths disagree, a log-prob is not finite, a role is none of a sampled token's, or a result
    stands without its call.

    Example: Turn(observed=(5, 6, 7), sampled=(8, 9), logprobs=(-0.5, -0.25), version=(0, 12), roles="sa")
    """

    observed: tuple[int, ...]
    sampled: tuple[int, ...]
    logprobs: tuple[float, ...]
    views: tuple[View, ...] = ()
    call: ToolCall | None = None
    result: ToolResult | None = None
    version: Version = (0, 0)
    error: str | None = None
    roles: str = ""

    def __post_init__(self) -> None:
        keep = object.__setattr__
        keep(self, "observed", tuple(int(t) for t in self.observed))
        keep(self, "sampled", tuple(int(t) for t in self.sampled))
        keep(self, "logprobs", tuple(np.asarray(self.logprobs, np.float32).tolist()))
        keep(self, "views", tuple(self.views))
        keep(self, "version", (int(self.version[0]), int(self.version[1])))
        keep(self, "roles", self.roles or "t" * len(self.sampled))
        if len(self.roles) != len(self.sampled) or not SAMPLED.issuperset(self.roles):
            raise ValueError(f"roles {self.roles!r} for {len(self.sampled)} sampled tokens, each of which is one of {LETTERS}")
        if len(self.sampled) != len(self.logprobs):
            raise ValueError(f"{len(self.sampled)} sampled tokens but {len(self.logprobs)} log-probs")
        if not all(map(math.isfinite, self.logprobs)):
            raise ValueError("a log-prob of a sampled token is not finite")
        if self.result is not None and self.call is None:
            raise ValueError("a result without the call it answers")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; absent parts are left out."""
        out: dict[str, Any] = {
            "observed": list(self.observed),
            "sampled": list(self.sampled),
            "logprobs": list(self.logprobs),
            "views": [v.to_list() for v in self.views],
            "call": None if self.call is None else {"name": self.call.name, "arguments": self.call.arguments},
            "result": None if self.result is None else self.result.to_dict(),
            "version": list(self.version),
            "error": self.error,
            "roles": self.roles,
        }
        return {k: v for k, v in out.items() if v is not None}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Turn":
        """Inverse of `to_dict`."""
        return cls(
            observed=tuple(raw["observed"]),
            sampled=tuple(raw["sampled"]),
            logprobs=tuple(raw["logprobs"]),
            views=tuple(View.from_list(v) for v in raw["views"]),
            call=ToolCall(**raw["call"]) if "call" in raw else None,
            result=ToolResult.from_dict(raw["result"]) if "result" in raw else None,
            version=(raw["version"][0], raw["version"][1]),
            error=raw.get("error"),
            roles=raw["roles"],
        )


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode, start to end: the concatenation of `observed + sampled` over its turns.

    `tokens`, `mask` and `logprobs` are aligned arrays of length L. The mask follows from the turns and cannot be given,
    so an observation can never be marked trainable. `media` holds the sha256 of every source medium the views look at.

    Raises: ValueError for an unknown status, or a view whose source is not among `media`.

    Example: Trajectory(id="r0/t3/1", task_id="t3", question="Which letter?", media=(sha,), turns=(turn,), answer="K")
    """

    id: str
    task_id: str
    question: str
    media: tuple[str, ...]
    turns: tuple[Turn, ...]
    answer: str | None = None
    status: Status = "finished"
    rewards: dict[str, float] = field(default_factory=dict)
    family: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "media", tuple(self.media))
        object.__setattr__(self, "turns", tuple(self.turns))
        object.__setattr__(self, "rewards", {k: float(v) for k, v in self.rewards.items()})
        if self.answer is not None:  # a policy can write half a surrogate pair, which no file or network can carry
            object.__setattr__(self, "answer", self.answer.encode("utf-8", "replace").decode())
        if self.status not in get_args(Status):
            raise ValueError(f"trajectory {self.id}: status {self.status!r} is not one of {get_args(Status)}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"trajectory {self.id}: seed {self.seed} does not fit 64 bits")
        foreign = {v.source for v in self.views} - set(self.media)
        if foreign:
            raise ValueError(f"trajectory {self.id}: a view looks at {min(foreign)}, which is not among its media")

    @property
    def tokens(self) -> np.ndarray:
        """(L,) int32."""
        return np.array([t for turn in self.turns for t in (*turn.observed, *turn.sampled)], np.int32)

    @property
    def mask(self) -> np.ndarray:
        """(L,) bool, True exactly on sampled tokens."""
        lengths = [n for turn in self.turns for n in (len(turn.observed), len(turn.sampled))]
        return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)

    @property
    def logprobs(self) -> np.ndarray:
        """(L,) float32, natural log of the sampling probability; 0 on observed tokens."""
        out = np.zeros(len(self), np.float32)
        out[self.mask] = [p for turn in self.turns for p in turn.logprobs]
        return out

    @property
    def roles(self) -> str:
        """A letter of ROLES for each of the L tokens; what is observed after a call is its observation."""
        before = (None, *self.turns)
        asked = ["v" if last is not None and last.call is not None else "p" for last in before]
        return "".join(seen * len(turn.observed) + turn.roles for seen, turn in zip(asked, self.turns, strict=False))

    def __len__(self) -> int:
        return sum(len(turn.observed) + len(turn.sampled) for turn in self.turns)

    @property
    def views(self) -> tuple[View, ...]:
        """All views in the order of their placeholders."""
        return tuple(v for turn in self.turns for v in turn.views)

    @property
    def versions(self) -> tuple[Version, ...]:
        """The weights version of each turn."""
        return tuple(turn.version for turn in self.turns)

    @property
    def oldest_version(self) -> Version:
        """The version staleness is measured from. Raises ValueError when nothing was sampled yet."""
        return min(self.versions)

    @property
    def n_calls(self) -> int:
        """Turns that hold a well-formed call."""
        return sum(turn.call is not None for turn in self.turns)

    @property
    def n_valid(self) -> int:
        """Calls that succeeded (paper 7: RaPR `valid` asks for at least one)."""
        return sum(turn.result is not None and turn.result.ok for turn in self.turns)

    @property
    def n_invalid(self) -> int:
        """Steps that are the policy's own fault: unparsable text and `policy` failures, never `tool` or `infra`."""
        return sum(turn.error is not None or _policy_failure(turn.result) for turn in self.turns)

    @property
    def chain_length(self) -> int:
        """Steps taken before the answer: calls, and attempts that did not parse (paper 7; the answer is no step)."""
        return sum(turn.call is not None or turn.error is not None for turn in self.turns)

    def to_dict(self) -> dict[str, Any]:
        """JSON a person can read."""
        return {
            "id": self.id,
            "task_id": self.task_id,
            "family": self.family,
            "question": self.question,
            "answer": self.answer,
            "status": self.status,
            "rewards": dict(self.rewards),
            "media": list(self.media),
            "seed": self.seed,
            "turns": [turn.to_dict() for turn in self.turns],
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Trajectory":
        """Inverse of `to_dict`."""
        return cls(**{**raw, "media": tuple(raw["media"]), "turns": tuple(Turn.from_dict(t) for t in raw["turns"])})


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts of one question: the learner's unit.

    Raises: ValueError when empty, or when a trajectory answers another task.

    Example: Group("t3", (first, second))
    """

    task_id: str
    trajectories: tuple[Trajectory, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "trajectories", tuple(self.trajectories))
        if not self.trajectories:
            raise ValueError(f"group of task {self.task_id} holds no trajectory")
        for t in self.trajectories:
            if t.task_id != self.task_id:
                raise ValueError(f"trajectory {t.id} of task {t.task_id} in a group of task {self.task_id}")

    @property
    def media(self) -> tuple[str, ...]:
        """Every source medium named by a member, each once, in order of appearance."""
        return tuple(dict.fromkeys(sha for t in self.trajectories for sha in t.media))

    def __len__(self) -> int:
        return len(self.trajectories)

    def to_dict(self) -> dict[str, Any]:
        """JSON a person can read."""
        return {"task_id": self.task_id, "trajectories": [t.to_dict() for t in self.trajectories]}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Group":
        """Inverse of `to_dict`."""
        return cls(raw["task_id"], tuple(Trajectory.from_dict(t) for t in raw["trajectories"]))


def _policy_failure(result: ToolResult | None) -> bool:
    return result is not None and result.failure is not None and result.failure.cls == "policy"
