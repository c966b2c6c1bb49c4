"""Questions, and, as a second type, what is known about their answers."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from pixelis.tools.frame import Box, Point

AnswerType = Literal["text", "choice", "number"]
Window = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Task:
    """A question about media, and nothing about its answer: all the policy side and test-time adaptation ever get.

    `media` are sha256 of source bytes, `media[0]` is the episode's img0. `family` names the kind of question.

    Example: Task("pw/17", "What is written on the red plate?", (sha,), "text", "read")
    """

    id: str
    question: str
    media: tuple[str, ...]
    answer_type: AnswerType = "text"
    family: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "media", tuple(self.media))
        if self.answer_type not in get_args(AnswerType):
            raise ValueError(f"task {self.id}: answer type {self.answer_type!r} is not one of {get_args(AnswerType)}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "media": list(self.media)}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Task":
        """Inverse of `to_dict`."""
        return cls(**raw)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where the answer can be seen, in integers 0..1000 of img0's width and height and of a clip's duration.

    `boxes` (x0, y0, x1, y1); `texts` as they stand in the picture; `windows` (t0, t1); `masks` one polygon each;
    `tracks` one per object, samples (t, x0, y0, x1, y1).

    Raises: ValueError for a coordinate outside 0..1000.

    Example: Evidence(boxes=((100, 200, 180, 240),), texts=("K7P",))
    """

    boxes: tuple[Box, ...] = ()
    texts: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()
    masks: tuple[tuple[Point, ...], ...] = ()
    tracks: tuple[tuple[tuple[int, int, int, int, int], ...], ...] = ()

    def __post_init__(self) -> None:
        for name in ("boxes", "texts", "windows", "masks", "tracks"):
            object.__setattr__(self, name, _tuples(getattr(self, name)))
        for name in ("boxes", "windows", "masks", "tracks"):
            for n in _numbers(getattr(self, name)):
                if not 0 <= n <= 1000:
                    raise ValueError(f"evidence {name}: coordinate {n} is outside 0..1000")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; empty parts are left out."""
        return {k: v for k, v in asdict(self).items() if v}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Evidence":
        """Inverse of `to_dict`."""
        return cls(**raw)


@dataclass(frozen=True, slots=True)
class GoldTask:
    """A task with its key. Not a Task: handing one to the policy side is a type error; it gets `gold.task`.

    Example: GoldTask(task, "K7P", Evidence(texts=("K7P",)), split="dev")
    """

    task: Task
    answer: str
    evidence: Evidence = field(default_factory=Evidence)
    split: str = "train"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "task": self.task.to_dict(),
            "answer": self.answer,
            "evidence": self.evidence.to_dict(),
            "split": self.split,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "GoldTask":
        """Inverse of `to_dict`."""
        return cls(Task.from_dict(raw["task"]), raw["answer"], Evidence.from_dict(raw["evidence"]), raw["split"])


def _tuples(value: Any) -> Any:
    """Lists, as JSON gives them, to tuples at every depth."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _numbers(value: Any) -> list[int]:
    return [n for v in value for n in _numbers(v)] if isinstance(value, tuple) else [value]
