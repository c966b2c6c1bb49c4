"""Scenes under another light, with motion blur, sensor noise or a misleading text: the same question and key, other pixels.

Changed are the pixels of a rendered scene before they are encoded, all frames of a clip alike (noise falls anew on each).
At severity s, with every u drawn once a scene, evenly from 0.75..1.25:

lighting: a dim and warm lamp to the left. All light times 2 ^ -(su / 2), red times 2 ^ (su' / 4) and blue 2 ^ -(su' / 4), and
from left to right once more times 1 .. 2 ^ -(su'' / 2). motion: a camera that rests for 2 ^ -3su of the exposure and is then
swept along: the rest of the light is smeared over a straight line of 0.3 u' of the width at 30 u'' degrees. One light and one
sweep for all scenes but for their spread, so that there is something to adapt to. noise: Gaussian, of 60 s grey levels (of 255)
standard deviation, every pixel and channel by itself. overlay: a code that is not the answer, written as captions are (white
with a black edge) above or below the thing asked about, 2 s times as large as a plate's own, and with it from frame to frame.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from pixelis.actors.scene import FONT, STROKE, Item, Pixels, draw_code, make_rng

Name = Literal["lighting", "motion", "noise", "overlay"]
NAMES: tuple[Name, ...] = get_args(Name)
DIM, WARM, FALL = 0.5, 0.25, 0.5  # stops at severity 1: of all light, of red up and blue down, and from left to right
REST, LENGTH, ANGLE = 3.0, 0.3, math.pi / 6  # halvings of the time at rest at severity 1; of the width; upwards
SPREAD = 0.25  # of a scene's light and sweep around these
DEVIATION = 60.0  # grey levels
DOUBLINGS = 7  # 128 samples of a sweep
LETTERS, EDGE, APART = 1.3, 2, 4  # of an overlay: scale of its font, pixels of its edge, pixels from what it stands beside

Effect = Callable[[Pixels, Item], Pixels]
"""What becomes of a frame's pixels, given the thing asked about as it is in that frame."""


class ShiftError(ValueError):
    """A shift that cannot be; the message names those that can."""


@dataclass(frozen=True, slots=True)
class Shift:
    """What changes the pixels of scenes, and how much: severity 0 leaves every byte as it is.

    Raises: ShiftError for a name that is none of NAMES, or a severity outside 0..1.

    Example: ``Shift.parse("noise:0.5") == Shift("noise", 0.5)``
    """

    name: Name = "lighting"
    severity: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in NAMES or not 0 <= self.severity <= 1:
            raise ShiftError(f"no shift {self}: write NAME:SEVERITY, NAME one of {', '.join(NAMES)}, SEVERITY 0 to 1")

    @classmethod
    def parse(cls, text: str) -> "Shift":
        """Reads ``NAME:SEVERITY``; ShiftError when it cannot be."""
        name, _, severity = text.partition(":")
        try:
            return cls(name, float(severity))  # type: ignore[arg-type]  # it is checked
        except ValueError as error:
            known = f"NAME one of {', '.join(NAMES)}, SEVERITY 0 to 1"
            raise ShiftError(f"no shift {text!r}: write NAME:SEVERITY, {known}, for example noise:0.5") from error

    def __str__(self) -> str:
        return f"{self.name}:{self.severity:g}"

    @property
    def mark(self) -> str:
        """What the id of a scene under this shift ends in: nothing at severity 0."""
        return f"+{self}" if self.severity else ""

    def effect(self, family: str, seed: int) -> Effect:
        """What is done to the frames of one scene, in their order."""
        if not self.severity:
            return lambda pixels, asked: pixels
        return EFFECTS[self.name](make_rng(f"{family}/{self.name}", seed), self.severity)


def lighting(rng: np.random.Generator, severity: float) -> Effect:
    dim, warm, fall = severity * np.array((DIM, WARM, FALL)) * rng.uniform(1 - SPREAD, 1 + SPREAD, 3)
    stops = warm * np.array((1, 0, -1)) - dim  # of each channel, at the left edge

    def lit(pixels: Pixels, asked: Item) -> Pixels:
        across = np.linspace(0, fall, pixels.shape[1])[:, None]
        return np.round(pixels * 2.0 ** (stops - across)).astype(np.uint8)  # no channel gains light: nothing is clipped

    return lit


def motion(rng: np.random.Generator, severity: float) -> Effect:
    rest, length, angle = np.array((REST, LENGTH, ANGLE)) * rng.uniform(1 - SPREAD, 1 + SPREAD, 3)
    still = 2.0 ** -(severity * rest)

    def swept(pixels: Pixels, asked: Item) -> Pixels:
        smeared = smear(pixels, length * pixels.shape[1], angle)
        return np.round(still * pixels + (1 - still) * smeared).astype(np.uint8)

    return swept


def smear(pixels: Pixels, length: float, angle: float) -> np.ndarray:
    """The mean, float32, over a straight line from each pixel on: 2 ^ DOUBLINGS samples, as many more by each doubling."""
    out: np.ndarray = pixels.astype(np.float32)
    height, width = pixels.shape[:2]
    for step in length / 2.0 ** np.arange(DOUBLINGS, 0, -1):
        move = np.array([[1, 0, step * math.cos(angle)], [0, 1, -step * math.sin(angle)]])
        out = (out + cv2.warpAffine(out, move, (width, height), borderMode=cv2.BORDER_REFLECT)) / 2
    return out


def noise(rng: np.random.Generator, severity: float) -> Effect:
    def fall(pixels: Pixels, asked: Item) -> Pixels:
        grains = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(DEVIATION * severity)
        return np.clip(np.round(pixels + grains), 0, 255).astype(np.uint8)

    return fall


def overlay(rng: np.random.Generator, severity: float) -> Effect:
    codes, above = (draw_code(rng), draw_code(rng)), rng.random() < 0.5
    scale = LETTERS * severity

    def caption(pixels: Pixels, asked: Item) -> Pixels:
        text = codes[asked.text == codes[0]]
        (w, h), _ = cv2.getTextSize(text, FONT, scale, STROKE)
        height, width = pixels.shape[:2]
        x0, y0, x1, y1 = asked.box
        over = y0 - APART - h >= EDGE if above else y1 + APART + h > height - EDGE  # where there is room
        x = min(max((x0 + x1 - w) // 2, EDGE), max(EDGE, width - w - EDGE))
        corner = (x, y0 - APART if over else y1 + APART + h)
        out = pixels.copy()
        cv2.putText(out, text, corner, FONT, scale, (0, 0, 0), STROKE + 2 * EDGE, cv2.LINE_AA)
        cv2.putText(out, text, corner, FONT, scale, (255, 255, 255), STROKE, cv2.LINE_AA)
        return out

    return caption


EFFECTS: dict[Name, Callable[[np.random.Generator, float], Effect]] = {
    "lighting": lighting,
    "motion": motion,
    "noise": noise,
    "overlay": overlay,
}
