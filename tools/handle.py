"""Handles: the names inside one episode for images, clips, frames, masks, tracks and windows."""

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pixelis.tools.frame import Rect, View
from pixelis.tools.media import MediaStore

Kind = Literal["image", "clip", "frame", "mask", "track", "window"]
PREFIX: dict[str, str] = {"image": "img", "clip": "img", "frame": "f", "mask": "m", "track": "t", "window": "w"}


class DanglingHandle(KeyError):
    """A name that no handle of this episode has."""


@dataclass(frozen=True, slots=True)
class Mask:
    """Which pixels of a view belong to something; run lengths (uint32 little endian, zeros first), row by row.

    Example:
        >>> Mask.of(np.array([[0, 1], [1, 1]], bool)).area
        3
    """

    width: int
    height: int
    runs: bytes

    @staticmethod
    def of(array: np.ndarray) -> "Mask":
        """Packs an HxW array (non-zero = inside)."""
        flat = np.asarray(array, bool).ravel()
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        bounds = np.concatenate(([0], edges, [flat.size]))
        lengths = np.diff(bounds)
        if flat.size and flat[0]:
            lengths = np.concatenate(([0], lengths))
        return Mask(array.shape[1], array.shape[0], lengths.astype("<u4").tobytes())

    def array(self) -> np.ndarray:
        """The mask as an HxW bool array."""
        lengths = np.frombuffer(self.runs, "<u4")
        values = np.arange(lengths.size) % 2 == 1
        return np.repeat(values, lengths).reshape(self.height, self.width)

    @property
    def area(self) -> int:
        """Pixels inside."""
        return int(np.frombuffer(self.runs, "<u4")[1::2].sum())

    def digest(self) -> str:
        """Content hash."""
        return _sha(f"mask {self.width}x{self.height}", self.runs)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a track is in one frame: a rectangle in source pixels, how sure (0..1), and whether it is in sight."""

    frame: int
    box: Rect
    score: float
    visible: bool


@dataclass(frozen=True, slots=True)
class Track:
    """A thing followed through a clip: one Spot per visited frame, in time order."""

    spots: tuple[Spot, ...]

    def digest(self) -> str:
        """Content hash."""
        rows = [(s.frame, s.box, round(s.score, 6), s.visible) for s in self.spots]
        return _sha("track", repr(rows).encode())


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a clip: frames `first` to `last` inclusive, and the same as times 0..1000."""

    first: int
    last: int
    t0: int
    t1: int

    def digest(self) -> str:
        """Content hash."""
        return _sha("window", repr((self.first, self.last, self.t0, self.t1)).encode())


Payload = Mask | Track | Window


@dataclass(frozen=True, slots=True)
class Handle:
    """A name inside one episode, the view it looks at and, for masks, tracks and windows, its payload.

    A mask's view is the view it was cut from (its array has the view's size); a track's or window's is the clip's.

    Example:
        >>> Handle("img1", "image", View("ab", (0, 0, 4, 4))).name
        'img1'
    """

    name: str
    kind: Kind
    view: View
    payload: Payload | None = None

    def identity(self) -> list[object]:
        """What the handle points to, without its name: the same thing in two episodes has the same identity."""
        return [self.kind, self.view.to_list(), self.payload.digest() if self.payload else None]


@dataclass
class Workspace:
    """The handles of ONE episode; `img0` is the source, further names count up per kind.

    Given no handles it makes `img0`, and raises MediaError when the source cannot be decoded.
    """

    store: MediaStore
    source: str
    handles: dict[str, Handle] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)  # attempted calls by op, for the budget

    def __post_init__(self) -> None:
        if self.handles:
            return
        info = self.store.info(self.source)
        view = View(self.source, (0, 0, info.width, info.height))
        self.handles["img0"] = Handle("img0", info.kind, view)

    def get(self, name: str) -> Handle:
        """The handle called `name`; raises DanglingHandle."""
        if name not in self.handles:
            raise DanglingHandle(name)
        return self.handles[name]

    def new(self, kind: Kind, view: View, payload: Payload | None = None) -> Handle:
        """Adds a handle under the next free name of its kind."""
        prefix = PREFIX[kind]
        count = sum(PREFIX[h.kind] == prefix for h in self.handles.values())
        number = count if prefix == "img" else count + 1  # img0 is taken by the source
        handle = Handle(f"{prefix}{number}", kind, view, payload)
        self.handles[handle.name] = handle
        return handle

    def __contains__(self, name: str) -> bool:
        return name in self.handles


def _sha(head: str, body: bytes) -> str:
    return hashlib.sha256(head.encode() + b"\n" + body).hexdigest()
