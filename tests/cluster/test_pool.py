"""What the learner draws: each group once in order, or by mixture; the same whoever stored first, and after a resume."""

import pytest

from pixelis.cluster.config import ConfigError, ReplaySettings, Stage
from pixelis.cluster.pool import Held, Pool, by_age, stage_at
from pixelis.memory.trajectory import Group, Trajectory, Turn


def group(name: str, family: str = "code") -> Group:
    return Group(name, (Trajectory(name, name, "?", (), (), "a", family=family),))


GROUPS = [group(f"t{i}", "code.caption" if i % 2 else "code") for i in range(20)]
EPOCHS = ReplaySettings("epochs", mixture=(Stage(3, {"code.caption": 4}), Stage(batch={"code": 3, "code.caption": 1})))


def pool(settings: ReplaySettings, *records: list[Group]) -> Pool:
    some = Pool(settings, 0)
    for number, groups in enumerate(records):
        some.add({number: groups})
    return some


def drawn(some: Pool, step: int) -> list[Group]:
    return [held.group for held in some.draw(step)]


def test_once_gives_every_group_exactly_once() -> None:
    some = pool(ReplaySettings("once"), GROUPS[:5])
    first = drawn(some, 0)
    some.add({7: GROUPS[5:]})
    assert {g.task_id for g in first} == {f"t{i}" for i in range(5)}
    assert len(drawn(some, 1)) == 15
    assert drawn(some, 2) == []


def test_a_group_knows_where_each_of_its_trajectories_stands() -> None:
    two = Group("t0", (*GROUPS[0].trajectories, Trajectory("other", "t0", "?", (), (), "b", family="code")))
    some = pool(ReplaySettings("once"), [GROUPS[1]], [GROUPS[3], two])
    assert {held.group.task_id: held.places for held in some.draw(0)} == {
        "t0": ((1, 1), (1, 2)), "t1": ((0, 0),), "t3": ((1, 0),),
    }  # fmt: skip


def test_a_mixture_gives_its_shares() -> None:
    some = pool(EPOCHS, GROUPS)
    families = [[g.trajectories[0].family for g in drawn(some, step)] for step in range(6)]
    assert all(f == ["code.caption"] * 4 for f in families[:3])
    assert all(f.count("code.caption") == 1 for f in families[3:])


def test_draws_do_not_depend_on_who_stored_first_nor_on_how_often_was_added() -> None:
    one, other = pool(EPOCHS, GROUPS), pool(EPOCHS, GROUPS[:8:-1], GROUPS[4:9], GROUPS[:4])
    assert [drawn(one, step) for step in range(8)] == [drawn(other, step) for step in range(8)]


def test_a_kind_that_is_missing_is_named() -> None:
    some = pool(EPOCHS, [g for g in GROUPS if "caption" not in g.trajectories[0].family])
    with pytest.raises(ConfigError, match=r"no code\.caption in replay, which has code; it wants 4"):
        some.draw(0)


def test_the_last_stage_goes_on() -> None:
    last = Stage(4, {"code": 2})
    assert stage_at((Stage(2, {"clip": 1}), last), 9) == last


def test_groups_that_older_weights_sampled_are_told_apart() -> None:
    def sampled(*steps: int) -> Held:
        turns = tuple(Turn((1,), (2,), (-0.5,), version=(0, step)) for step in steps)
        return Held(Group("t", (Trajectory("t", "t", "?", (), turns, "a"),)), 0, 0)

    old, new = sampled(3, 5), sampled(4, 4)
    assert (old.sampled_at, new.sampled_at) == (3, 4)
    assert by_age([old, new, old], 4) == ([old, old], [new])
    assert by_age([old, new], 3) == ([], [old, new])


def test_any_draws_from_all_families_alike_whoever_stored_first() -> None:
    settings = ReplaySettings("epochs", mixture=(Stage(batch={"any": 200}),))
    some, other = pool(settings, GROUPS[:8], GROUPS[8:]), pool(settings, GROUPS[1:], GROUPS[:1])
    assert drawn(some, 3) == drawn(other, 3)
    assert {group.task_id for group in drawn(some, 3)} == {group.task_id for group in GROUPS}
