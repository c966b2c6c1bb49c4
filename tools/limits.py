"""Limits: how large a file, a picture or a clip may be before it is refused, and how long one may be worked on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What a MediaStore takes; the defaults let pass what cameras, phones and scanners make, within 2 GB of memory.

    `bytes` of a file; `pixels` of a picture and `side` of its longer side (OpenCV counts pixels in 16 bits);
    `frame_pixels` of one frame, `frames` and `seconds` of a clip; `patience`: seconds of work on a clip's index or on
    the way to one frame.

    Example:
        >>> MediaLimits().pixels >= 8000 * 6000
        True
    """

    bytes: int = 512 << 20
    pixels: int = 64_000_000
    side: int = 32_767
    frame_pixels: int = 4096 * 4096
    frames: int = 36_000
    seconds: float = 3600.0
    patience: float = 30.0

    def exceeded(self, name: str, found: float, more: str = "") -> str | None:
        """What is wrong when `found` is above the limit called `name`, and the way out; None when it is not."""
        limit = getattr(self, name)
        if found <= limit:
            return None
        way_out = f"make it smaller, or raise the limit (a run's tools.limits.{name})"
        return f"{more or f'{found:g}'}, but at most {limit} {name} are allowed: {way_out}"
