"""Random calls, texts of calls and media, and what must be true of any result: for bench/fuzz.py and its test."""

import io
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image

from pixelis.tools.call import KEYS, OPS, ToolCall, ToolFailure, ToolResult, parse_call, validate
from pixelis.tools.handle import Mask, Track, Window, Workspace
from pixelis.tools.limits import MediaLimits
from pixelis.tools.media import MediaError, MediaStore
from pixelis.tools.toolbox import Toolbox

KNOWN = {
    "policy": {
        "bad_json", "bad_call", "unknown_op", "bad_args", "box_out_of_range", "dangling_handle", "wrong_modality",
        "over_budget", "too_many_frames",
    },
    "tool": {"no_segment", "unknown_text", "no_text", "unknown_query", "no_change", "lost_at_once", "no_motion"},
    "infra": {"timeout", "bad_media"},
}  # fmt: skip
LONGEST = 20_000  # characters of one observation
CHAIN = 8  # calls on one medium
Args = dict[str, Any]


class Broken(AssertionError):
    """Something that must not happen: a crash, or a result that cannot be right."""


# Media


def _picture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Soft ground, a coloured plate with text where there is room, and grain."""
    ground = rng.integers(40, 200, (3, 4, 3), dtype=np.uint8)
    pixels = cv2.resize(ground, (width, height), interpolation=cv2.INTER_LINEAR)
    if min(width, height) > 60:
        x, y = width // 4, height // 3
        cv2.rectangle(pixels, (x, y), (x + width // 2, y + height // 4), (200, 30, 40), -1)
        cv2.putText(pixels, "K7P 25", (x + 4, y + height // 5), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)
    return cv2.add(pixels, rng.integers(0, 6, pixels.shape, dtype=np.uint8))


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def _clip(form: str, codec: str, frames: Sequence[np.ndarray]) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


@cache
def whole_media() -> tuple[bytes, ...]:
    """Small pictures and clips of many kinds, all valid."""
    rng = np.random.default_rng(0)
    plate = Image.fromarray(_picture(rng, 200, 150))
    strips = [(1, 1), (2, 2), (700, 2), (2, 700), (4000, 1), (1, 3000), (900, 9), (9, 500)]
    pictures = [
        *(_saved(plate, form) for form in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")),
        *(_saved(Image.fromarray(_picture(rng, *size)), "PNG") for size in strips),
        _saved(plate.convert("L"), "PNG"),
        _saved(plate.convert("CMYK"), "JPEG"),
        _saved(plate.convert("RGBA").rotate(20, expand=True), "PNG"),
        _saved(plate, "JPEG", progressive=True),
        _saved(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "PNG"),
        _saved(Image.new("RGB", (90, 70), (128, 128, 128)), "PNG"),
        _saved(Image.fromarray((np.arange(6000, dtype=np.uint16) * 10).reshape(60, 100)), "PNG"),
    ]
    scenes = [[_picture(rng, 96, 80)] * 4 for _ in range(3)]
    moving = [np.roll(_picture(np.random.default_rng(1), 128, 96), 5 * n, axis=1) for n in range(14)]
    cut = [frame for scene in scenes for frame in scene]
    gif = _saved(Image.fromarray(cut[0]), "GIF", save_all=True, append_images=[Image.fromarray(f) for f in cut[1:]])
    clips = [
        _clip("mp4", "mpeg4", moving), _clip("matroska", "libx264", moving), _clip("avi", "mjpeg", cut), gif,
        _clip("mp4", "libx264", cut[:1]), _clip("avi", "mpeg4", [f[:16, :16].copy() for f in cut]),
        _clip("avi", "mjpeg", [cv2.resize(f, (600, 2)) for f in moving]),
        _clip("avi", "mjpeg", [f[:, :2].copy() for f in moving]),
    ]  # fmt: skip
    return (*pictures, *clips, *clips[:3])


def medium(rng: random.Random) -> bytes:
    """A valid medium (two in three), or one cut short, with changed bytes, or spliced from two."""
    data = rng.choice(whole_media())
    how = rng.randrange(9)
    if how == 0:
        return data[: rng.randrange(len(data))]
    if how == 1:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 3, 30))):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(changed)
    if how == 2:
        other, at = rng.choice(whole_media()), rng.randrange(len(data))
        return data[:at] + other[rng.randrange(len(other)) :]
    return data


# Calls

ODD = (
    "", " ", "img0", "img0 ", "IMG0", "img00", "m1\0", "\ud800", "🐕" * 5, "x" * 17, "x" * 9000, "../../etc/passwd",
    "ａ", "\u202e",
)  # fmt: skip
NUMBERS = (-1, 1001, 10**6, -(10**30), 10**400, 0.5, 1e308, -0.0, float("nan"), float("inf"), True, False)


def _unit(rng: random.Random) -> int:
    return rng.choice((0, 1, 500, 999, 1000)) if rng.random() < 0.25 else rng.randint(0, 1000)


def _box(rng: random.Random) -> list[int]:
    if rng.random() < 0.2:  # tiny
        x, y = rng.randint(0, 995), rng.randint(0, 995)
        return [x, y, x + rng.randint(1, 5), y + rng.randint(1, 5)]
    (x0, x1), (y0, y1) = (sorted(rng.sample(range(1001), 2)) for _ in "xy")
    return [x0, y0, x1, y1]


def _words(rng: random.Random) -> str:
    return rng.choice(("change", "red plate", "a dog", "🐕", "x" * 200, "DROP TABLE", "\n"))


def _maybe(rng: random.Random, chance: float, make: Callable[[], Args]) -> Args:
    return make() if rng.random() < chance else {}


def _fitting(workspace: Workspace) -> list[str]:
    """The operations for which there is a handle."""
    kinds = {handle.kind for handle in workspace.handles.values()}
    stills = ["ZOOM", "SEG", "SEG", "OCR", "PROP"] if kinds & {"image", "frame"} else []
    clips = ["TEMP", "TRK", "TRK"] if "clip" in kinds else []
    return stills + clips + (["PROP"] if kinds & {"mask", "track"} else [])


def valid(rng: random.Random, workspace: Workspace | None) -> ToolCall:
    """A call whose arguments are of the right types, mostly on handles that fit it."""
    op = rng.choice(list(OPS) if workspace is None or rng.random() < 0.1 else _fitting(workspace))
    names = list(workspace.handles) if workspace else ["img0", "img1", "m1", "t1", "w1", "f1"]

    def named(*kinds: str) -> str:
        fit = [n for n in names if workspace and workspace.handles[n].kind in kinds]
        at = rng.random()
        return rng.choice(fit) if fit and at < 0.85 else rng.choice(names) if at < 0.97 else "img9"

    still = named("image", "frame")
    if op == "ZOOM":
        return ToolCall(op, {"on": still, "box": _box(rng)})
    if op == "SEG":
        what = rng.choice(({"point": [_unit(rng), _unit(rng)]}, {"box": _box(rng)}, {"text": _words(rng)}))
        return ToolCall(op, {"on": still, **what, **_maybe(rng, 0.2, lambda: {"neg": [[_unit(rng), _unit(rng)]]})})
    if op == "OCR":
        box = _maybe(rng, 0.7, lambda: {"box": _box(rng)})
        return ToolCall(op, {"on": still, **box, **_maybe(rng, 0.5, lambda: {"level": rng.choice(("line", "block"))})})
    if op == "TEMP":
        t0, t1 = sorted((_unit(rng), _unit(rng)))
        what = {"window": [t0, t1], "k": rng.randint(1, 8)} if rng.random() < 0.5 else {"query": _words(rng)}
        return ToolCall(op, {"on": named("clip"), **what})
    if op == "TRK":
        t0, t1 = sorted((_unit(rng), _unit(rng)))
        start = {"box": _box(rng)} if rng.random() < 0.7 else {"init": named("mask")}
        end = _maybe(rng, 0.7, lambda: {"t1": t1, "stride": rng.randint(1, 64)})
        return ToolCall(op, {"on": named("clip"), **start, "t0": t0, **end})
    keys = rng.sample(KEYS, rng.randint(1, 4))
    to = {"to": named("mask", "image")} if "distance" in keys else {}
    return ToolCall(op, {"of": named("mask", "track", "image", "frame"), "keys": keys, **to})


def anything(rng: random.Random, depth: int = 0) -> Any:
    """Any value that JSON or Python could bring along."""
    kind = rng.randrange(7 if depth < 4 else 4)
    if kind == 0:
        return rng.choice((None, *NUMBERS))
    if kind == 1:
        return rng.choice((_unit(rng), _words(rng), "img0"))
    if kind == 2:
        return rng.choice(ODD)
    if kind == 3:
        return _box(rng)
    if kind == 4:
        return {rng.choice(("on", "box", "a", "", "🐕")): anything(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [anything(rng, depth + 1) for _ in range(rng.randrange(6))]


def nearly(rng: random.Random, workspace: Workspace | None) -> ToolCall:
    """A valid call with one thing wrong."""
    call = valid(rng, workspace)
    arguments = json.loads(json.dumps(call.arguments))
    key = rng.choice(list(arguments))
    how = rng.randrange(5)
    if how == 0:
        del arguments[key]
    elif how == 1:
        arguments[rng.choice(("more", "box", "text", "neg", "t1", "to", "on", "of"))] = anything(rng, 2)
    elif how == 2 and isinstance(arguments[key], list) and arguments[key]:
        arguments[key][rng.randrange(len(arguments[key]))] = rng.choice((*NUMBERS, "5", None, []))
    elif how == 3 and isinstance(arguments[key], list):
        arguments[key] = rng.choice((arguments[key][::-1], arguments[key][:-1], arguments[key] * 2))
    else:
        arguments[key] = anything(rng, 2)
    return ToolCall(call.name, arguments)


def nonsense(rng: random.Random) -> ToolCall:
    """A call that means nothing."""
    names = ("on", "of", "box", "point", "text", "t0", "window", "keys", "", "🐕", "__class__")
    arguments = {rng.choice(names): anything(rng) for _ in range(rng.randrange(5))}
    return ToolCall(rng.choice((*OPS, "zoom", "", "FLY", *ODD)), arguments)


def any_call(rng: random.Random, workspace: Workspace | None = None) -> ToolCall:
    """Six in ten valid, three nearly so, one nonsense."""
    at = rng.randrange(10)
    return valid(rng, workspace) if at < 6 else nearly(rng, workspace) if at < 9 else nonsense(rng)


def any_text(rng: random.Random) -> str:
    """The JSON text of a call, sometimes with characters lost, doubled or changed, or no JSON at all."""
    call = any_call(rng)
    text = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=rng.random() < 0.5)
    how = rng.randrange(8)
    at = rng.randrange(len(text))
    if how == 0:
        return text[:at]
    if how == 1:
        return text[:at] + rng.choice('{}[]",:0e-\\\0\ud800🐕') + text[at + 1 :]
    if how == 2:
        deep = "[" * rng.choice((9, 900, 90_000))
        return rng.choice(("", "null", deep, '{"a":' * 2000, "9" * 5000, text * 2, "\ufeff" + text))
    return text


# What must be true


def checked_text(text: str) -> str:
    """What became of a text: 'ok', or the class and code of its refusal. Broken when that is not known."""
    try:
        validate(parse_call(text))
    except ToolFailure as failure:
        return _known(failure.cls, failure.code, failure.message)
    return "ok"


def checked(workspace: Workspace, call: ToolCall, result: ToolResult, before: int) -> str:
    """The same for a result of a toolbox, on a workspace that had `before` handles."""
    if not isinstance(result, ToolResult) or result.op != call.name or not 0 <= result.ms < math.inf:
        raise Broken(f"no result of this call: {result!r}")
    if len(result.observation()) > LONGEST:
        raise Broken(f"an observation of {len(result.observation())} characters")
    made = list(workspace.handles.values())[before:]
    if result.failure is not None:
        if result.ok or made or result.views or result.shown or result.ref:
            raise Broken("a failure that made something")
        return _known(result.failure.cls, result.failure.code, result.failure.message)
    text = json.dumps(result.to_dict(), allow_nan=False)
    text.encode()
    if ToolResult.from_dict(json.loads(text)).digest() != result.digest():
        raise Broken("does not go through JSON")
    _check_data(result.data)
    if tuple(h.view for h in made) != result.views or result.ref != (made[0].name if made else None):
        raise Broken("handles and result differ")
    if not set(result.shown) <= {h.name for h in made}:
        raise Broken(f"shown but not made: {result.shown}")
    info = workspace.store.info(workspace.source)
    for handle in made:
        view = handle.view
        if view.rect[2] > info.width or view.rect[3] > info.height or not 0 <= (view.frame or 0) < info.frames:
            raise Broken(f"{view} lies outside {info}")
        _check_payload(handle.payload, view.width, view.height, info.frames, (info.width, info.height))
    return "ok"


def _check_data(data: Args) -> None:
    for key, value in data.items():
        if key == "box":
            _check_box(value)
        elif key == "boxes":
            for time_, *box in value:
                _check_box(box)
                _require(0 <= time_ <= 1000, f"time {time_}")
        elif key == "items":
            for item in value:
                _check_box(item["box"])
                _require(bool(item["text"]) and 0 <= item["conf"] <= 1000, f"item {item}")
        elif key == "windows":
            _require(all(0 <= a <= b <= 1000 for a, b in value), f"windows {value}")
        elif key in ("area", "score", "centroid", "times", "brightness", "circularity"):
            _require(all(0 <= v <= 1000 for v in (value if isinstance(value, list) else [value])), f"{key} {value}")


def _check_box(box: Sequence[int]) -> None:
    x0, y0, x1, y1 = box
    _require(0 <= x0 < x1 <= 1000 and 0 <= y0 < y1 <= 1000 and all(type(v) is int for v in box), f"box {box}")


def _check_payload(payload: object, width: int, height: int, frames: int, size: tuple[int, int]) -> None:
    if isinstance(payload, Mask):
        inside = payload.array()
        _require(inside.shape == (height, width) and inside.any(), f"mask of {inside.shape} in {height, width}")
    if isinstance(payload, Track):
        for spot in payload.spots:
            x0, y0, x1, y1 = spot.box
            _require(0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1], f"{spot} outside {size}")
            _require(0 <= spot.frame < frames and 0 <= spot.score <= 1, f"{spot}")
    if isinstance(payload, Window):
        _require(0 <= payload.first <= payload.last < frames and 0 <= payload.t0 <= payload.t1 <= 1000, f"{payload}")


def _require(condition: bool, told: str) -> None:
    if not condition:
        raise Broken(told)


def _known(cls: str, code: str, message: str) -> str:
    _require(code in KNOWN.get(cls, ()), f"unknown refusal {cls} {code}")
    _require(len(message.splitlines()) <= 1 and len(message) < 1000, f"{cls} {code}: not one short line: {message[:500]!r}")
    return f"{cls} {code}"


# Running


@dataclass
class Tally:
    """What came of many calls: how often each thing, by operation, and the longest call in seconds."""

    came: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    calls: int = 0


@dataclass(frozen=True)
class Case:
    """One medium and calls on it; `line` repeats it."""

    seed: int
    calls: tuple[ToolCall, ...]

    @property
    def line(self) -> str:
        """A command."""
        chain = json.dumps([[call.name, call.arguments] for call in self.calls])
        return f"python bench/fuzz.py --seed {self.seed} --calls '{chain}'"


def validated(seed: int, count: int) -> Tally:
    """So many texts parsed and validated; Broken with the text when one is not refused as it should be."""
    rng, tally = random.Random(seed), Tally()
    for _ in range(count):
        text = any_text(rng)
        try:
            tally.came[checked_text(text)] += 1
        except Exception as error:
            raise Broken(f"{type(error).__name__}: {error}; parse_call({text[:500]!r})") from error
        tally.calls += 1
    return tally


def executed(seed: int, count: int, watch: Callable[[Case | None], None] = lambda case: None, deadline: float = 10.0) -> Tally:
    """So many calls run, in chains of CHAIN on one medium each; Broken with the shortest chain that still breaks.

    `watch` is told of each case before its call runs, and of None when it has returned.
    """
    tally, number = Tally(), 0
    while tally.calls < count:
        number += 1
        run = Run(seed * 1_000_003 + number, watch, deadline)
        try:
            for came, seconds in run.chain():
                tally.came[came] += 1
                tally.calls += "medium" not in came
                tally.slowest = max(tally.slowest, seconds)
        except Exception as error:
            raise Broken(f"{type(error).__name__}: {error}\n{shortest(run.case, type(error)).line}") from error
    return tally


class Run:
    """One medium drawn from a seed, and calls on it: random ones, or given ones."""

    def __init__(self, seed: int, watch: Callable[[Case | None], None] = lambda case: None, deadline: float = 10.0):
        self.rng = random.Random(seed)
        self.data = medium(self.rng)
        self.case = Case(seed, ())
        self.watch = watch
        self.deadline = deadline

    def chain(self, calls: Sequence[ToolCall] | None = None) -> Iterator[tuple[str, float]]:
        """What came of each call, and its seconds; of a medium that is refused one line, 'medium ...'."""
        store = MediaStore(cache_bytes=64 << 20, limits=MediaLimits(pixels=4_000_000, frame_pixels=4_000_000))
        toolbox = Toolbox(store, deadline=self.deadline, max_calls=CHAIN - 1)
        self.watch(self.case)
        try:
            workspace = Workspace(store, store.put(self.data))
        except MediaError as error:
            _require(len(str(error).splitlines()) == 1, f"a message of several lines: {error}")
            yield "medium refused", 0.0
            return
        finally:
            self.watch(None)
        yield "medium taken", 0.0
        for number in range(CHAIN if calls is None else len(calls)):
            call = any_call(self.rng, workspace) if calls is None else calls[number]
            self.case = Case(self.case.seed, (*self.case.calls, call))
            yield self.step(toolbox, workspace, call)

    def step(self, toolbox: Toolbox, workspace: Workspace, call: ToolCall) -> tuple[str, float]:
        """One call."""
        before, start = len(workspace.handles), time.monotonic()
        self.watch(self.case)
        result = toolbox.run(workspace, call)
        self.watch(None)
        op = call.name if call.name in OPS else "(other)"
        return f"{op} {checked(workspace, call, result, before)}", time.monotonic() - start


def shortest(case: Case, kind: type[Exception]) -> Case:
    """The case without the calls that its failure does not need."""
    calls = list(case.calls)
    for index in reversed(range(len(calls) - 1)):
        fewer = calls[:index] + calls[index + 1 :]
        if _breaks(case.seed, fewer, kind):
            calls = fewer
    return Case(case.seed, tuple(calls))


def _breaks(seed: int, calls: list[ToolCall], kind: type[Exception]) -> bool:
    try:
        for _ in Run(seed).chain(calls):
            pass
    except Exception as error:
        return type(error) is kind
    return False
