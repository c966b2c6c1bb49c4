"""What a sampled token is for."""

import pytest

from pixelis.actors import nano
from pixelis.actors.render import TURN_END, Renderer, marked
from pixelis.tools.call import ToolCall


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(nano.build(seed=0))


def told(text: str) -> dict[str, str]:
    """Role letter -> the characters that have it."""
    marks = marked(text)
    assert len(marks) == len(text)
    pairs = list(zip(text, marks, strict=True))
    return {letter: "".join(c for c, mark in pairs if mark == letter) for letter in dict.fromkeys(marks)}


def test_a_call_is_operation_arguments_and_structure() -> None:
    call = '{"name":"OCR","arguments":{"on":"img0","box":[62,0,1000,218],"level":"line"}}'
    found = told(f"Look there.<tool_call>{call}</tool_call>")
    assert (found["t"], found["o"], found["g"]) == ("Look there.", "OCR", "img06201000218line")
    assert found["s"] == '<tool_call>{"name":"","arguments":{"on":"","box":[,,,],"level":""}}</tool_call>'


def test_an_answer_is_what_stands_between_its_tags() -> None:
    assert told(f"so<answer>K7 P</answer>{TURN_END}") == {"t": "so", "s": f"<answer></answer>{TURN_END}", "a": "K7 P"}


HALVES = ["", "<tool_call>", '<tool_call>{"name', "<answer>", '<tool_call>[1,"a"', TURN_END, "</answer>7", "🙂<answer>é"]


@pytest.mark.parametrize("text", HALVES)
def test_half_a_turn_has_roles_too(text: str) -> None:
    assert len(marked(text)) == len(text)


def test_a_token_has_the_role_of_most_of_its_characters(renderer: Renderer) -> None:
    call = ToolCall("OCR", {"on": "img0", "box": [62, 125, 187, 218], "level": "line"})
    said = renderer.recite("Look for red. [62,125].", call, None)
    by_role: dict[str, list[str]] = {}
    for token, role in zip(said, renderer.roles(said), strict=True):
        by_role.setdefault(role, []).append(renderer.decode([token]))
    assert by_role["o"] == ["OCR"] and by_role["g"] == ["img0", "62", "125", "187", "218"]
    assert "".join(by_role["t"]) == "Look for red. [62,125]." and by_role["s"][-1] == '],"level":"line"}}</tool_call>'
    assert renderer.roles(renderer.recite("", None, "K7P")) == "saaass"
