"""The canary: when it is looked at, and what is a fall."""

import json

import pytest

from pixelis.learners.canary import Canary, CanarySettings

N = 1000


def right(share: float, first: int = 0) -> dict[str, bool]:
    """As many of N right as that, from the `first` question on and round."""
    return {f"q{i}": (i - first) % N < round(share * N) for i in range(N)}


def test_it_is_looked_at_at_the_start_and_every_so_many_updates_once() -> None:
    canary = Canary(CanarySettings(every=250))
    assert canary.due(0) and not canary.due(249)
    canary.look(0, right(0.9))
    assert not canary.due(0) and canary.due(250)
    canary.look(250, right(0.9))
    assert not canary.due(250) and canary.due(500)
    assert not any(Canary(CanarySettings(every=0)).due(n) for n in range(600))


@pytest.mark.parametrize(("success", "falls"), [(0.90, False), (0.95, False), (0.88, False), (0.879, True), (0.1, True)])
def test_more_than_two_points_below_the_start_is_a_fall(success: float, falls: bool) -> None:
    canary = Canary(CanarySettings())
    assert canary.look(0, right(0.90)) is None
    assert (canary.look(250, right(success)) is not None) == falls


@pytest.mark.parametrize(("shift", "falls"), [(0, True), (60, True), (300, False)])
def test_questions_that_change_sides_both_ways_make_a_fall_doubtful(shift: int, falls: bool) -> None:
    """Three points fewer are right, of the same questions or of quite other ones."""
    canary = Canary(CanarySettings())
    canary.look(0, right(0.60))
    changed = sum(right(0.60)[name] != now for name, now in right(0.57, shift).items())
    assert (2 * changed**0.5 < 30) == falls
    assert (canary.look(250, right(0.57, shift)) is not None) == falls


def test_what_it_won_may_be_lost_but_little_by_little_it_must_not_slide() -> None:
    canary = Canary(CanarySettings())
    for number, success in enumerate((0.90, 0.97, 0.89)):
        assert canary.look(number, right(success)) is None
    assert canary.look(3, right(0.875)) == "canary 0.875 after 0.900 at the start"


def test_questions_that_infrastructure_ended_are_not_compared() -> None:
    """Half of them away, then: neither a fall, nor does it hide one."""
    canary = Canary(CanarySettings())
    canary.look(0, right(0.6))
    half = {name: now for name, now in right(0.6).items() if int(name[1:]) % 2}
    assert canary.look(250, half) is None and canary.look(500, {}) is None and canary.look(750, {"other": False}) is None
    assert canary.look(1000, dict.fromkeys(half, False)) == "canary 0.000 after 0.600 at the start"


def test_restored_it_goes_on() -> None:
    canary = Canary(CanarySettings())
    canary.look(0, right(0.9))
    other = Canary(CanarySettings())
    other.restore(json.loads(json.dumps(canary.state())))
    assert not other.due(0) and other.look(250, right(0.8)) == canary.look(250, right(0.8)) is not None
