"""One SFT step and one RFT iteration in one process on made-up episodes: what `bench/gpu.py` measures.

Pictures are noise and words are drawn at random, so nothing is learned; but every episode has the parts, and the sizes, that
a run's have: a picture with a question, then turn by turn what the policy says and what a closer look shows it. The engine
decodes exactly so many tokens a turn, as no token ends one here.
"""

from __future__ import annotations

import gc
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np
import shapes
import torch

from pixelis.actors.engine import Request, TransformersEngine
from pixelis.learners.corridor import CorridorSettings
from pixelis.learners.intrinsic import IntrinsicSettings
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.memory.lora import LoraSettings, adapt
from pixelis.memory.model import Model, device_of
from pixelis.memory.trajectory import Group, Trajectory, Turn
from pixelis.memory.weights import unflatten
from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.frame import View
from pixelis.tools.media import MediaStore

STEPS = 2
"""Updates that are timed, after one that is not."""
CLOSER = 0.4
"""Sides of what a closer look shows, in shares of the picture's."""


@dataclass(frozen=True, slots=True)
class Work:
    """The size of an iteration."""

    questions: int
    group: int
    """Rollouts of each."""
    calls: int
    """Calls in each, before its answer."""
    side: int
    """Of a picture, in pixels."""
    asked: int
    """Tokens of a question beside its picture."""
    said: int
    """Tokens of a turn."""
    told: int
    """Tokens of an observation beside its picture."""
    micro_tokens: int
    rank: int


WORK = {
    "8b": Work(4, 8, calls=3, side=1000, asked=120, said=64, told=40, micro_tokens=4096, rank=64),
    "toy": Work(2, 2, calls=2, side=240, asked=8, said=6, told=5, micro_tokens=300, rank=4),
}


def settings(work: Work) -> tuple[LearnerSettings, LearnerSettings]:
    """Of imitation and of RFT, as configs/sft_8b.toml and rft_8b.toml have them, less argument heads: calls are made up."""
    sft = LearnerSettings(
        lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, warmup=1, lora=LoraSettings(rank=work.rank),
        checkpointing=True, pack=True, micro_tokens=work.micro_tokens,
    )  # fmt: skip
    corridor = CorridorSettings(low=0.1, high=0.2, probes=32)
    intrinsic = IntrinsicSettings(curiosity=0.05, coherence=0.05)
    return sft, replace(sft, loss="grpo", lr=1e-5, corridor=corridor, intrinsic=intrinsic)


class MadeUp:
    """Tokens and views of episodes."""

    def __init__(self, model: Model, store: MediaStore, work: Work) -> None:
        self.layout, self.store, self.work = model.layout, store, work
        self.words = np.array([i for i in range(len(model.tokenizer)) if not model.tokenizer.decode([i]).startswith("<|")])
        self.draws = np.random.default_rng(0)

    def text(self, count: int) -> tuple[int, ...]:
        """Random words."""
        return tuple(self.draws.choice(self.words, count).tolist())

    def question(self) -> tuple[tuple[int, ...], View]:
        """A new picture, and words about it."""
        noise = self.draws.integers(0, 256, (self.work.side, self.work.side, 3), dtype=np.uint8)
        source = self.store.put(cv2.imencode(".png", noise)[1].tobytes())
        view = View(source, (0, 0, self.work.side, self.work.side))
        return (*self.layout.placeholders(view), *self.text(self.work.asked)), view

    def closer(self, picture: View) -> tuple[tuple[int, ...], View, ToolCall, ToolResult]:
        """A call, and what it shows."""
        side = self.work.side
        size = int(CLOSER * side)
        x, y = self.draws.integers(0, side - size, 2).tolist()
        view = View(picture.source, (x, y, x + size, y + size))
        box = [round(1000 * v / side) for v in view.rect]
        call = ToolCall("ZOOM", {"on": "img0", "box": box})
        return (*self.text(self.work.told), *self.layout.placeholders(view)), view, call, ToolResult(True, "ZOOM", "img1")


@dataclass(slots=True)
class Playing:
    """An episode on its way."""

    name: str
    tokens: tuple[int, ...]
    views: tuple[View, ...]
    observed: tuple[int, ...]
    new: tuple[View, ...]
    turns: list[Turn]


class Episodes:
    """Episodes of one model's shape, recited or sampled."""

    def __init__(self, model: Model, store: MediaStore, work: Work) -> None:
        self.made, self.work = MadeUp(model, store, work), work

    def recited(self, count: int) -> list[Group]:
        """Demonstrations, each with a picture of its own."""
        return [self._play([self._begin(f"d{n}", *self.made.question())], self._recite, f"d{n}") for n in range(count)]

    def sampled(self, engine: TransformersEngine, number: int) -> list[Group]:
        """A group for each question; all of them act together, and every second rollout is right."""
        groups: list[list[Playing]] = []
        for q in range(self.work.questions):
            asked = self.made.question()
            groups.append([self._begin(f"{number}/{q}/{k}", *asked) for k in range(self.work.group)])

        def say(some: Sequence[Playing], turn: int) -> list[tuple[Any, ...]]:
            done = engine.generate([request(one, number, turn, self.work.said) for one in some])
            return [(c.tokens, c.logprobs, c.version) for c in done]

        every = [one for group in groups for one in group]
        whole = self._play(every, say, "all")
        engine.close([one.name for one in every])
        parts = [whole.trajectories[q * self.work.group : (q + 1) * self.work.group] for q in range(self.work.questions)]
        return [
            Group(f"q{q}", tuple(replace(t, task_id=f"q{q}", rewards={"answer": float(k % 2)}) for k, t in enumerate(part)))
            for q, part in enumerate(parts)
        ]

    def _begin(self, name: str, tokens: tuple[int, ...], view: View) -> Playing:
        return Playing(name, tokens, (view,), tokens, (view,), [])

    def _recite(self, some: Sequence[Playing], turn: int) -> list[tuple[Any, ...]]:
        said = self.work.said
        return [(self.made.text(said), (0.0,) * said, (0, 0)) for _ in some]

    def _play(self, every: list[Playing], say: Callable[[Sequence[Playing], int], list[tuple[Any, ...]]], task: str) -> Group:
        for turn in range(self.work.calls + 1):
            for one, (tokens, logprobs, version) in zip(every, say(every, turn), strict=True):
                more, view, call, result = self.made.closer(one.views[0])
                last = turn == self.work.calls
                said = {"call": None, "result": None} if last else {"call": call, "result": result}
                one.turns.append(Turn(one.observed, tokens, logprobs, one.new, version=version, **said))
                one.tokens, one.observed, one.new = (*one.tokens, *tokens, *more), more, (view,)
                one.views = (*one.views, view)
        return Group(task, tuple(trajectory(one, task) for one in every))


def request(one: Playing, number: int, turn: int, tokens: int) -> Request:
    """One turn of an episode, of exactly so many tokens."""
    return Request(one.name, one.tokens, one.views, (number, zlib.crc32(one.name.encode()), turn), tokens, 1.0)


def trajectory(one: Playing, task: str) -> Trajectory:
    """What was played."""
    return Trajectory(one.name, task, "?", (one.views[0].source,), tuple(one.turns), "?")


class Bench:
    """Both measurements at one shape, where the network is built."""

    def __init__(self, shape: str, gpu: bool) -> None:
        self.shape, self.work, self.device = shape, WORK[shape], device_of(float(gpu))

    def sft(self) -> dict[str, float]:
        """Imitation: the learner alone, as one rank."""
        model, store = self._model(), MediaStore(None)
        learner = Learner(model, store, settings(self.work)[0])
        groups = Episodes(model, store, self.work).recited(self.work.questions * self.work.group)
        self._learned(learner, groups)
        self._forget_peak()
        seconds = min(self._timed(lambda: self._learned(learner, groups)) for _ in range(STEPS))
        whole = [g.trajectories[0] for g in groups]
        tokens, flops = sum(map(len, whole)), self._flops(model, whole)
        found = {"trajectories": len(whole), "tokens": tokens, "step_s": seconds, "tokens_per_s": tokens / seconds}
        return {**found, "flops": flops, "flops_per_s": flops / seconds, **self._peak()}

    def rft(self) -> dict[str, float]:
        """Rollouts, an update of what they taught, and its way back into the engine, which holds a network of its own."""
        store = MediaStore(None)
        learner = Learner(self._model(), store, settings(self.work)[1])
        acting = self._model()
        adapt(acting, learner.settings.lora)
        engine = TransformersEngine(acting, store, frozenset())
        episodes = Episodes(acting, store, self.work)
        self._iteration(learner, engine, episodes, 0)
        self._forget_peak()
        found, groups = self._iteration(learner, engine, episodes, 1)
        whole = [t for g in groups for t in g.trajectories]
        sampled, tokens = sum(int(t.mask.sum()) for t in whole), sum(map(len, whole))
        found |= {"trajectories": len(whole), "tokens": tokens, "sampled": sampled, **self._peak()}
        found["sampled_per_s"] = sampled / found["rollout_s"]
        found["tokens_per_s"] = tokens / found["iteration_s"]
        return {**found, **self._decode(engine, episodes)}

    def _iteration(
        self, learner: Learner, engine: TransformersEngine, episodes: Episodes, number: int
    ) -> tuple[dict[str, float], list[Group]]:
        groups: list[Group] = []
        rollout = self._timed(lambda: groups.extend(episodes.sampled(engine, number)))
        update = self._timed(lambda: self._learned(learner, groups))

        def publish() -> None:
            flat = learner.flat()
            engine.load(unflatten(flat.array().copy(), flat.plan), learner.version, vision_changed=True)

        told = self._timed(publish)
        seconds = {"rollout_s": rollout, "update_s": update, "publish_s": told, "iteration_s": rollout + update + told}
        return seconds, groups

    def _decode(self, engine: TransformersEngine, episodes: Episodes) -> dict[str, float]:
        """Seconds of one token of all rows: turns of 1 token and of many differ by nothing else."""
        said = self.work.said

        def turn(tokens: int) -> float:
            some = [episodes._begin(f"{tokens}/{n}", *asked) for n in range(self.work.group) for asked in asked_of]
            seconds = self._timed(lambda: engine.generate([request(one, 9, 0, tokens) for one in some]))
            engine.close([one.name for one in some])
            return seconds

        asked_of = [episodes.made.question() for _ in range(self.work.questions)]
        turn(1)
        short, long = turn(1), turn(1 + said)
        rows = self.work.questions * self.work.group
        length = len(asked_of[0][0]) + said / 2
        seconds = (long - short) / said
        read = shapes.step_bytes(engine.model, rows, length)
        return {"rows": rows, "prefill_s": short, "decode_step_s": seconds, "bytes_per_s": read / seconds}

    def _learned(self, learner: Learner, groups: list[Group]) -> None:
        figures = learner.update(groups)
        if figures["skipped"]:
            raise RuntimeError(f"the step was skipped, so its time means nothing: {figures}")

    def _model(self) -> Model:
        gc.collect()
        return shapes.build(self.shape, torch.bfloat16, self.device.type)

    def _flops(self, model: Model, whole: Sequence[Trajectory]) -> float:
        patches = [np.prod(model.layout.cells(view)) * model.layout.merge**2 for t in whole for view in t.views]
        sampled = sum(int(t.mask.sum()) for t in whole)
        return shapes.step_flops(model, [len(t) for t in whole], sampled, [int(n) for n in patches])

    def _timed(self, work: Callable[[], object]) -> float:
        """Wall seconds, to the end of what the device was given."""
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _forget_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _peak(self) -> dict[str, float]:
        return {"peak_bytes": torch.cuda.max_memory_allocated()} if self.device.type == "cuda" else {}


def measure(shape: str, gpu: bool) -> dict[str, Any]:
    """Everything, and what it was done with."""
    bench = Bench(shape, gpu)
    print(f"{shape}: SFT ...", flush=True)
    sft = bench.sft()
    gc.collect()
    torch.cuda.empty_cache()
    print(f"{shape}: RFT ...", flush=True)
    return {"shape": shape, "work": asdict(bench.work), "sft": sft, "rft": bench.rft()}
