"""A backend's output against the tools' contract: what breaks it never reaches a policy."""

from typing import Any

from pixelis.tools.call import ToolFailure, compact
from pixelis.tools.frame import SCALE, Rect
from pixelis.tools.handle import Mask, Track, Window
from pixelis.tools.media import MediaStore
from pixelis.tools.tool import Ask, Made, Outcome

PAYLOADS: dict[str, type | None] = {
    "image": None, "clip": None, "frame": None, "mask": Mask, "track": Track, "window": Window,
}  # fmt: skip


def check(store: MediaStore, ask: Ask, outcome: Outcome) -> Outcome:
    """The outcome, if it keeps the contract; raises ToolFailure(infra, bad_result) with what is wrong."""
    if not isinstance(outcome, Outcome):
        raise _bad(f"{ask.op} gave a {type(outcome).__name__}")
    try:
        compact(outcome.data)
    except (TypeError, ValueError, RecursionError) as error:
        raise _bad(f"{ask.op}: data that is no JSON: {error}") from error
    for name, boxes in _boxes(outcome.data):
        if not all(_is_box(box) for box in boxes):
            raise _bad(f"{ask.op}: {name} outside 0..{SCALE}")
    for made in outcome.made:
        _check_made(store, ask, made)
    return outcome


def _boxes(data: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    """All that claims to be a box: `box`, the items' boxes, and the boxes of a track behind their times."""
    found = [("box", [data["box"]])] if "box" in data else []
    found += [("items", [item.get("box") for item in data["items"]])] if "items" in data else []
    return [*found, ("boxes", [row[1:] for row in data["boxes"]])] if "boxes" in data else found


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list | tuple)
        and len(box) == 4
        and all(type(v) is int for v in box)
        and 0 <= box[0] < box[2] <= SCALE
        and 0 <= box[1] < box[3] <= SCALE
    )


def _check_made(store: MediaStore, ask: Ask, made: Made) -> None:
    if made.kind not in PAYLOADS or made.view.source not in ask.media:
        raise _bad(f"{ask.op} made a {made.kind} of another medium")
    wanted = PAYLOADS[made.kind]
    if (wanted is None) != (made.payload is None) or (wanted is not None and not isinstance(made.payload, wanted)):
        raise _bad(f"{ask.op} made a {made.kind} of a {type(made.payload).__name__}")
    info = store.info(made.view.source)
    size = (info.width, info.height)
    if not _inside(made.view.rect, size) or not 0 <= (made.view.frame or 0) < info.frames:
        raise _bad(f"{ask.op} made a {made.kind} outside its medium")
    payload = made.payload
    if isinstance(payload, Mask) and not _fits(payload, made):
        raise _bad(f"{ask.op} made a mask of another size than its view")
    if isinstance(payload, Track) and not all(_inside(spot.box, size) for spot in payload.spots):
        raise _bad(f"{ask.op} made a track outside its clip")


def _fits(mask: Mask, made: Made) -> bool:
    lengths = memoryview(mask.runs).cast("I") if len(mask.runs) % 4 == 0 else ()
    return (mask.width, mask.height) == (made.view.width, made.view.height) and sum(lengths) == mask.width * mask.height


def _inside(rect: Rect, size: tuple[int, int]) -> bool:
    return 0 <= rect[0] < rect[2] <= size[0] and 0 <= rect[1] < rect[3] <= size[1]


def _bad(told: str) -> ToolFailure:
    return ToolFailure("infra", "bad_result", told)
