"""What a vote costs: 16 rollouts of two to six calls, 8 neighbours, on stills and on clips; and other weights of its terms.

CPU milliseconds a question, over QUESTIONS of them. Calls and answers are drawn at random, half of the boxes being one and the
same: more boxes that differ than the rollouts of a trained policy have, so rather too dear than too cheap.
"""

import random

from figures import interleaved, keep, row, spread

from pixelis.learners.arm import VoteSettings, arm
from pixelis.learners.verdict import recount
from pixelis.learners.vote import Ballot, Neighbour, vote
from pixelis.memory.look import WHOLE, Look, Region

QUESTIONS = 40
ROLLOUTS = 16
NEIGHBOURS = 8
FULL = VoteSettings()


def look(draw: random.Random, clip: bool) -> Look:
    """A call that worked."""
    op = draw.choice(["ZOOM", "OCR", "SEG", "PROP"])
    x, y = (draw.randrange(0, 900, 31) for _ in range(2))
    box = [250, 250, 400, 350] if draw.random() < 0.5 else [x, y, x + draw.choice([62, 93]), y + 93]
    t = float(draw.randrange(0, 900, 31))
    region = Region(WHOLE.inner(box).box, (t, t + 62.5) if clip else None)
    text = f"K{draw.randrange(3)}P" if op == "OCR" else None
    return Look(op, (region,), text=text, values={"area": draw.randrange(90, 110)} if op == "PROP" else {})


def question(seed: int, clip: bool) -> tuple[list[Ballot], list[Neighbour]]:
    """Rollouts of which about three in four agree, and neighbours on media of their own."""
    draw = random.Random(seed)

    def ballot(name: str, medium: str) -> Ballot:
        answer = draw.choice(["K7P"] * 12 + ["K7R", "ABC", "B2", None])
        return Ballot(name, answer, (medium,), tuple(look(draw, clip) for _ in range(draw.randint(2, 6))), 0, name)

    rollouts = [ballot(f"r{i}", "m") for i in range(ROLLOUTS)]
    return rollouts, [Neighbour(ballot(f"n{i}", f"m{i}"), draw.random()) for i in range(NEIGHBOURS)]


def main() -> None:
    """Prints a table and keeps it."""
    questions = {name: [question(seed, name == "clips") for seed in range(QUESTIONS)] for name in ("stills", "clips")}
    verdicts = [vote(*one, "text", FULL) for one in questions["stills"]]
    times = interleaved(
        {
            "vote, stills": lambda: [vote(*one, "text", FULL) for one in questions["stills"]],
            "vote, clips": lambda: [vote(*one, "text", FULL) for one in questions["clips"]],
            "recount": lambda: [recount(verdict, arm("no_fidelity", FULL)) for verdict in verdicts],
        }
    )
    figures = {name: spread([1000 * t / QUESTIONS for t in values]) for name, values in times.items()}
    for name, values in figures.items():
        row(f"{name} (CPU)", values, "ms", "<= 5" if name == "vote, stills" else "")
    keep("vote", figures)


if __name__ == "__main__":
    main()
