"""Demonstrations: real chains through the real tools, long enough, and honest about what was read."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from pixelis.actors.scene import Scene, show
from pixelis.actors.teacher import LENGTHS, Step, Teacher, verify
from pixelis.actors.world import FAMILIES, GRID, make_scene
from pixelis.tools.call import ToolResult
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox

EACH = pytest.mark.parametrize("family", list(FAMILIES))
SCENES = 30  # a family


def recite(scene: Scene, seed: int) -> tuple[list[Step], list[ToolResult]]:
    store = MediaStore(None)
    toolbox, workspace = Toolbox(store), Workspace(store, store.put(scene.media))
    teacher = Teacher(scene, np.random.default_rng(seed))
    steps: list[Step] = []
    results: list[ToolResult] = []
    while not steps or steps[-1].call:
        steps.append(teacher.next(workspace, results))
        if steps[-1].call:
            results.append(toolbox.run(workspace, steps[-1].call))
    return steps, results


@cache
def recited(family: str) -> list[tuple[Scene, list[Step], list[ToolResult]]]:
    scenes = [make_scene(family, "demo", index) for index in range(SCENES)]
    return [(scene, *recite(scene, index)) for index, scene in enumerate(scenes)]


@EACH
def test_calls_work_and_the_last_reading_is_answered(family: str) -> None:
    verified = 0
    for scene, steps, results in recited(family):
        assert all(result.ok for result in results), [result.failure for result in results]
        assert steps[-1].answer == FAMILIES[family].answers(scene, results)[-1]
        verified += verify(scene, results)
    assert verified >= SCENES - 1


def test_chains_are_five_to_seven_calls_long_on_average() -> None:
    lengths = [len(results) for family in FAMILIES for _, _, results in recited(family)]
    assert min(lengths) >= 2 and max(lengths) <= 8
    assert 5 <= np.mean(lengths) <= 7
    assert 5 <= sum(k * p for k, p in LENGTHS.items()) <= 7 and LENGTHS[2] <= 0.1


@EACH
def test_chains_differ_and_use_what_the_family_needs(family: str) -> None:
    chains = {tuple(step.call.name for step in steps if step.call) for _, steps, _ in recited(family)}
    assert len(chains) > SCENES // 2
    ops = {"ZOOM", "SEG", "PROP"} | {"code": {"OCR"}, "clip": {"OCR", "TEMP"}, "tally": set()}[family]
    assert {op for chain in chains for op in chain} == ops


@EACH
def test_only_the_first_step_thinks_and_says_what_it_finds(family: str) -> None:
    """Where the plates of the asked colours are; or the lamp's colours up to the asked one."""
    for scene, steps, _ in recited(family):
        first, last = scene.asked.split()[0], scene.asked.split()[-1]
        found = last if family == "clip" else show(scene.grid_box(scene.find("plate", last).box))
        assert steps[0].thought.startswith(f"Look for {first}.") and steps[0].thought.endswith(f"{found}.")
        assert not any(step.thought for step in steps[1:])


@EACH
def test_numbers_are_grid_values_and_handles_come_first(family: str) -> None:
    for _, steps, _ in recited(family):
        for call in (step.call for step in steps if step.call):
            assert next(iter(call.arguments)) in ("on", "of")
            for key in ("box", "point", "window"):
                assert set(call.arguments.get(key, [])) <= set(GRID)


def test_the_same_draw_recites_the_same_chain() -> None:
    scene = make_scene("clip", "demo", 3)
    assert recite(scene, 5)[0] == recite(scene, 5)[0]


@EACH
def test_a_misread_or_failed_demonstration_is_no_evidence(family: str) -> None:
    scene, _, results = recited(family)[0]
    assert verify(scene, results)
    assert not verify(replace(scene, answer="???"), results)
    assert not verify(scene, [*results, ToolResult(ok=False, op="SEG")])
    assert not verify(scene, [])


def test_the_control_without_tools_answers_at_once() -> None:
    scene = make_scene("code", "demo", 0)
    store = MediaStore(None)
    workspace = Workspace(store, store.put(scene.media))
    teacher = Teacher(scene, np.random.default_rng(0), style="no_tools")
    assert teacher.next(workspace, []) == Step("", None, scene.answer)
