import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from samples import SHA
from strategies import groups, trajectories

from pixelis.memory.trajectory import Group, Trajectory, Turn
from pixelis.tools.call import Failure, ToolCall, ToolResult
from pixelis.tools.frame import View

CALL = ToolCall("ZOOM", {"on": "img0", "box": [0, 0, 500, 500]})


def trajectory(*turns: Turn, **given) -> Trajectory:
    return Trajectory("t", "task", "Which letter?", (SHA,), turns, **given)


def test_tokens_mask_and_logprobs_of_a_known_trajectory():
    t = trajectory(Turn((1, 2), (3,), (-0.5,)), Turn((4,), (5, 6), (-1.0, -2.0), version=(1, 7)))
    assert t.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert t.mask.tolist() == [False, False, True, False, True, True]
    assert t.logprobs.tolist() == [0, 0, -0.5, 0, -1.0, -2.0]
    assert (t.tokens.dtype, t.mask.dtype, t.logprobs.dtype) == (np.int32, np.bool_, np.float32)
    assert t.versions == ((0, 0), (1, 7)) and t.oldest_version == (0, 0)


@settings(max_examples=30)
@given(trajectories())
def test_only_sampled_tokens_can_train(t):
    assert len(t) == len(t.tokens) == len(t.mask) == len(t.logprobs)
    assert t.tokens[t.mask].tolist() == [i for turn in t.turns for i in turn.sampled]
    assert t.tokens[~t.mask].tolist() == [i for turn in t.turns for i in turn.observed]
    assert not t.logprobs[~t.mask].any()


def test_the_mask_cannot_be_given_or_changed():
    t = trajectory(Turn((1, 2), (3,), (-0.5,)))
    assert "mask" not in {f.name for f in dataclasses.fields(Trajectory)}
    with pytest.raises((AttributeError, TypeError)):  # CPython 3.11 raises the second for a class with slots
        t.mask = np.ones(3, bool)
    t.mask[:] = True  # a copy: the trajectory stays what it is
    assert t.mask.tolist() == [False, False, True]


@settings(max_examples=30)
@given(groups())
def test_json_and_pickle_round_trip(group):
    assert Group.from_dict(json.loads(json.dumps(group.to_dict()))) == group
    assert pickle.loads(pickle.dumps(group)) == group  # how Ray carries it


def test_counts_tell_the_policys_faults_from_the_tools():
    def turn(result=None, error=None):
        return Turn((1,), (2,), (-1.0,), call=CALL if result else None, result=result, error=error)

    t = trajectory(
        turn(ToolResult(True, "ZOOM", "img1")),
        turn(ToolResult(False, "OCR", failure=Failure("tool", "empty"))),
        turn(ToolResult(False, "ZOOM", failure=Failure("infra", "timeout"))),
        turn(ToolResult(False, "ZOOM", failure=Failure("policy", "dangling"))),
        turn(error="bad_json"),
        turn(),
    )
    assert (t.n_calls, t.n_valid, t.n_invalid, t.chain_length) == (4, 1, 2, 5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Turn((), (1, 2), (-1.0,)), "2 sampled tokens but 1 log-probs"),
        (lambda: Turn((), (1,), (float("nan"),)), "not finite"),
        (lambda: Turn((), (1,), (-1.0,), result=ToolResult(True, "ZOOM")), "without the call"),
        (lambda: trajectory(Turn((1,), (), (), views=(View("other", (0, 0, 1, 1)),))), "looks at other"),
        (lambda: trajectory(status="done"), "status 'done'"),
        (lambda: trajectory(seed=-1), "64 bits"),
        (lambda: Group("task", ()), "no trajectory"),
        (lambda: Group("elsewhere", (trajectory(),)), "of task task in a group of task elsewhere"),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_half_a_surrogate_pair_in_an_answer_stays_encodable():
    assert trajectory(answer="a\ud800").answer == "a?"
