"""Drawing by priority: in proportion, within strata, the same for the same seed, whatever was changed before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis.memory.sampler import Sampler, SumTree

weight = st.one_of(st.just(0.0), st.floats(1e-6, 1e6))


@given(st.lists(st.tuples(st.integers(0, 5000), weight), min_size=1, max_size=60), st.integers(0, 9))
def test_every_point_of_the_line_falls_on_the_leaf_that_covers_it(changes: list[tuple[int, float]], seed: int) -> None:
    """Beside a running sum over all leaves, the plain way; the tree grows on the way there."""
    tree, plain = SumTree(), np.zeros(8192)
    for leaf, value in changes:
        tree.set(np.array([leaf]), np.array([value]))
        plain[leaf] = value
    assert tree.total == pytest.approx(plain.sum())
    if not tree.total:
        return
    points = np.random.default_rng(seed).random(50) * tree.total
    found, edges = tree.find(points), np.cumsum(plain)
    assert (plain[found] > 0).all()
    slack = 1e-9 * tree.total
    assert (edges[found] >= points - slack).all() and (edges[found] - plain[found] <= points + slack).all()
    assert plain[tree.find(np.array([0.0, np.nextafter(tree.total, 0), tree.total]))].min() > 0


def test_draws_follow_the_priorities_within_each_stratum() -> None:
    sampler = Sampler()
    keys = [(record, group) for record in range(500) for group in range(4)]
    sampler.add(keys, ["code" if group else "clip" for _, group in keys])
    sampler.prioritise([(7, 1), (7, 2), (8, 0)], [1500.0, 0.0, 500.0])
    drawn = sampler.draw({"code": 4000, "clip": 4000}, 1)
    assert all(group for _, group in drawn[:4000]) and not any(group for _, group in drawn[4000:])
    assert 0.46 < drawn.count((7, 1)) / 4000 < 0.54 and (7, 2) not in drawn
    assert 0.46 < drawn.count((8, 0)) / 4000 < 0.54
    assert len(set(drawn)) > 1500 and sampler.weights == {"code": 1500 + 1498, "clip": 500 + 499}


def test_what_was_removed_is_not_drawn_and_its_slot_is_used_again() -> None:
    sampler = Sampler()
    for wave in range(50):
        sampler.add([(wave, k) for k in range(100)], ["a"] * 100)
        if wave:
            sampler.remove([(wave - 1, k) for k in range(100)])
        assert {record for record, _ in sampler.draw({"a": 300}, wave)} == {wave}
    assert len(sampler) == 100 and len(sampler._strata["a"].keys) == 1024


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    def made() -> Sampler:
        sampler = Sampler()
        sampler.add([(i, 0) for i in range(3000)], ["a"] * 3000)
        sampler.prioritise([(i, 0) for i in range(0, 3000, 7)], [5.0] * 429)
        return sampler

    one, other = made(), made()
    assert one.draw({"a": 64}, [3, 5]) == other.draw({"a": 64}, [3, 5]) != other.draw({"a": 64}, [3, 6])


@pytest.mark.parametrize("priorities", [[-1.0], [float("nan")], [float("inf")], [1.0, 2.0]])
def test_what_is_no_priority_is_refused(priorities: list[float]) -> None:
    sampler = Sampler()
    sampler.add([(0, 0)], ["a"])
    with pytest.raises(ValueError, match="1 keys need as many priorities"):
        sampler.prioritise([(0, 0)], priorities)
    assert sampler.draw({"a": 1}, 0) == [(0, 0)]
    with pytest.raises(KeyError):
        sampler.prioritise([(1, 0)], [1.0])
