"""The policy that both sides start from: imitation of a teacher that answers with one OCR call, until 0.6 of the dev split.

Usage: python bench/trl/start.py FOLDER [--tiny]

The thought with the plate's box comes before the call, as in all of PixelWorld's demonstrations. No turn shows a picture, so
that the other side, whose tools answer in text, is asked for nothing it has not got.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pixelis.actors import nano
from pixelis.actors.engine import TransformersEngine
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import Lesson, RolloutSettings, RolloutWorker
from pixelis.actors.tasks import TaskSource
from pixelis.actors.teacher import Step, Teacher
from pixelis.actors.world import FAMILIES
from pixelis.cluster.pretrain import backbone
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.learners.loss import RoleWeights
from pixelis.memory.model import Model
from pixelis.memory.trajectory import Group
from pixelis.tools.call import ToolResult
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox

GATE, EVERY, ASKED = 0.6, 25, 200
"""Success on the dev split at which to stop, steps between looks, and questions of a look."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long is imitated: scenes, steps on captions alone, and the most steps in all. Example: Plan(500, 550, 1500)"""

    scenes: int
    captions: int
    most: int


WHOLE, TINY = Plan(500, 550, 1500), Plan(8, 0, 100)
"""The tiny one begins from untrained weights and stops without a gate: it calls in good form, and looks anywhere."""


class OneCall(Teacher):
    """Recites the shortest sufficient chain."""

    def next(self, workspace: Workspace, results: Sequence[ToolResult]) -> Step:
        """The call, then what it said."""
        family = FAMILIES[self.scene.family]
        if not results:
            return Step(family.thought(self.scene), next(family.shortest(self.scene, workspace)))
        return Step("", answer=(family.answers(self.scene, results) or [""])[-1])


class Reciter(RolloutWorker):
    """A worker whose demonstrations are `OneCall`'s."""

    def _lessons(self, index: int) -> list[Lesson]:
        assert isinstance(self.source, TaskSource)
        scene, rng = self.source.scene(index), np.random.default_rng([self.run, index])
        return [self._lesson(scene.id, scene.task.task, index, OneCall(scene, rng))]


def make(folder: Path, plan: Plan) -> None:
    """Train it and save it there, when it is done. RuntimeError when the gate is not reached."""
    torch.set_num_threads(1)
    model, store = (nano.build(0) if plan is TINY else Model.load(backbone())), MediaStore()
    renderer, toolbox = Renderer(model), Toolbox(store)
    engine = TransformersEngine(model, store, renderer.stop)
    shown = recited(Reciter(TaskSource(("code",), "demo", store), toolbox, renderer, engine, RolloutSettings(), 0), plan.scenes)
    settings = LearnerSettings(lr=1.5e-3, matrix_lr=0.01, roles=RoleWeights(op=1.0, argument=1.0))
    learner, rng, found = Learner(model, store, settings), np.random.default_rng(0), 0.0
    dev = RolloutWorker(TaskSource(("code",), "dev", store), toolbox, renderer, engine, RolloutSettings(), 0)
    for step in range(1, plan.most + 1):
        batch = {"code.caption": 12} if step <= plan.captions else {"code": 12, "code.caption": 4}
        told = learner.update([shown[name][i] for name, n in batch.items() for i in rng.integers(len(shown[name]), size=n)])
        if step % EVERY == 0:
            print(f"start: step {step}, nll {told['nll']:.3f}, dev {found:.3f}", flush=True)
        if plan is WHOLE and step > plan.captions and step % EVERY == 0:
            found = float(np.mean([outcome.success for outcome in dev.evaluate(range(ASKED))[0]]))
            model.net.train()
        if found >= GATE:
            break
    if plan is WHOLE and found < GATE:
        raise RuntimeError(f"dev success is {found:.3f} after {plan.most} steps, not {GATE}")
    print(f"start: {folder} after {step} steps, dev {found:.3f}", flush=True)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    model.save(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def recited(worker: RolloutWorker, scenes: int) -> dict[str, list[Group]]:
    """Demonstrations and captions, by family."""
    groups = worker.recite(range(scenes))
    return {name: [g for g in groups if g.trajectories[0].family == name] for name in ("code", "code.caption")}


if __name__ == "__main__":
    make(Path(sys.argv[1]), TINY if "--tiny" in sys.argv else WHOLE)
