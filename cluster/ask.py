"""`pixelis ask`: one question about one file, answered in this process, with the whole chain of evidence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pixelis.cluster.part import quiet
from pixelis.cluster.policy import open_policy
from pixelis.memory.task import Task
from pixelis.memory.trajectory import Trajectory
from pixelis.tools import draw
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox


@dataclass(frozen=True, slots=True)
class Answer:
    """An answered question: the trajectory, and the handles its calls made."""

    trajectory: Trajectory
    workspace: Workspace


def answer(checkpoint: str | Path, file: str | Path, question: str) -> Answer:
    """Ask a policy, greedily. CheckpointError, ModelError or MediaError say in one line what is wrong with an input."""
    from pixelis.actors.engine import TransformersEngine
    from pixelis.actors.episode import Episode, Limits
    from pixelis.actors.render import Renderer
    from pixelis.actors.rollout import play

    quiet()
    store = MediaStore()
    source = store.add_file(file)
    store.info(source)  # bad bytes: before the policy is loaded
    model = open_policy(checkpoint)
    renderer = Renderer(model)
    task = Task("ask", question, (source,), "text", "ask")
    episode = Episode(task, "ask", (0, 0, 0), store, renderer, Limits(temperature=0.0))
    play([episode], TransformersEngine(model, store, renderer.stop), Toolbox(store, deadline=60.0))
    return Answer(episode.trajectory(), episode.workspace)


def command(checkpoint: Path, file: Path, question: str, save: Path | None, as_json: bool) -> None:
    """The command's output: each call with its result, then the answer."""
    if save is not None:
        draw.check_target(save)
    found = answer(checkpoint, file, question)
    if save is not None:
        said = [(turn.call, turn.result) for turn in found.trajectory.turns if turn.call and turn.result]
        draw.save(found.workspace, said, save)
    if as_json:
        print(json.dumps(found.trajectory.to_dict(), ensure_ascii=False))
        return
    console = Console(soft_wrap=True, highlight=False)
    for number, turn in enumerate(found.trajectory.turns, 1):
        if turn.call is not None and turn.result is not None:
            console.print(f"[bold]{number}[/] {escape(turn.call.to_json())}")
            console.print(f"  -> {escape(turn.result.observation())}  [dim]{turn.result.tool}  {turn.result.ms:.0f} ms[/]")
        elif turn.error is not None:
            console.print(f"[bold]{number}[/] neither a call nor an answer ({turn.error})")
    answered = found.trajectory.answer
    told = f"[bold green]{escape(answered)}[/]" if answered is not None else f"none ({found.trajectory.status})"
    console.print(f"answer: {told}")
