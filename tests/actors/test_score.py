"""What a rollout earns, and what an evaluation tells of chains."""

import pytest

from pixelis.actors.score import Outcome, RewardSettings, by_family, costs, figures, reward
from pixelis.memory.task import GoldTask, Task
from pixelis.memory.trajectory import Trajectory, Turn
from pixelis.tools.call import Failure, ToolCall, ToolResult

GOLD = GoldTask(Task("t", "?", ("m",), family="code"), "K7P")


def played(*calls: tuple[str, dict[str, object], bool], answer: str = "K7P", status: str = "finished") -> Trajectory:
    bad = Failure("policy", "bad_args")
    turns = [
        Turn((1,), (2,), (0.0,), call=ToolCall(op, given), result=ToolResult(ok, op, failure=None if ok else bad))
        for op, given, ok in calls
    ]
    return Trajectory("a", "t", "?", ("m",), tuple(turns), answer, status)  # type: ignore[arg-type]


LOOK: tuple[str, dict[str, object], bool] = ("OCR", {"on": "img0", "box": [0, 0, 500, 500]}, True)
OTHER: tuple[str, dict[str, object], bool] = ("OCR", {"on": "img0", "box": [500, 500, 900, 900]}, True)


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ([LOOK], {"answer": 1.0, "invalid": 0, "length": 0, "duplicate": 0}),
        ([LOOK, OTHER, LOOK], {"answer": 1.0, "invalid": 0, "length": -0.05, "duplicate": -0.05}),
        ([LOOK, OTHER, ("ZOOM", {}, False), OTHER], {"answer": 1.0, "invalid": -0.1, "length": -0.1, "duplicate": -0.05}),
    ],
)
def test_what_costs_is_what_is_too_long_invalid_or_repeated(
    chain: list[tuple[str, dict[str, object], bool]], expected: dict[str, float]
) -> None:
    assert reward(played(*chain), GOLD, RewardSettings(free=2)) == pytest.approx(expected)


def test_a_wrong_answer_earns_nothing_and_a_failure_of_infrastructure_has_no_reward() -> None:
    assert reward(played(LOOK, answer="K7Q"), GOLD, RewardSettings())["answer"] == 0
    with pytest.raises(ValueError, match="must not be rewarded"):
        reward(played(LOOK, status="infra"), GOLD, RewardSettings())


def test_figures_are_over_episodes_calls_and_pairs_of_calls() -> None:
    some = [
        Outcome("code", True, 2, 2, 2, 1.0, composite=True, hops=(False,), redundant=(False, False)),
        Outcome("code", False, 3, 2, 2, None, composite=False, hops=(True, True), redundant=(False, True, False)),
        Outcome("clip", False, 0, 0, 0, None),
    ]
    found = figures(some)
    assert (found.racpr, found.rapr) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (found.hop_rate, found.redundancy) == (pytest.approx(2 / 3), pytest.approx(1 / 5))
    assert by_family(some)["clip"]["hop_rate"] == 0 and by_family(some)["clip"]["valid"] == 1


def test_what_a_chain_costs_is_all_of_the_reward_that_needs_no_key() -> None:
    bad = Turn((1,), (2,), (-0.5,), error="bad_json")
    trajectory = Trajectory("a", "t", "?", (), (bad,) * 5, None)
    told = costs(trajectory, RewardSettings())
    assert told == {"invalid": pytest.approx(-0.5), "length": pytest.approx(-0.1), "duplicate": 0.0}
    assert reward(trajectory, GOLD, RewardSettings()) == {"answer": 0.0, **told}
