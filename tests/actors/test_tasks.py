"""Whose turn an index is: every scene of a family once, in order, whatever the turns."""

import numpy as np
import pytest

from pixelis.actors.tasks import TaskSource, turn, turns
from pixelis.tools.media import MediaStore

ROUNDS = [("code",), ("code", "clip"), ("code", "code", "clip"), ("clip", "code", "clip", "code", "code")]


@pytest.mark.parametrize("families", ROUNDS)
def test_each_scene_of_a_family_is_asked_once_and_in_order(families: tuple[str, ...]) -> None:
    asked = [turn(families, index) for index in range(12 * len(families))]
    for family in set(families):
        numbers = [number for name, number in asked if name == family]
        assert numbers == list(range(12 * families.count(family)))


@pytest.mark.parametrize("families", ROUNDS)
def test_a_family_without_scenes_left_is_passed_over(families: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    scenes = {name: int(rng.integers(1, 30)) for name in set(families)}
    asked = turns(families, scenes)
    assert sorted(asked) == sorted((name, number) for name, n in scenes.items() for number in range(n))


def test_the_source_renders_whose_turn_it_is() -> None:
    source = TaskSource(("code", "clip"), "demo", MediaStore(None), {"code": 1, "clip": 3})
    assert [source.scene(i).family for i in range(4)] == ["code", "clip", "clip", "clip"]
    assert len({source.scene(i).source for i in range(4)}) == 4


def test_without_an_end_the_turns_go_on() -> None:
    source = TaskSource(("code", "code", "clip"), "rft", MediaStore(None))
    assert [source.scene(i).family for i in range(6)] == ["code", "code", "clip"] * 2
    assert len({source.scene(i).source for i in range(6)}) == 6
