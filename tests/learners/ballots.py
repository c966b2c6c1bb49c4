"""Ballots for the tests of the vote: short to write, and at random."""

from dataclasses import replace

from hypothesis import strategies as st

from pixelis.learners.vote import Ballot, Neighbour
from pixelis.memory.look import WHOLE, Look

BOXES = ([0, 0, 250, 250], [125, 0, 375, 250], [500, 500, 1000, 1000])


def read(text: str, box: list[int] | None = None) -> Look:
    """OCR of a box."""
    return Look("OCR", (WHOLE.inner(box or BOXES[0]),), text=text)


def said(answer: str | None, *chain: Look, id: str = "", tokens: str = "", invalid: int = 0) -> Ballot:
    """A rollout; two without an id of their own are told apart by `ballots`."""
    return Ballot(id, answer, ("m",), chain, invalid, tokens)


def ballots(*some: Ballot) -> list[Ballot]:
    """With an id for each that has none: a, b, c ..."""
    return [replace(one, id=one.id or chr(97 + i)) for i, one in enumerate(some)]


looks = st.one_of(
    st.builds(lambda box, text: read(text, box), st.sampled_from(BOXES), st.sampled_from(["K7P", "K7", ""])),
    st.builds(lambda box: Look("ZOOM", (WHOLE.inner(box),)), st.sampled_from(BOXES)),
    st.builds(lambda box, sure: Look("SEG", (WHOLE.inner(box),), sure=sure), st.sampled_from(BOXES), st.floats(0, 1)),
    st.builds(lambda area: Look("PROP", (WHOLE,), values={"area": area}), st.integers(1, 20)),
    st.just(Look("TRK", ok=False)),
)
answers = st.none() | st.sampled_from(["K7P", "k7p", "B2", "QQ"])


@st.composite
def rollouts(draw: st.DrawFn) -> list[Ballot]:
    """One to six of them, with ids of their own; some are copies."""
    one = st.tuples(answers, st.lists(looks, max_size=3), st.sampled_from(["", "x", "y"]))
    some = draw(st.lists(one, min_size=1, max_size=6))
    return ballots(*(said(answer, *chain, tokens=tokens) for answer, chain, tokens in some))


@st.composite
def neighbours(draw: st.DrawFn) -> list[Neighbour]:
    """None to four of them, some on the question's own medium."""
    some = draw(st.lists(st.tuples(answers, st.lists(looks, max_size=2), st.booleans(), st.floats(-1, 1)), max_size=4))
    return [
        Neighbour(Ballot(f"n{i}", answer, ("m",) if same else ("other",), tuple(chain)), similarity)
        for i, (answer, chain, same, similarity) in enumerate(some)
    ]
