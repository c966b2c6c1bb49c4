"""Tools in this process: asks run one after another, together where a model takes several."""

import time
from collections.abc import Mapping, Sequence

from pixelis.tools.call import Failure, ToolFailure
from pixelis.tools.check import check
from pixelis.tools.media import MediaError, MediaStore
from pixelis.tools.tool import Answer, Ask, Outcome, Tool

BATCH = 16
"""Most asks that a model is given at once."""


class Local:
    """A backend without other processes.

    Example:
        >>> Local(classical()).ids["ZOOM"]                      # doctest: +SKIP
        'zoom-crop@1'
    """

    def __init__(self, tools: Mapping[str, Tool] | None = None) -> None:
        self.tools = dict(classical() if tools is None else tools)

    @property
    def ids(self) -> dict[str, str]:
        """The tools' ids by op."""
        return {op: tool.id for op, tool in self.tools.items()}

    def run(self, store: MediaStore, asks: Sequence[Ask], seconds: float) -> list[Answer]:
        """Answers in the order of the asks, each within `seconds` of its start."""
        answers: dict[int, Answer] = {}
        for op in dict.fromkeys(ask.op for ask in asks):
            places = [i for i, ask in enumerate(asks) if ask.op == op]
            for start in range(0, len(places), BATCH):
                some = places[start : start + BATCH]
                found = work(self.tools[op], store, [(asks[i], None) for i in some], seconds)
                answers |= dict(zip(some, found, strict=True))
        return [answers[i] for i in range(len(asks))]


def work(tool: Tool, store: MediaStore, asked: Sequence[tuple[Ask, float | None]], seconds: float) -> list[Answer]:
    """Put asks to one tool, each with its monotonic deadline (None: `seconds` from its start)."""
    if not hasattr(tool, "batch"):
        return [_one(tool, store, ask, time.monotonic() + seconds if until is None else until) for ask, until in asked]
    start = time.monotonic()
    until = max(start + seconds if one is None else one for _, one in asked)
    found = _together(tool, store, [ask for ask, _ in asked], until)
    ms = _ms(start) / len(asked)
    return [Answer(one, ms) for one in found]


def _one(tool: Tool, store: MediaStore, ask: Ask, until: float) -> Answer:
    start = time.monotonic()
    try:
        found: Outcome | Failure = check(store, ask, tool.run(ask.workspace(store), ask.args, until))
        if time.monotonic() > until:
            raise ToolFailure("infra", "timeout", f"{ask.op} was done after its deadline")
    except (ToolFailure, MediaError, MemoryError) as error:
        found = failure(error)
    return Answer(found, _ms(start))


def _together(tool, store: MediaStore, asks: Sequence[Ask], until: float) -> list[Outcome | Failure]:  # type: ignore[no-untyped-def]
    """In one batch; in two halves when there is no memory for it."""
    try:
        found = tool.batch([(ask.workspace(store), ask.args) for ask in asks], until)
        if len(found) != len(asks):
            raise ToolFailure("infra", "bad_result", f"{len(found)} answers to {len(asks)} asks")
    except (ToolFailure, MediaError, MemoryError) as error:
        failed = failure(error)
        if failed.code == "out_of_memory" and len(asks) > 1:
            half = len(asks) // 2
            return [*_together(tool, store, asks[:half], until), *_together(tool, store, asks[half:], until)]
        return [failed] * len(asks)
    return [_checked(store, ask, one) for ask, one in zip(asks, found, strict=True)]


def _checked(store: MediaStore, ask: Ask, found: Outcome | ToolFailure) -> Outcome | Failure:
    try:
        return failure(found) if isinstance(found, ToolFailure) else check(store, ask, found)
    except ToolFailure as error:
        return failure(error)


def failure(error: ToolFailure | MediaError | MemoryError) -> Failure:
    """What an answer says of an error."""
    if isinstance(error, ToolFailure):
        return Failure(error.cls, error.code, error.message)
    if isinstance(error, MemoryError):
        return Failure("infra", "out_of_memory", str(error))
    return Failure("infra", "bad_media", str(error))


def classical() -> dict[str, Tool]:
    """The tools that work on any machine without a download: OpenCV, RapidOCR, PyAV.

    Keeps OpenCV to one thread in this process: many rollouts share a machine, and results must not depend on its cores.
    """
    import cv2

    from pixelis.tools.ocr import Ocr
    from pixelis.tools.prop import Prop
    from pixelis.tools.seg import Seg
    from pixelis.tools.temp import Temp
    from pixelis.tools.trk import Trk
    from pixelis.tools.zoom import Zoom

    cv2.setNumThreads(1)
    return {"SEG": Seg(), "ZOOM": Zoom(), "TRK": Trk(), "OCR": Ocr(), "TEMP": Temp(), "PROP": Prop()}


def _ms(start: float) -> float:
    return round((time.monotonic() - start) * 1000, 3)
