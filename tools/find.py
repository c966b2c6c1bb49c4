"""Finding a lost thing again: where in a frame its first colours gather, at several sizes."""

import numpy as np

Patch = tuple[int, int, int, int]  # x, y, width, height in pixels of a frame

SCALES = (0.7, 0.85, 1.0, 1.2, 1.45)  # sizes looked for, over the first one
AROUND = 1.6  # the surroundings that a place is compared with, over its size
BEST = 6  # places given back
LEAST = 4  # pixels: no place is smaller across
LIGHTS, TINTS = 8, 32  # steps of L and of a and b in CIELAB
RARE = 2e-5  # share of a colour below which seeing it means nothing


class Finder:
    """Remembers which colours a thing has and its first surroundings do not; finds places full of them.

    `frame` is HxWx3 uint8 BGR, `box` where the thing is in it. Two boxFilters a scale: 2 ms a frame of 320x180.
    """

    def __init__(self, frame: np.ndarray, box: Patch):
        x, y, w, h = box
        bins = _bins(frame)
        inner, outer = np.zeros(bins.shape, bool), np.ones(bins.shape, bool)
        inner[y + h // 8 : y + h - h // 8, x + w // 8 : x + w - w // 8] = True  # corners of a box are seldom the thing
        outer[y : y + h, x : x + w] = False
        own, others = _shares(bins[inner]), _shares(bins[outer])
        self._size = w, h
        self._weights = (own / (own + others + RARE)).astype(np.float32)
        self._fit = 0.0, 0.0, 1.0, 1.0
        self._fit = self._fitted(frame, box)

    def _fitted(self, frame: np.ndarray, box: Patch) -> tuple[float, float, float, float]:
        """From a place found to the box meant: shift and growth over the place's size, as they are in the first frame."""
        x, y, w, h = box
        for _, (px, py, pw, ph) in self.places(frame):
            if _near((px, py, pw, ph), box):
                return (x - px) / pw, (y - py) / ph, w / pw, h / ph
        return self._fit

    def places(self, frame: np.ndarray) -> list[tuple[float, Patch]]:
        """At most BEST places, best first, apart by half their size; rated by how much more of its colours they have than
        their surroundings, -1..1."""
        import cv2

        weights = self._weights[_bins(frame)]
        rows, columns = weights.shape
        found: list[tuple[float, Patch]] = []
        for scale in SCALES:
            w, h = (max(3, int(side * scale) | 1) for side in self._size)
            if w >= columns or h >= rows:
                continue
            wide, high = int(w * AROUND) | 1, int(h * AROUND) | 1
            inside = cv2.boxFilter(weights, -1, (w, h), normalize=False, borderType=cv2.BORDER_REPLICATE)
            beside = cv2.boxFilter(weights, -1, (wide, high), normalize=False, borderType=cv2.BORDER_REPLICATE) - inside
            excess = inside / (w * h) - beside / (wide * high - w * h)
            for _ in range(BEST):
                row, column = (int(i) for i in np.unravel_index(int(excess.argmax()), excess.shape))
                if excess[row, column] <= 0:
                    break
                found.append((float(excess[row, column]), (column - w // 2, row - h // 2, w, h)))
                excess[max(0, row - h // 2) : row + h // 2 + 1, max(0, column - w // 2) : column + w // 2 + 1] = -1
        kept: list[tuple[float, Patch]] = []
        for value, place in sorted(found, reverse=True):
            if len(kept) < BEST and not any(_near(place, other) for _, other in kept):
                kept.append((value, place))
        left, up, wider, higher = self._fit
        return [
            (value, (round(x + left * w), round(y + up * h), max(LEAST, round(w * wider)), max(LEAST, round(h * higher))))
            for value, (x, y, w, h) in kept
        ]


def _bins(frame: np.ndarray) -> np.ndarray:
    """The colour step of every pixel: HxW int32."""
    import cv2

    lab = cv2.cvtColor(frame, cv2.COLOR_BGR2Lab).astype(np.int32)
    tint = 256 // TINTS
    return (lab[..., 0] * LIGHTS // 256 * TINTS + lab[..., 1] // tint) * TINTS + lab[..., 2] // tint


def _shares(bins: np.ndarray) -> np.ndarray:
    """Share of each colour step, spread a little over the neighbouring tints."""
    import cv2

    counts = np.bincount(bins, minlength=LIGHTS * TINTS * TINTS).astype(np.float32).reshape(LIGHTS, TINTS, TINTS)
    spread = np.stack([cv2.GaussianBlur(layer, (5, 5), 1.0) for layer in counts])
    return (spread / max(1.0, float(spread.sum()))).ravel()


def _near(a: Patch, b: Patch) -> bool:
    """Whether the middles of two places lie within half of the smaller one."""
    return abs(2 * a[0] + a[2] - 2 * b[0] - b[2]) < min(a[2], b[2]) and abs(2 * a[1] + a[3] - 2 * b[1] - b[3]) < min(a[3], b[3])
