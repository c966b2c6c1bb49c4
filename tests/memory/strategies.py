"""Hypothesis strategies for the values of pixelis.memory."""

import hashlib

from hypothesis import strategies as st

from pixelis.memory.trajectory import LETTERS, Group, Trajectory, Turn
from pixelis.tools.call import Failure, ToolCall, ToolResult
from pixelis.tools.frame import View

token = st.integers(0, 2**31 - 1)
logprob = st.floats(-50, 0, width=32)
text = st.text(max_size=12)
words = st.lists(text, max_size=2).map(tuple)
sha = st.binary(max_size=4).map(lambda data: hashlib.sha256(data).hexdigest())
media = st.lists(sha, min_size=1, max_size=3, unique=True)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=4,
)
json_object = st.dictionaries(text, json_value, max_size=3)


@st.composite
def views(draw, sources):
    x, y = draw(st.integers(0, 9000)), draw(st.integers(0, 9000))
    rect = (x, y, x + draw(st.integers(1, 9000)), y + draw(st.integers(1, 9000)))
    return View(draw(st.sampled_from(sources)), rect, draw(st.none() | st.integers(0, 99)))


@st.composite
def results(draw, sources):
    failure = st.builds(Failure, st.sampled_from(["policy", "tool", "infra"]), text, text)
    return ToolResult(
        ok=draw(st.booleans()),
        op=draw(st.sampled_from(["ZOOM", "OCR"])),
        ref=draw(st.none() | text),
        data=draw(json_object),
        shown=draw(words),
        failure=draw(st.none() | failure),
        tool=draw(text),
        ms=draw(st.floats(0, 1e6)),
        views=tuple(draw(st.lists(views(sources), max_size=2))),
        payloads=draw(words),
    )


@st.composite
def turns(draw, sources):
    sampled = draw(st.lists(st.tuples(token, logprob, st.sampled_from(LETTERS)), max_size=6))
    call = draw(st.none() | st.builds(ToolCall, text, json_object))
    return Turn(
        observed=tuple(draw(st.lists(token, max_size=6))),
        sampled=tuple(t for t, _, _ in sampled),
        logprobs=tuple(p for _, p, _ in sampled),
        roles="".join(role for _, _, role in sampled),
        views=tuple(draw(st.lists(views(sources), max_size=2))),
        call=call,
        result=draw(st.none() | results(sources)) if call else None,
        version=(draw(st.integers(0, 9)), draw(st.integers(0, 2**40))),
        error=draw(st.none() | st.just("bad_json")),
    )


@st.composite
def trajectories(draw, task_id=None):
    sources = draw(media)
    return Trajectory(
        id=draw(text),
        task_id=draw(text) if task_id is None else task_id,
        question=draw(text),
        media=tuple(sources),
        turns=tuple(draw(st.lists(turns(sources), max_size=3))),
        answer=draw(st.none() | text),
        status=draw(st.sampled_from(["finished", "over_budget", "infra", "cancelled"])),
        rewards=draw(st.dictionaries(text, st.floats(allow_nan=False), max_size=3)),
        family=draw(text),
        seed=draw(st.integers(0, 2**64 - 1)),
    )


@st.composite
def groups(draw):
    task_id = draw(text)
    return Group(task_id, tuple(draw(st.lists(trajectories(task_id), min_size=1, max_size=3))))
