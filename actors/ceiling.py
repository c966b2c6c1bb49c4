"""How far the tools carry: the share of scenes that the shortest sufficient chain, given gold boxes, gets right.

A policy cannot be better than its tools for long; under a shift of the pixels this says how much is theirs to lose.
"""

from pixelis.actors.scene import Scene
from pixelis.actors.shift import NAMES, Shift
from pixelis.actors.world import FAMILIES, NO_SHIFT, Split, make_scene
from pixelis.tools.call import ToolResult
from pixelis.tools.handle import Workspace
from pixelis.tools.local import Local
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox

TABLE = (0.0, 0.5, 1.0)  # severities


def ceiling(family: str, split: Split, n: int, shift: Shift = NO_SHIFT) -> float:
    """The share (0..1) of the first `n` scenes of a split that the real tools answer exactly; 30 to 80 ms a scene.

    A call that the tools cannot do counts as a wrong answer. RuntimeError when infrastructure fails.

    Example: ``ceiling("code", "heldout", 100, Shift("noise", 0.5))``
    """
    tools = Local()
    right = 0
    for index in range(n):
        scene = make_scene(family, split, index, shift)
        toolbox = Toolbox(MediaStore(None), tools)
        right += FAMILIES[family].answers(scene, shortest(scene, toolbox))[-1:] == [scene.answer]
    return right / n


def shortest(scene: Scene, toolbox: Toolbox) -> list[ToolResult]:
    """What the tools say to the shortest chain of a scene."""
    workspace = Workspace(toolbox.store, toolbox.store.put(scene.media))
    chain = FAMILIES[scene.family].shortest(scene, workspace)
    results: list[ToolResult] = []
    try:
        call = next(chain)
        while True:
            result = toolbox.run(workspace, call)
            if result.failure is not None and result.failure.cls == "infra":
                raise RuntimeError(f"{scene.id}: {call.name} ended by infrastructure: {result.failure.code}")
            results.append(result)
            call = chain.send(result)
    except StopIteration:
        return results


def table(n: int, split: Split = "heldout") -> str:
    """Ceilings of every family under every shift, as Markdown."""
    rows = ["| family | shift | " + " | ".join(f"{s:g}" for s in TABLE) + " |", "|---" * (2 + len(TABLE)) + "|"]
    for family in FAMILIES:
        clean = ceiling(family, split, n)
        for name in NAMES:
            found = [ceiling(family, split, n, Shift(name, s)) if s else clean for s in TABLE]
            rows.append(f"| {family} | {name} | " + " | ".join(f"{share:.2f}" for share in found) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(100))
