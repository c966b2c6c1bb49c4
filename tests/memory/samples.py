"""A picture and small groups, told from each other by a number."""

import hashlib

from pixelis.memory.trajectory import Group, Trajectory, Turn

PICTURE = b"the bytes of a picture"
SHA = hashlib.sha256(PICTURE).hexdigest()


def group(number: int, tokens: int = 3, sources: tuple[str, ...] = (SHA,)) -> Group:
    """A group that is told from others by its number."""
    turn = Turn(tuple(range(tokens)), (number, 1), (-0.5, -0.25), version=(0, number))
    return Group(f"task{number}", (Trajectory(f"t{number}", f"task{number}", "?", sources, (turn,)),))
