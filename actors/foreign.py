"""Calls of other agents' tools as ours: crops and frame selections, whose numbered pictures become our handles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pixelis.tools.call import OPS, TempArgs, ToolCall, ToolFailure, ZoomArgs, validate
from pixelis.tools.frame import SCALE, edge_time, time_of
from pixelis.tools.temp import pick

CROPS = ("crop_image", "crop_image_normalized", "zoom_in")
"""Pixel-Reasoner's names of one operation: `bbox_2d` of the `target_image`-th picture, counted from 1."""
FRAMES = "select_frames"
"""Pixel-Reasoner's: `target_frames` of the clip, counted from 1."""


class Unmapped(ValueError):
    """What of another format has no counterpart here; the message says what."""


class Mapper:
    """The calls of one dialogue: it keeps count of the pictures that calls have shown, by which later calls name them.

    `size` is the width and height of the first medium in pixels, `frames` the number of its frames, 0 for a still; `others`
    counts further media, which the policy sees and cannot look into.

    Example:
        >>> Mapper((640, 480), 0).calls("crop_image", {"bbox_2d": [0.25, 0, 0.5, 0.5], "target_image": 1})
        [ToolCall(name='ZOOM', arguments={'on': 'img0', 'box': [250, 0, 500, 500]})]
    """

    def __init__(self, size: tuple[int, int], frames: int = 0, others: int = 0) -> None:
        self.size, self.frames = size, frames
        self.shown = ["img0", *[""] * others]
        """Our handle of each picture (or clip) of the dialogue, in order."""
        self._images = 0
        self._stills = 0

    def calls(self, name: str, arguments: Mapping[str, Any]) -> list[ToolCall]:
        """Our calls, one after another, for one of theirs. Unmapped when there are none."""
        if name in OPS:
            return [self._own(ToolCall(name, dict(arguments)))]
        if name in CROPS:
            return self._crop(arguments)
        if name == FRAMES:
            return self._select(arguments)
        raise Unmapped(f"no tool of ours does what {name!r} does; known: {', '.join((*OPS, *CROPS, FRAMES))}")

    def _own(self, call: ToolCall) -> ToolCall:
        try:
            args = validate(call)
        except ToolFailure:
            return call  # told when it is played: it makes no handle
        if isinstance(args, ZoomArgs):
            self.shown.append(self._new_image())
        elif isinstance(args, TempArgs) and args.window is not None and self.frames:
            self.shown += [self._new_still() for _ in pick(self.frames, args.window, args.k)]
        return call

    def _crop(self, arguments: Mapping[str, Any]) -> list[ToolCall]:
        number, box = arguments.get("target_image", 1), arguments.get("bbox_2d")
        if not _integer(number) or not isinstance(box, list) or len(box) != 4 or not all(map(_number, box)):
            raise Unmapped(f"a crop needs four numbers as bbox_2d and a target_image, not {dict(arguments)}")
        first: list[ToolCall] = []
        if self.frames and self.shown == ["img0"]:  # nothing selected yet: it counts the frames of the clip
            first, on = [self._frame(self._within(int(number)))], f"f{self._stills}"
        elif not 1 <= number <= len(self.shown):
            raise Unmapped(f"target_image {number} of {len(self.shown)} pictures")
        else:
            on = self.shown[int(number) - 1]
        if not on:
            raise Unmapped(f"target_image {number}: only the first medium can be looked into")
        if self.frames and on == "img0":
            raise Unmapped(f"target_image {number} is the clip as a whole")
        box = self._scaled(box, whole=on == "img0" or bool(first))
        self.shown.append(self._new_image())
        return [*first, ToolCall("ZOOM", {"on": on, "box": box})]

    def _scaled(self, box: Sequence[float], whole: bool) -> list[int]:
        """A box in 0..1, or in pixels of the source, in 0..1000; what lies outside is cut off, as they do."""
        units = (1.0, 1.0)
        if max(box) > 1:
            if not whole:
                raise Unmapped(f"bbox_2d {list(box)} is in pixels of a crop, whose size nothing tells")
            units = float(self.size[0]), float(self.size[1])
        x0, y0, x1, y1 = (min(SCALE, max(0, round(v * SCALE / units[i % 2]))) for i, v in enumerate(box))
        if x0 >= x1 or y0 >= y1:
            raise Unmapped(f"bbox_2d {list(box)} holds nothing")
        return [x0, y0, x1, y1]

    def _select(self, arguments: Mapping[str, Any]) -> list[ToolCall]:
        wanted = arguments.get("target_frames")
        if not self.frames:
            raise Unmapped("frames of a still picture")
        if not isinstance(wanted, list) or not wanted or not all(map(_integer, wanted)):
            raise Unmapped(f"select_frames needs a list of frame numbers as target_frames, not {dict(arguments)}")
        numbers = [self._within(int(n)) for n in wanted]
        calls = self._together(numbers) or [self._frame(n, count=False) for n in numbers]
        self.shown += [self._new_still() for _ in numbers]
        return calls

    def _within(self, number: int) -> int:
        """A frame counted from 1, counted from 0."""
        if not 1 <= number <= self.frames:
            raise Unmapped(f"frame {number} of {self.frames}")
        return number - 1

    def _together(self, numbers: Sequence[int]) -> list[ToolCall]:
        """One TEMP that shows exactly these frames, if there is one."""
        n, k = self.frames, len(numbers)
        if not 2 <= k <= 8:
            return []
        gap = (time_of(numbers[-1], n) - time_of(numbers[0], n)) / (k - 1) / 2
        windows = (
            (edge_time(numbers[0], n), edge_time(numbers[-1] + 1, n)),
            (round(time_of(numbers[0], n) - gap), round(time_of(numbers[-1], n) + gap)),
        )
        for window in windows:
            if 0 <= window[0] <= window[1] <= SCALE and pick(n, window, k) == list(numbers):
                return [ToolCall("TEMP", {"on": "img0", "window": list(window), "k": k})]
        return []

    def _frame(self, number: int, count: bool = True) -> ToolCall:
        """TEMP of one frame; counted among the handles, unless who calls counts it."""
        if count:
            self._new_still()
        time = time_of(number, self.frames)
        return ToolCall("TEMP", {"on": "img0", "window": [time, time]})

    def _new_image(self) -> str:
        self._images += 1
        return f"img{self._images}"

    def _new_still(self) -> str:
        self._stills += 1
        return f"f{self._stills}"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _integer(value: object) -> bool:
    return _number(value) and value == int(value)  # type: ignore[call-overload,no-any-return]
