"""`pixelis traces`: demonstrations in a file, played, taken over from other formats, counted, and made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from pixelis.actors.dialogue import Importer, Layout, records
from pixelis.actors.foreign import Unmapped
from pixelis.actors.questions import TaskError
from pixelis.actors.scene import Scene
from pixelis.actors.tasks import TaskSource
from pixelis.actors.teacher import Step, Teacher
from pixelis.actors.traces import Reciter, Trace, TraceFile, TraceLine, observed, play
from pixelis.cluster.errors import UsageError
from pixelis.cluster.progress import Bar
from pixelis.memory.log import replace_file
from pixelis.tools.call import ToolResult
from pixelis.tools.handle import Workspace
from pixelis.tools.inspect import DEADLINE
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox


def check(path: Path) -> bool:
    """Plays every trace; prints a line for each that must not be learned from, and a summary. Whether all may be.

    Raises: TaskError when a line is no trace.
    """
    store = MediaStore()
    file = TraceFile(path, store)
    wrong, played, box = 0, 0, Toolbox(store, deadline=DEADLINE)
    with Bar("traces", len(file), "traces", Console(stderr=True)) as bar:
        for index in range(len(file)):
            found, calls = fault(file, index, box)
            played += calls
            if found:
                wrong += 1
                bar.say(f"pixelis: {found}")
            bar.to(index + 1)
    print(f"{len(file)} traces, {played} calls played, {len(file) - wrong} pass, {wrong} must not be learned from")
    return not wrong


def fault(file: TraceFile, index: int, toolbox: Toolbox) -> tuple[str | None, int]:
    """Why a trace must not be learned from, and how many calls were played; its media are freed afterwards."""
    try:
        trace = file.trace(index)
    except TaskError as error:
        return str(error), 0
    try:
        workspace = Workspace(file.store, trace.gold.task.media[0])
        reciter = Reciter(trace)
        results = play(reciter, workspace, toolbox)[1]
        wrong = reciter.fault(workspace, results)
        return f"{file.where(index)}: {wrong}" if wrong else None, len(results)
    finally:
        _forget(file, index, trace)


def take_over(source: Path, out: Path, layout: str) -> bool:
    """Writes the traces of another format's file; prints a line for each record that is none. Whether all are.

    Raises: UsageError for an unknown layout, when nothing could be taken over, or when the source is no JSON.
    """
    if layout not in get_args(Layout):
        raise UsageError(f"--format {layout}: unknown; known: {', '.join(get_args(Layout))}")
    if out.exists() and out.samefile(source):
        raise UsageError(f"{out}: is the source itself; give another name for what is written")
    importer, lines, left = Importer(layout, source, out), [], 0  # type: ignore[arg-type]  # looked up above
    try:
        found = list(records(source))
    except (ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"{source}: not JSON: {error}") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    with Bar("import", len(found), "records", Console(stderr=True)) as bar:
        for number, (where, record) in enumerate(found, 1):
            try:
                lines.append(importer.line(record))
            except Unmapped as error:
                left += 1
                bar.say(f"pixelis: {source}: {where}: {error}")
            bar.to(number)
    if not lines:
        raise UsageError(f"{source}: none of {len(found)} records could be taken over as {layout}")
    write(out, lines)
    print(f"{out}: {len(lines)} traces, {left} of {len(found)} records left out; play them with: pixelis traces check {out}")
    return not left


def write(path: Path, lines: Sequence[TraceLine]) -> None:
    """A traces file, whole or not at all."""
    dumped = [json.dumps({"version": 1, **line.model_dump(exclude_defaults=True)}, ensure_ascii=False) for line in lines]
    replace_file(path, "".join(f"{line}\n" for line in dumped).encode())


def stats(path: Path) -> None:
    """Prints what is in a file, as a table."""
    lines = TraceFile(path, MediaStore()).lines
    steps = [step for line in lines for step in line.steps]
    calls = [step for step in steps if step.call is not None]
    chains = Counter(sum(step.call is not None for step in line.steps) for line in lines)
    ops = Counter(step.call.name for step in calls if step.call is not None)
    wrong = [step for step in calls if step.erroneous]
    spans = [len(step.thought) + (len(json.dumps(step.call.model_dump())) if step.call else 0) for step in steps]
    shown = sum(size for size, step in zip(spans, steps, strict=True) if step.erroneous)
    table = Table("what", "count", "share", title=str(path), title_justify="left")
    rows: list[tuple[str, int, int]] = [("traces", len(lines), len(lines))]
    for name, kinds in (("family", Counter(one.family for one in lines)), ("answer", Counter(o.answer_type for o in lines))):
        rows += [(f"  {name} {kind}", count, len(lines)) for kind, count in kinds.most_common()]
    rows += [(f"  of {n} calls", chains[n], len(lines)) for n in sorted(chains)]
    rows += [("calls", len(calls), len(calls))]
    rows += [(f"  {op}", count, len(calls)) for op, count in ops.most_common()]
    rows += [
        ("  with a recorded observation", sum(step.observation is not None for step in calls), len(calls)),
        ("  with evidence of their own", sum(bool(step.evidence) for step in calls), len(calls)),
        ("  erroneous", len(wrong), len(calls)),
        ("characters of thoughts and calls", sum(spans), sum(spans)),
        ("  of erroneous steps", shown, sum(spans)),
    ]
    for what, count, of in rows:
        table.add_row(what, f"{count}", f"{count / of:.3f}" if of else "")
    console = Console()
    console.print(table)
    console.print(_lengths(lines, spans))


def _lengths(lines: Sequence[TraceLine], spans: Sequence[int]) -> Table:
    table = Table("length", "median", "90 %", "most")
    chains = [sum(step.call is not None for step in line.steps) for line in lines]
    measured = {
        "calls a trace": chains,
        "characters a question": [len(line.question) for line in lines],
        "characters a step": spans,
        "characters an answer": [len(line.answer) for line in lines],
    }
    for what, sizes in measured.items():
        if sizes:
            table.add_row(what, f"{np.median(sizes):g}", f"{np.percentile(sizes, 90):g}", f"{max(sizes)}")
    return table


def example(folder: Path, n: int) -> Path:
    """Writes demonstrations of PixelWorld's teacher with their media; returns the traces file.

    Raises: UsageError for a folder that holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is there already; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    store = MediaStore()
    source, toolbox = TaskSource(("code", "clip"), "demo", store, {"code": n, "clip": n}), Toolbox(store, deadline=DEADLINE)
    lines: list[TraceLine] = []
    for index in range(n):
        scene = source.scene(index)
        name = f"{scene.id}.{'avi' if scene.family == 'clip' else 'jpg'}"
        (folder / name).write_bytes(scene.media)
        teacher = Teacher(scene, np.random.default_rng([0, index]))
        workspace = Workspace(store, scene.source)
        steps, results = play(teacher, workspace, toolbox)
        if teacher.fault(workspace, results) is None:
            lines.append(_written(scene, name, steps, results))
    write(folder / "traces.jsonl", lines)
    return folder / "traces.jsonl"


def _written(scene: Scene, medium: str, steps: Sequence[Step], results: Sequence[ToolResult]) -> TraceLine:
    """A demonstration as a line, with what the tools said."""
    told: list[dict[str, Any]] = []
    for step, result in zip(steps, results, strict=False):
        assert step.call is not None
        call = {"name": step.call.name, "arguments": json.loads(json.dumps(step.call.arguments))}
        told.append({"thought": step.thought, "call": call, "observation": observed(result)})
    raw = {"version": 1, "id": scene.id, "question": scene.question, "media": [medium], "answer": scene.answer}
    evidence = {"texts": list(scene.evidence.texts)}
    return TraceLine.model_validate({**raw, "family": scene.family, "evidence": evidence, "steps": told})


def _forget(file: TraceFile, index: int, trace: Trace) -> None:
    """Free the media of a trace, unless the next one needs them."""
    following = file.lines[index + 1].media if index + 1 < len(file) else []
    for name, sha in zip(file.lines[index].media, trace.gold.task.media, strict=True):
        if name not in following:
            file.store.forget(sha)
