"""`pixelis replay`: every call of a stored trajectory run again, and compared with what was recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelis.memory.codec import CodecError, decode
from pixelis.memory.log import Log
from pixelis.memory.replay import folders
from pixelis.memory.trajectory import Group, Trajectory, Turn
from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.frame import View
from pixelis.tools.handle import Handle, Workspace
from pixelis.tools.media import MediaError, MediaStore
from pixelis.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from pixelis.actors.render import Parsed

Reader = Callable[[Sequence[int]], "Parsed"]
"""What sampled tokens mean: `actors.render.Renderer.parse`."""
DEADLINE = 120.0
"""Seconds a call: the machine may be slower than the one that recorded."""


@dataclass(frozen=True, slots=True)
class Check:
    """One call, run again.

    Example: Check(0, call, stored, stored).ok
    """

    turn: int
    call: ToolCall
    stored: ToolResult
    found: ToolResult
    made: tuple[Handle, ...] = ()
    """The handles that the call made now."""
    differences: tuple[str, ...] = ()
    """What is not as recorded, one line each."""

    @property
    def ok(self) -> bool:
        """Whether everything is as recorded."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class Verified:
    """One stored trajectory and the checks of its calls."""

    trajectory: Trajectory
    checks: tuple[Check, ...]
    spelled: bool
    """Whether the stored calls were compared with what the sampled tokens spell."""

    @property
    def ok(self) -> bool:
        """Whether every call is as recorded."""
        return all(check.ok for check in self.checks)


def verify(
    trajectory: Trajectory, store: MediaStore, reader: Reader | None = None, toolbox: Toolbox | None = None
) -> list[Check]:
    """Run the calls of a trajectory in a fresh workspace; one Check for each call that was run when it was recorded.

    Results must have equal digests, the pixels shown next must be those recorded, and, with a `reader`, the stored call
    must be the one that the sampled tokens spell: an argument can change without changing the result. What ended by
    infrastructure cannot be repeated and is not compared. Raises MediaError when the source medium is not in the store.
    """
    toolbox = toolbox or Toolbox(store, deadline=DEADLINE, memo_count=0)
    workspace = Workspace(store, trajectory.media[0])
    after: list[Turn | None] = [*trajectory.turns[1:], None]
    checks: list[Check] = []
    for number, (turn, following) in enumerate(zip(trajectory.turns, after, strict=True)):
        if turn.call is None or turn.result is None:
            continue
        before = set(workspace.handles)
        found = toolbox.run(workspace, turn.call)
        made = tuple(handle for name, handle in workspace.handles.items() if name not in before)
        differences: list[str] = []
        if not (turn.result.failure and turn.result.failure.cls == "infra"):
            differences += result_differences(turn.result, found)
            differences += _shown_differences(found, made, following)
        differences += _call_differences(turn, reader)
        checks.append(Check(number, turn.call, turn.result, found, made, tuple(differences)))
    return checks


def result_differences(stored: ToolResult, found: ToolResult) -> list[str]:
    """What two results disagree in, one line each; empty exactly when their digests are equal."""
    if stored.digest() == found.digest():
        return []
    old, new = _plain(stored), _plain(found)
    return [f"{key}: {_short(old[key])} -> {_short(new[key])}" for key in old if old[key] != new[key]]


def verify_file(path: Path, id: str | None = None, media: Path | None = None) -> Iterator[Verified]:
    """Verify the trajectories of a run, of its replay folder, of a .arrow file of groups or of a JSON file.

    `id` picks one of them; `media` is the folder of source media, found beside the file unless given. Raises CodecError
    when `path` holds no trajectories or none of that id, MediaError when their media are nowhere.
    """
    run, toolbox = Run(path, media), None
    reader = run.reader()
    seen = False
    for trajectory in read(path):
        if id is not None and trajectory.id != id:
            continue
        seen = True
        store = run.store(trajectory)
        if toolbox is None or toolbox.store is not store:
            toolbox = Toolbox(store, deadline=DEADLINE, memo_count=0)
        yield Verified(trajectory, tuple(verify(trajectory, store, reader, toolbox)), reader is not None)
    if not seen:
        raise CodecError(f"{path}: " + ("holds no trajectory" if id is None else f"no trajectory has the id {id}"))


def read(path: Path) -> Iterator[Trajectory]:
    """The stored trajectories of a run (its held-out ones), a replay folder, a .arrow file or a JSON file."""
    if path.is_dir() and (path / "log").is_dir():
        for group in read_groups(path):
            yield from group.trajectories
    elif path.is_dir():
        files = sorted(path.glob("heldout-*.arrow"))
        if not files:
            raise CodecError(f"{path}: neither a run with held-out trajectories nor a replay folder")
        for file in files:
            yield from read(file)
    elif not path.is_file():
        raise CodecError(f"{path}: no such file")
    elif path.suffix == ".json":
        yield from _of_json(path)
    else:
        try:
            groups = decode(path.read_bytes())
        except CodecError as e:
            raise CodecError(f"{path}: {e}") from e
        for group in groups:
            yield from group.trajectories


class Run:
    """Where what belongs to a stored trajectory lies: media and policy, looked for upwards from its file."""

    def __init__(self, path: Path, media: Path | None = None) -> None:
        self.path = path.resolve()
        around = [self.path, *self.path.parents][:4]
        self._media = [media.resolve()] if media else [p / "media" for p in around if (p / "media").is_dir()]
        self._roots = [folder.parent for folder in self._media]
        self._stores = [MediaStore(folder) for folder in self._media]

    def store(self, trajectory: Trajectory) -> MediaStore:
        """The store that holds its source. MediaError when none does."""
        for store in self._stores:
            if trajectory.media[0] in store:
                return store
        where = ", ".join(map(str, self._media)) or f"no media folder near {self.path}"
        medium = trajectory.media[0][:12]
        raise MediaError(f"{trajectory.id}: medium {medium} is not here ({where}); name a folder with --media")

    def reader(self) -> Reader | None:
        """What reads the policy's tokens, None when there is no policy folder in the run."""
        from pixelis.cluster.voice import voice_of

        phase = self.path.stem.removeprefix("heldout-") if self.path.suffix == ".arrow" else self.path.name
        for root in self._roots:
            voice = voice_of(root, phase)
            if voice is not None:
                return voice.renderer().parse
        return None


def command(path: Path, id: str | None = None, media: Path | None = None) -> None:
    """What `pixelis replay` does: prints step by step, and exits with 1 when anything differs."""
    import typer
    from rich.console import Console

    console = Console()
    count = calls = different = 0
    spelled = True
    alone = id is not None or path.suffix == ".json"
    with console.status("running calls again") as status:
        for one in verify_file(path, id, media):
            count, calls, different = count + 1, calls + len(one.checks), different + (not one.ok)
            spelled = one.spelled
            status.update(f"running calls again: {count} trajectories, {calls} calls")
            if alone or not one.ok:
                console.print(table(one))
    if not spelled:
        console.print("no policy folder near it: calls were not compared with the sampled tokens", style="yellow")
    told = "all as recorded" if not different else f"{different} DIFFERENT"
    console.print(f"{count} trajectories, {calls} calls: {told}", highlight=False)
    if different:
        raise typer.Exit(1)


def table(verified: Verified) -> Any:
    """A rich table of the steps of one trajectory."""
    from rich.table import Table
    from rich.text import Text

    trajectory = verified.trajectory
    out = Table(title=Text(f"{trajectory.id}: {trajectory.question}"), title_justify="left")
    for name, ratio in (("turn", None), ("call", 5), ("result", 5), ("again", 3)):
        out.add_column(name, overflow="fold", ratio=ratio)
    for check in verified.checks:
        verdict = Text("ok", "green") if check.ok else Text("DIFFERENT\n" + "\n".join(check.differences), "red")
        out.add_row(str(check.turn), Text(check.call.to_json()), Text(check.stored.observation()), verdict)
    return out


def _shown_differences(found: ToolResult, made: Sequence[Handle], following: Turn | None) -> list[str]:
    if following is None:
        return []
    views = tuple(handle.view for handle in made if handle.name in found.shown)
    if views == following.views:
        return []
    return [f"pixels shown next: {_views(following.views)} -> {_views(views)}"]


def _call_differences(turn: Turn, reader: Reader | None) -> list[str]:
    if reader is None or turn.call is None:
        return []
    said = reader(turn.sampled).call
    if said == turn.call:
        return []
    return [f"stored call: the sampled tokens say {said.to_json() if said else 'no call'}"]


def read_groups(path: Path) -> Iterator[Group]:
    """All that the shards of a phase still hold, under a folder like runs/demo/replay/rft. LogError for a damaged one."""
    for folder in folders(path):
        log = Log(folder / "log", readonly=True)
        for number in range(len(log)):
            if number not in log.evicted:
                yield from decode(log.read(number))


def _of_json(path: Path) -> Iterator[Trajectory]:
    try:
        raw = json.loads(path.read_text())
        if "trajectories" in raw:
            yield from Group.from_dict(raw).trajectories
        else:
            yield Trajectory.from_dict(raw)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise CodecError(f"{path}: not a trajectory: {type(e).__name__}: {e}") from e


def _plain(result: ToolResult) -> dict[str, Any]:
    """What the digest covers, as JSON gives it back."""
    value = json.loads(json.dumps(result.to_dict()))
    del value["ms"]
    value["failure"] = value["failure"] and value["failure"][:2]
    return value


def _views(views: Sequence[View]) -> str:
    return _short([[list(v.rect), v.frame] for v in views])


def _short(value: object, most: int = 160) -> str:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text if len(text) <= most else text[: most - 1] + "…"
