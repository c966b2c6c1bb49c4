"""Calls and results: what the policy may ask of a tool, and what it gets back."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pixelis.tools.frame import SCALE, View

FailureClass = Literal["policy", "tool", "infra"]
LONGEST = 300  # characters of a failure's message
KEYS = (
    "area", "box", "centroid", "aspect", "orientation", "perimeter", "circularity",
    "color", "brightness", "count", "spots", "distance", "speed", "direction",
)  # fmt: skip


class ToolFailure(Exception):
    """A call that did not work: `cls` says whose fault it was, `code` is one short word, `message` one line.

    policy: the caller's mistake (the only class that may cost reward); tool: the tool looked and found nothing;
    infra: time-out, a dead process, unreadable media.
    """

    def __init__(self, cls: FailureClass, code: str, message: str = ""):
        self.cls: FailureClass = cls
        self.code = code
        self.message = " ".join(message.splitlines())[:LONGEST]  # it may quote what the policy wrote
        super().__init__(f"{cls} {code}: {self.message}")

    def __reduce__(self) -> tuple[Any, ...]:
        return ToolFailure, (self.cls, self.code, self.message)  # it crosses processes


def _ordered_box(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError("box needs x0 < x1 and y0 < y1")
    return box


def _ordered_window(window: tuple[int, int]) -> tuple[int, int]:
    if window[0] > window[1]:
        raise ValueError("window needs t0 <= t1")
    return window


Unit = Annotated[int, Field(ge=0, le=SCALE, strict=True)]
BoxArg = Annotated[tuple[Unit, Unit, Unit, Unit], AfterValidator(_ordered_box)]
WindowArg = Annotated[tuple[Unit, Unit], AfterValidator(_ordered_window)]
PointArg = tuple[Unit, Unit]
Name = Annotated[str, Field(min_length=1, max_length=16)]


class Args(BaseModel):
    """Base of the argument models: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def handles(self) -> dict[str, str]:
        """Argument name -> handle name, for the arguments that name a handle."""
        found = {k: getattr(self, k, None) for k in ("on", "init", "of", "to")}
        return {k: v for k, v in found.items() if v is not None}

    def _one_of(self, *names: str) -> Self:
        given = [n for n in names if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(names)} is needed, got {given or 'none'}")
        return self


class SegArgs(Args):
    """SEG: the thing at a point, in a box or named by a text -> a mask."""

    on: Name
    point: PointArg | None = None
    box: BoxArg | None = None
    text: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    neg: list[PointArg] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        return self._one_of("point", "box", "text")


class ZoomArgs(Args):
    """ZOOM: a box -> its pixels at full resolution."""

    on: Name
    box: BoxArg


class TrkArgs(Args):
    """TRK: a box or mask at time t0 -> where it is until t1, every `stride` frames."""

    on: Name
    box: BoxArg | None = None
    init: Name | None = None
    t0: Unit
    t1: Unit | None = None
    stride: Annotated[int, Field(ge=1, le=64, strict=True)] = 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.t1 is not None and self.t1 < self.t0:
            raise ValueError("t1 must not be before t0")
        return self._one_of("box", "init")


class OcrArgs(Args):
    """OCR: the text in a box (or everywhere); level "line" takes the box as one line and only reads it."""

    on: Name
    box: BoxArg | None = None
    level: Literal["line", "block"] = "block"


class TempArgs(Args):
    """TEMP: k frames of a window, or the windows that a query names ("change": between sudden changes)."""

    on: Name
    window: WindowArg | None = None
    k: Annotated[int, Field(ge=1, le=8, strict=True)] = 1
    query: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        return self._one_of("window", "query")


class PropArgs(Args):
    """PROP: measured properties of what a handle shows; `to` is the other end of a distance."""

    of: Name
    keys: Annotated[list[Literal[KEYS]], Field(min_length=1, max_length=len(KEYS))]  # type: ignore[valid-type]
    to: Name | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if ("distance" in self.keys) != (self.to is not None):
            raise ValueError("distance needs `to`, and `to` is for distance only")
        return self


OPS: dict[str, type[Args]] = {
    "SEG": SegArgs, "ZOOM": ZoomArgs, "TRK": TrkArgs, "OCR": OcrArgs, "TEMP": TempArgs, "PROP": PropArgs,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as the policy wrote it; nothing is validated but its shape.

    Example:
        >>> ToolCall("ZOOM", {"on": "img0", "box": [0, 0, 500, 500]}).to_json()
        '{"name":"ZOOM","arguments":{"on":"img0","box":[0,0,500,500]}}'
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Canonical text: no spaces, keys in the order they were given."""
        return compact({"name": self.name, "arguments": self.arguments})


def parse_call(text: str) -> ToolCall:
    """Reads a call from its JSON text; raises ToolFailure(policy, bad_json | bad_call)."""
    try:
        value = json.loads(text)
        compact(value).encode()  # refuses NaN, infinities and lone surrogates, which JSON text cannot carry on
    except (ValueError, RecursionError) as error:
        raise ToolFailure("policy", "bad_json", str(error)) from error
    if not isinstance(value, dict) or set(value) != {"name", "arguments"}:
        raise ToolFailure("policy", "bad_call", 'a call is {"name":...,"arguments":{...}}')
    if not isinstance(value["name"], str) or not isinstance(value["arguments"], dict):
        raise ToolFailure("policy", "bad_call", "name must be a string and arguments an object")
    return ToolCall(value["name"], value["arguments"])


def validate(call: ToolCall) -> Args:
    """The typed arguments of a call; raises ToolFailure(policy, unknown_op | box_out_of_range | bad_args)."""
    model = OPS.get(call.name)
    if model is None:
        raise ToolFailure("policy", "unknown_op", f"{call.name[:40]!r} is none of {', '.join(OPS)}")
    try:
        return model.model_validate(call.arguments)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "arguments"
        out = first["type"] in ("less_than_equal", "greater_than_equal") and first["loc"][0] in ("box", "point", "neg")
        raise ToolFailure("policy", "box_out_of_range" if out else "bad_args", f"{where}: {first['msg']}") from error


@dataclass(frozen=True, slots=True)
class Failure:
    """What a ToolFailure looks like inside a result."""

    cls: FailureClass
    code: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave: data for the policy, handles made, or a typed failure.

    `ref` is the handle made (the first, when several), `shown` the handles whose pixels the policy now sees; `views`
    and `payloads` belong to all handles made, in order. Coordinates and times in `data` are 0..1000 of the `on` handle.

    Example:
        >>> ToolResult(True, "ZOOM", "img1", {}, ("img1",)).observation()
        '{"ok":true,"ref":"img1"}'
    """

    ok: bool
    op: str
    ref: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    failure: Failure | None = None
    tool: str = ""
    ms: float = 0.0
    views: tuple[View, ...] = ()
    payloads: tuple[str, ...] = ()

    def observation(self) -> str:
        """The compact JSON text that the policy reads."""
        if self.failure is not None:
            return compact({"ok": False, "error": self.failure.code})
        ref = {} if self.ref is None else {"ref": self.ref}
        return compact({"ok": True, **ref, **({"data": self.data} if self.data else {})})

    def digest(self) -> str:
        """sha256 over everything but `ms`: equal digests mean equal results."""
        value = self.to_dict()
        del value["ms"]
        if value["failure"]:
            del value["failure"][2]  # the message is for people and may hold local paths
        return hashlib.sha256(compact(value, sort=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """JSON form; `from_dict` reads it back."""
        failure = [self.failure.cls, self.failure.code, self.failure.message] if self.failure else None
        return {
            "ok": self.ok, "op": self.op, "ref": self.ref, "data": self.data, "shown": list(self.shown),
            "failure": failure, "tool": self.tool, "ms": self.ms,
            "views": [v.to_list() for v in self.views], "payloads": list(self.payloads),
        }  # fmt: skip

    @staticmethod
    def from_dict(value: dict[str, Any]) -> "ToolResult":
        """Reads what `to_dict` wrote."""
        rest = {k: value[k] for k in ("ok", "op", "ref", "data", "tool", "ms")}
        return ToolResult(
            **rest,
            shown=tuple(value["shown"]),
            failure=Failure(*value["failure"]) if value["failure"] else None,
            views=tuple(View.from_list(v) for v in value["views"]),
            payloads=tuple(value["payloads"]),
        )


def compact(value: object, sort: bool = False) -> str:
    """JSON without spaces; NaN and infinity are refused."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False, sort_keys=sort)
