"""One episode as a person can follow it: what the policy saw, each call with what it acted on and found, the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import cv2
from PIL import Image

from pixelis.actors.world import FAMILIES, SPLITS, make_scene
from pixelis.cluster.html import figure, jpeg, png, tag, text
from pixelis.cluster.verify import Check, verify
from pixelis.cluster.voice import Voice
from pixelis.memory.task import Evidence, GoldTask
from pixelis.memory.trajectory import Trajectory, Turn
from pixelis.tools.draw import overlay
from pixelis.tools.frame import Box, View, edge_time, time_of
from pixelis.tools.handle import Handle
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox

SIDE = 448  # pixels of a drawn picture's longer side, at most
SEEN, ONE_FRAME = 288, 110  # CSS pixels of what the policy saw: one picture, one of several frames
DRAWN, CROP = 236, 140  # CSS pixels of a turn's drawn picture and of what was seen of it


class Drawer:
    """Draws episodes of one run. Without a `voice` thoughts are left out and pictures stand at their full size.

    Example: Drawer(store, open_voice(policy)).episode(trajectory, "e1")
    """

    def __init__(self, store: MediaStore, voice: Voice | None) -> None:
        self.store, self.voice = store, voice
        self._toolbox = Toolbox(store, deadline=120.0)
        self._reader = voice.renderer() if voice else None

    def episode(self, trajectory: Trajectory, anchor: str) -> str:
        """A card with the whole chain. The calls are run again, to draw the masks and tracks they made."""
        reader = self._reader.parse if self._reader else None
        checks = {c.turn: c for c in verify(trajectory, self.store, reader, self._toolbox)}
        gold = gold_of(trajectory)
        handles = self._handles(trajectory, list(checks.values()))
        turns = "".join(
            tag("li", self._turn(number, turn, checks.get(number), handles, trajectory, gold))
            for number, turn in enumerate(trajectory.turns)
        )
        body = self._head(trajectory, gold) + self._seen(trajectory, gold) + tag("ol", turns, "turns")
        return tag("section", body, "card", id=anchor)

    def _handles(self, trajectory: Trajectory, checks: Sequence[Check]) -> dict[str, Handle]:
        info = self.store.info(trajectory.media[0])
        whole = Handle("img0", info.kind, View(trajectory.media[0], (0, 0, info.width, info.height)))
        return {"img0": whole} | {handle.name: handle for check in checks for handle in check.made}

    def _head(self, trajectory: Trajectory, gold: GoldTask | None) -> str:
        right = is_right(trajectory)
        badge = text("span", "right" if right else "wrong", "badge" if right else "badge bad")
        steps = f"{trajectory.chain_length} step{'s' * (trajectory.chain_length != 1)}"
        tags = [trajectory.family, steps, trajectory.status.replace("_", " ")]
        told = " ".join([badge, *(text("span", one, "tag") for one in tags)])
        back = '<a class="back" href="#episodes">all episodes</a>'
        return back + tag("div", told) + text("p", trajectory.question, "question") + _pair(trajectory, gold)

    def _seen(self, trajectory: Trajectory, gold: GoldTask | None) -> str:
        """What stood in the prompt, in the policy's own pixels, beside the picture that the tools see."""
        views = trajectory.turns[0].views if trajectory.turns else ()
        info = self.store.info(trajectory.media[0])
        if info.kind == "clip":
            return self._seen_clip(views, info.frames, gold)
        whole = Handle("img0", "image", View(trajectory.media[0], (0, 0, info.width, info.height)))
        marks = _marks(whole, gold.evidence if gold else None)
        seen = [self._eye(view, "what the policy saw", SEEN) for view in views]
        source = jpeg(overlay(self.store, [whole, *marks]), SIDE)
        caption = f"the picture the tools work on, {info.width} x {info.height}" + (", with the gold evidence" if marks else "")
        return tag("div", "".join(seen) + figure(source, caption, SEEN), "seen")

    def _seen_clip(self, views: Sequence[View], frames: int, gold: GoldTask | None) -> str:
        windows = gold.evidence.windows if gold else ()
        cells: list[str] = []
        for view in views:
            assert view.frame is not None
            time = edge_time(view.frame, frames)
            inside = any(a <= time_of(view.frame, frames) <= b for a, b in windows)
            cells.append(self._eye(view, f"t {time}", ONE_FRAME, "gold" if inside else "", sized=False))
        size = "x".join(map(str, self._size(views[0]))) if views and self.voice else "full size"
        told = f"What the policy saw: {len(views)} of {frames} frames, {size} each; t counts 0 to 1000 through the clip."
        if windows:
            told += " Green frames lie in the gold window."
        return text("p", told, "note") + tag("div", "".join(cells), "frames")

    def _turn(
        self, number: int, turn: Turn, check: Check | None, handles: Mapping[str, Handle], trajectory: Trajectory,
        gold: GoldTask | None,
    ) -> str:  # fmt: skip
        said = self._said(turn)
        if turn.call is None:
            return tag("div", _answered(number, turn, said, trajectory, gold))
        words = text("div", f"{number + 1}. {turn.call.name}", "step") + _thought(said)
        words += text("p", "call", "label") + text("pre", _spread(turn.call.to_json()))
        if turn.result is None:
            return tag("div", words + text("p", "Not run: the episode was over its budget of calls.", "note"))
        failed = turn.result.failure
        words += text("p", "result", "label") + text("pre", _spread(turn.result.observation()), "fail" if failed else "")
        told = f"{failed.cls} failure: {failed.message}" if failed else f"{turn.result.tool}, {turn.result.ms:.0f} ms"
        words += text("p", told, "note")
        if check is not None and not check.ok:
            words += text("p", "Run again just now, this differs: " + "; ".join(check.differences), "note bad")
        return tag("div", words) + tag("div", self._pictures(turn, check, handles), "pictures")

    def _said(self, turn: Turn) -> str:
        """What the policy wrote, as text; empty without its tokenizer."""
        return self._reader.decode(turn.sampled) if self._reader else ""

    def _pictures(self, turn: Turn, check: Check | None, handles: Mapping[str, Handle]) -> str:
        """The picture acted on with arguments and findings drawn, and what the policy or the tool then saw of it."""
        assert turn.call is not None and turn.result is not None
        name = turn.call.arguments.get("of" if turn.call.name == "PROP" else "on")
        on = handles.get(name) if isinstance(name, str) else None
        if on is None:
            return text("p", "No picture: the call names no handle of this episode.", "note")
        made = check.made if check else ()
        shown = [handle for handle in made if handle.name in turn.result.shown]
        asked = [] if turn.call.name == "ZOOM" and made else _asked(turn, on, handles)  # its crop is the box it asked for
        out: list[str] = []
        if turn.call.name != "TEMP" or not shown:
            drawn = overlay(self.store, [on, *asked, *made])
            several = any(handle.kind in ("track", "window") for handle in (on, *made))  # frames side by side
            width, side = (2 * DRAWN, 2 * SIDE) if several else (DRAWN, SIDE)
            out.append(figure(jpeg(_legible(drawn), side), _caption(turn, on, asked, made), width))
        for handle in shown:
            out.append(self._eye(handle.view, f"{handle.name} as the policy saw it", CROP))
        if turn.call.name == "ZOOM" and made:
            out.append(self._full(made[0].view, "the same in full"))
        if turn.call.name == "OCR" and not _whole_clip(on):
            out.append(self._full((asked[0] if asked else on).view, "what OCR read"))
        return "".join(out)

    def _full(self, view: View, caption: str) -> str:
        """A view in its own pixels."""
        return figure(jpeg(_legible(Image.fromarray(self.store.pixels(view))), SIDE), caption, CROP)

    def _eye(self, view: View, caption: str, width: int, cls: str = "", sized: bool = True) -> str:
        """A view at the size at which the policy sees it, enlarged with square pixels."""
        rows, cols = self._size(view)
        pixels = cv2.resize(self.store.pixels(view), (cols, rows), interpolation=cv2.INTER_AREA)
        told = f"{caption}, {cols} x {rows}" if sized else caption
        return figure(png(pixels), told, width, crisp=True, cls=cls)

    def _size(self, view: View) -> tuple[int, int]:
        return self.voice.layout.size(view) if self.voice else (view.height, view.width)


def gold_of(trajectory: Trajectory) -> GoldTask | None:
    """The key of a PixelWorld question, rendered again from its id; None when the media are not those of the episode."""
    family, _, seed = trajectory.task_id.rpartition("-")
    if family not in FAMILIES or not seed.isdigit():
        return None
    index, split = divmod(int(seed), len(SPLITS))
    scene = make_scene(family, SPLITS[split], index)
    return scene.task if scene.source in trajectory.media else None


def is_right(trajectory: Trajectory) -> bool:
    """Whether the run judged the answer to be right."""
    return trajectory.rewards.get("answer", 0.0) > 0


def _marks(whole: Handle, evidence: Evidence | None) -> list[Handle]:
    boxes = evidence.boxes if evidence else ()
    return [Handle("gold", "image", whole.view.crop(box)) for box in boxes]


def _asked(turn: Turn, on: Handle, handles: Mapping[str, Handle]) -> list[Handle]:
    """What the arguments point at, as handles that can be drawn, without names; malformed ones point at nothing."""
    assert turn.call is not None
    if _whole_clip(on):  # a track or frames are drawn instead
        return []
    arguments = turn.call.arguments
    boxes = [_box(arguments.get("box")), _box(_around(arguments.get("point")))]
    out = [Handle("", "image", on.view.crop(box)) for box in boxes if box is not None]
    other = arguments.get("to")
    return out + ([handles[other]] if isinstance(other, str) and other in handles else [])


def _box(value: object) -> Box | None:
    if not (isinstance(value, list) and len(value) == 4 and all(type(n) is int and 0 <= n <= 1000 for n in value)):
        return None
    x0, y0, x1, y1 = value
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _around(point: object, reach: int = 8) -> list[int] | None:
    """A small box about a point."""
    if not (isinstance(point, list) and len(point) == 2 and all(type(n) is int for n in point)):
        return None
    x, y = point
    return [max(0, x - reach), max(0, y - reach), min(1000, x + reach), min(1000, y + reach)]


def _whole_clip(handle: Handle) -> bool:
    return handle.kind in ("clip", "track", "window")


def _legible(image: Image.Image, least: int = 240) -> Image.Image:
    """Small pictures enlarged: a crop of 40 pixels is no use to a person."""
    times = -(-least // max(image.size))
    return image.resize((image.width * times, image.height * times), Image.Resampling.LANCZOS) if times > 1 else image


def _caption(turn: Turn, on: Handle, asked: Sequence[Handle], made: Sequence[Handle]) -> str:
    assert turn.call is not None
    pointed = " and ".join(name for name in ("box", "point") if turn.call.arguments.get(name)) if asked or made else ""
    told = f"{pointed} on {on.name}" if pointed else on.name
    return told + (f"; made {', '.join(handle.name for handle in made)}" if made else "")


def _thought(said: str) -> str:
    thought = re.split(r"<tool_call>|<answer>", said)[0].strip()
    return text("p", thought, "thought") if thought else ""


def _answered(number: int, turn: Turn, said: str, trajectory: Trajectory, gold: GoldTask | None) -> str:
    """The last turn: an answer, or text that was neither a call nor an answer."""
    if turn.error is not None:
        what = text("div", f"{number + 1}. neither a call nor an answer ({turn.error})", "step")
        return what + (text("pre", said, "fail") if said else "")
    return text("div", f"{number + 1}. answer", "step") + _thought(said) + _pair(trajectory, gold)


def _pair(trajectory: Trajectory, gold: GoldTask | None) -> str:
    answered = text("code", "none" if trajectory.answer is None else trajectory.answer)
    key = text("code", gold.answer) if gold else text("span", "not known here", "soft")
    return tag("p", f"answer {answered} &nbsp; gold {key}", "answer")


def _spread(compact: str) -> str:
    """Compact JSON with a space after commas and colons between values, so that lines can break."""
    return json.dumps(json.loads(compact), ensure_ascii=False)
