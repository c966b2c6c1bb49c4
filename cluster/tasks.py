"""`pixelis tasks check`: whether every question of a file can be used."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from pixelis.actors.questions import QuestionFile
from pixelis.cluster.progress import Bar
from pixelis.tools.media import MediaStore


def command(path: Path) -> bool:
    """Prints what is in the file, and a line for each question that cannot be used; whether all can.

    Raises: TaskError when a line is no question.
    """
    file = QuestionFile(path, MediaStore())
    wrong: list[str] = []
    with Bar("tasks", len(file), "questions") as bar:
        for index in range(len(file)):
            found = file.check(index)
            wrong += [found] if found else []
            bar.to(index + 1)
    for line in wrong:
        print(f"pixelis: {line}", file=sys.stderr)
    families = ", ".join(f"{count} {family}" for family, count in Counter(file.of).items())
    print(f"{len(file)} questions ({families}), {file.answered} with an answer, {len(wrong)} that cannot be used")
    return not wrong
