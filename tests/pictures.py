"""Small pictures for tests."""

import cv2
import numpy as np


def png(seed: int, side: int) -> bytes:
    """A PNG of coloured rectangles that depends on `seed`."""
    rng = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), 90, np.uint8)
    for _ in range(6):
        x, y = rng.integers(0, side - 40, 2)
        cv2.rectangle(pixels, (int(x), int(y)), (int(x) + 38, int(y) + 30), rng.integers(0, 256, 3).tolist(), -1)
    return cv2.imencode(".png", pixels)[1].tobytes()
