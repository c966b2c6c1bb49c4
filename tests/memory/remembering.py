"""Episodes to remember, told apart by a number, with keys at random; and what an exact search says of them."""

import hashlib

import numpy as np

from pixelis.memory.look import WHOLE, Look
from pixelis.memory.remembered import Keys, Remembered, Row
from pixelis.memory.select import Query, RecallSettings

TEXT, PIXELS = 6, 10


def sha(number: int) -> str:
    """The hash of the medium that an episode is on."""
    return hashlib.sha256(b"medium %d" % number).hexdigest()


def keys(number: int, vision: str = "v", near: float = 0.0) -> Keys:
    """Keys that depend on a number; `near`: how much of them all numbers have in common."""
    rng = np.random.default_rng(number)
    return Keys(rng.normal(size=TEXT) + near, rng.normal(size=PIXELS) + near, vision, "r")


def row(number: int, vision: str = "v", near: float = 0.0, **given) -> Row:
    """An episode on a medium of its own, and its keys."""
    told = {
        "id": f"episode{number}", "question": f"Which letter is the {number}th?", "kind": "text", "answer": f"answer{number}",
        "media": (sha(number),), "looks": (Look("OCR", (WHOLE,), text=f"read{number}"),), "scores": {"score": 0.5},
        "gate": "accepted", "version": (0, number),
    }  # fmt: skip
    return Remembered(**told | given), keys(number, vision, near)


def query(made: Keys, media: tuple[str, ...] = (), kind: str = "text", question: str = "Which letter?") -> Query:
    return Query(made, question, kind, media)


def similarity(one: Keys, other: Keys, settings: RecallSettings) -> float:
    """The formula of the paper."""
    return float(settings.text * (one.text @ other.text) + settings.pixels * (one.pixels @ other.pixels))
