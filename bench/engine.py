"""Sampled tokens per CPU second of our engine beside transformers' `generate`: 128 rows of PixelWorld, one turn and three.

`generate` gets what it is good at: one padded batch with its key/value cache, each distinct picture prepared once. Both
sample the same number of tokens, from the same prompts, with the same weights and one thread; the table's first line says
that both are the same model (greedy tokens that agree). In three turns every answer is followed by what the real tools
told the teacher in that scene; `generate` has no sessions and reads the whole sequence again. Our engine returns log-probs
besides, `generate` is spared them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from figures import interleaved, keep, ratios, row, spread
from transformers import GenerationConfig

from pixelis.actors import nano
from pixelis.actors.engine import Request, TransformersEngine
from pixelis.actors.render import Observed, Renderer
from pixelis.actors.rollout import RolloutSettings, RolloutWorker
from pixelis.actors.tasks import TaskSource
from pixelis.memory.model import Model
from pixelis.tools.frame import View
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox

ROWS = 128
TURNS = 3
NEW = 24
"""Tokens a turn: about a call."""


@dataclass
class Rows:
    """Sequences that grow turn by turn."""

    tokens: list[tuple[int, ...]]
    views: list[tuple[View, ...]]

    def show(self, observed: list[Observed]) -> None:
        """Append what the environment says to each row."""
        self.tokens = [t + o.tokens for t, o in zip(self.tokens, observed, strict=True)]
        self.views = [v + o.views for v, o in zip(self.views, observed, strict=True)]

    def say(self, sampled: list[tuple[int, ...]]) -> None:
        """Append what was sampled."""
        self.tokens = [t + s for t, s in zip(self.tokens, sampled, strict=True)]


Script = list[list[Observed]]
"""What the environment says to every row, turn by turn."""


class Ours:
    """`TransformersEngine`, opened and closed for each run, its features forgotten."""

    def __init__(self, model: Model, store: MediaStore) -> None:
        self.engine = TransformersEngine(model, store, frozenset({-1}))

    def play(self, script: Script, temperature: float = 1.0) -> list[tuple[int, ...]]:
        """The sequences after all turns."""
        self.engine.features.clear()
        rows = Rows([()] * len(script[0]), [()] * len(script[0]))
        names = [f"row{i}" for i in range(len(script[0]))]
        for turn, observed in enumerate(script):
            rows.show(observed)
            asked = [
                Request(name, rows.tokens[i], rows.views[i], (0, i, turn), NEW, temperature) for i, name in enumerate(names)
            ]
            rows.say([done.tokens for done in self.engine.generate(asked)])
        self.engine.close(names)
        return rows.tokens


class Generate:
    """`model.generate` on batches padded on the left."""

    def __init__(self, model: Model, store: MediaStore) -> None:
        self.model, self.store = model, store
        self.layout = model.layout
        self.unwritable = [self.layout.start, self.layout.pad, self.layout.end]

    def play(self, script: Script, temperature: float = 1.0) -> list[tuple[int, ...]]:
        """The sequences after all turns."""
        rows = Rows([()] * len(script[0]), [()] * len(script[0]))
        settings = GenerationConfig(
            do_sample=temperature > 0, temperature=temperature or None, top_k=None, top_p=None, max_new_tokens=NEW,
            eos_token_id=None, pad_token_id=0, suppress_tokens=self.unwritable,
        )  # fmt: skip
        for observed in script:
            rows.show(observed)
            rows.say(self._turn(rows, settings))
        return rows.tokens

    def _turn(self, rows: Rows, settings: GenerationConfig) -> list[tuple[int, ...]]:
        width = max(map(len, rows.tokens))
        ids = torch.tensor([[0] * (width - len(t)) + list(t) for t in rows.tokens])
        seen = torch.tensor([[0] * (width - len(t)) + [1] * len(t) for t in rows.tokens])
        shown = [view for views in rows.views for view in views]
        prepared = {view: self.model.patches(view, self.store) for view in dict.fromkeys(shown)}
        patches, grids = zip(*(prepared[view] for view in shown), strict=True)
        out = self.model.net.generate(
            input_ids=ids, attention_mask=seen, pixel_values=torch.from_numpy(np.concatenate(patches)),
            image_grid_thw=torch.tensor(grids), mm_token_type_ids=(ids == self.layout.pad).int(), generation_config=settings,
        )  # fmt: skip
        return [tuple(row) for row in out[:, width:].tolist()]


def scripts(model: Model, store: MediaStore, scenes: int) -> Script:
    """TURNS turns of ROWS rows, ROWS / scenes rollouts of each scene: prompt, then what the teacher's calls found."""
    source = TaskSource(("code", "clip"), "demo", store)
    engine = TransformersEngine(model, store, frozenset())
    worker = RolloutWorker(source, Toolbox(store), Renderer(model), engine, RolloutSettings(), 0)
    found: list[list[Observed]] = []
    index = 0
    while len(found) < scenes:
        told = [g.trajectories[0] for g in worker.recite([index])]
        long = [t for t in told if not t.family.endswith("caption") and len(t.turns) >= TURNS]
        found += [[Observed(turn.observed, turn.views) for turn in t.turns[:TURNS]] for t in long]
        index += 1
    return [[one[turn] for one in found for _ in range(ROWS // scenes)] for turn in range(TURNS)]


def main() -> None:
    """Runs all of it."""
    torch.set_num_threads(1)
    store, model = MediaStore(), nano.build(0)
    ours, theirs = Ours(model, store), Generate(model, store)
    figures: dict[str, object] = {"rows": ROWS, "new_tokens": NEW}
    for scenes in (32, ROWS):
        script = scripts(model, store, scenes)
        same = agreement(ours, theirs, script)
        row(f"{scenes} scenes: greedy tokens that agree", same, "", "> 0.99")
        figures[f"{scenes}_scenes_agree"] = same
        for turns in (1, TURNS):
            name = f"{scenes} scenes, {turns} turn{'s' * (turns > 1)}"
            part = script[:turns]
            times = interleaved({"ours": lambda p=part: ours.play(p), "generate": lambda p=part: theirs.play(p)})
            count = ROWS * NEW * turns
            speeds = {way: spread([count / t for t in values]) for way, values in times.items()}
            gain = ratios(times["generate"], times["ours"])
            row(f"{name}: ours", speeds["ours"], "tok/CPU s")
            row(f"{name}: generate", speeds["generate"], "tok/CPU s")
            row(f"{name}: ours / generate", gain, "", ">= 1.5")
            figures[name] = {**speeds, "ratio": gain}
    keep("engine", figures)


def agreement(ours: Ours, theirs: Generate, script: Script) -> dict[str, float]:
    """The share of rows whose first greedy turn is the same; the engine's features in float32 as `generate` has them."""
    kept, ours.engine.features.dtype = ours.engine.features.dtype, torch.float32
    pairs = zip(ours.play(script[:1], 0.0), theirs.play(script[:1], 0.0), strict=True)
    ours.engine.features.dtype = kept
    return spread([float(np.mean([a == b for a, b in pairs]))])


if __name__ == "__main__":
    main()
