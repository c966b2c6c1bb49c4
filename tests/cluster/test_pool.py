"""What the learner draws: each group once in order, or by mixture; the same whoever stored first, and after a resume."""

import pytest

from pixelis.cluster.config import ReplaySettings, Stage
from pixelis.cluster.pool import Pool, stage_at
from pixelis.memory.trajectory import Group, Trajectory


def group(name: str, family: str = "code") -> Group:
    return Group(name, (Trajectory(name, name, "?", (), (), "a", family=family),))


GROUPS = [group(f"t{i}", "code.caption" if i % 2 else "code") for i in range(20)]
EPOCHS = ReplaySettings("epochs", mixture=(Stage(3, {"code.caption": 4}), Stage(batch={"code": 3, "code.caption": 1})))


def pool(settings: ReplaySettings, groups: list[Group]) -> Pool:
    return Pool(settings, 0, lambda count, cursor: groups[cursor : cursor + count])


def test_once_gives_every_group_exactly_once() -> None:
    some = pool(ReplaySettings("once"), GROUPS)
    some.grow(5)
    first = some.draw(0)
    some.grow(20)
    assert {g.task_id for g in first} == {f"t{i}" for i in range(5)}
    assert len(some.draw(1)) == 15
    assert some.draw(2) == []


def test_a_mixture_gives_its_shares() -> None:
    some = pool(EPOCHS, GROUPS)
    some.grow(20)
    families = [[g.trajectories[0].family for g in some.draw(step)] for step in range(6)]
    assert all(f == ["code.caption"] * 4 for f in families[:3])
    assert all(f.count("code.caption") == 1 for f in families[3:])


def test_draws_do_not_depend_on_who_stored_first_nor_on_how_often_was_read() -> None:
    one, other = pool(EPOCHS, GROUPS), pool(EPOCHS, GROUPS[::-1])
    one.grow(20)
    for stored in (3, 11, 20):
        other.grow(stored)
    assert [one.draw(step) for step in range(8)] == [other.draw(step) for step in range(8)]


def test_a_kind_that_is_missing_is_named() -> None:
    some = pool(EPOCHS, [g for g in GROUPS if "caption" not in g.trajectories[0].family])
    some.grow(10)
    with pytest.raises(ValueError, match=r"no code\.caption in the replay shard, the mixture wants 4; it has code"):
        some.draw(0)


def test_the_last_stage_goes_on() -> None:
    last = Stage(4, {"code": 2})
    assert stage_at((Stage(2, {"clip": 1}), last), 9) == last
