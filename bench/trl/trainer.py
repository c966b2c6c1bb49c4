"""TRL's side: GRPOTrainer with a policy of ours, our OCR and our questions. Runs in an environment of its own.

Usage: python bench/trl/trainer.py START OUT [--seed S] [--every UPDATES] | --config

Nothing of TRL is changed: a chat template, TRL's own way of reading Qwen's tool calls, an environment with one tool, a reward.
`--config` writes config.json, all that GRPOConfig holds.
"""

import argparse
import json
import tomllib
from functools import lru_cache
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import Qwen2VLImageProcessor, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, TrainerCallback
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import parse_response, qwen3_template

from pixelis.actors.render import Renderer
from pixelis.actors.tasks import TaskSource
from pixelis.memory.model import Model
from pixelis.tools.call import ToolCall
from pixelis.tools.frame import View
from pixelis.tools.handle import Workspace
from pixelis.tools.measure import agrees
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox

HERE = Path(__file__).parent
SCENES, CACHED = 1_000_000, 256
"""Questions at hand, and how many stay rendered, as in our TaskSource."""
OWN = ("output_dir", "logging_dir", "run_name", "seed", "data_seed", "save_steps")
"""Settings that differ from run to run."""
OPEN, CLOSE = "<|im_end|>\n<|im_start|>user\n<tool_response>\n", "\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
TEMPLATE = (
    "{%- macro text(content) -%}{%- if content is string -%}{{ content }}{%- else -%}{%- for part in content -%}"
    "{%- if part.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}{{ '<|im_start|>user\n' + text(message.content) + '<|im_end|>\n' }}"
    "{%- elif message.role == 'assistant' -%}{{ '<|im_start|>assistant\n' + text(message.content) }}"
    "{%- for call in message.tool_calls or [] -%}{%- set f = call.function -%}"
    '{{ \'<tool_call>{"name":"\' + f.name + \'","arguments":\' }}'
    "{{ f.arguments | tojson(separators=(',', ':')) + '}</tool_call>' }}"
    "{%- else -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- elif message.role == 'tool' -%}"
    "{{ '<|im_end|>\n<|im_start|>user\n<tool_response>\n' + text(message.content) + '\n</tool_response><|im_end|>\n' }}"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
"""A dialogue as our Renderer writes it, without a list of tools: the policy never saw one."""


class World:
    """The questions, the tools, and how both are written: ours, from the start policy's folder."""

    def __init__(self, start: Path) -> None:
        self.store = MediaStore()
        self.source = TaskSource(("code",), "rft", self.store)
        self.model = Model.load(start)
        self.renderer, self.toolbox = Renderer(self.model), Toolbox(self.store)
        self.row = lru_cache(maxsize=CACHED)(self._row)

    def _row(self, index: int) -> dict[str, Any]:
        gold = self.source.gold(index)
        pixels = seen(self.model, self.store, gold.task.media[0])
        return {"prompt": [{"role": "user", "content": gold.task.question}], "image": Image.fromarray(pixels), "index": index}

    def rows(self, asked: dict[str, list[int]]) -> dict[str, list[Any]]:
        """A batch of the data set, as `datasets` asks for it."""
        found = [self.row(index) for index in asked["index"]]
        return {key: [row[key] for row in found] for key in found[0]}

    def rewards(self, completion_ids: list[list[int]], index: list[int], **_: Any) -> list[float]:
        """1 for the exact answer in the last turn, by our own rule."""
        [close] = self.renderer.encode(CLOSE)
        earned = []
        for ids, one in zip(completion_ids, index, strict=True):
            last = len(ids) - ids[::-1].index(close) if close in ids else 0
            said, gold = self.renderer.parse(ids[last:]).answer, self.source.gold(one)
            earned.append(float(said is not None and agrees(said, gold.answer, gold.task.answer_type)))
        return earned


class Desk:
    """One rollout's environment: the picture of its question, and OCR."""

    world: World

    def reset(self, index: int, **_: Any) -> None:
        """Another question."""
        self._workspace = Workspace(self.world.store, self.world.source.gold(index).task.media[0])

    def OCR(self, on: str, box: list[int] | None = None, level: str = "block") -> str:
        """Read the text in a box of a picture.

        Args:
            on: The picture, like img0.
            box: x0, y0, x1, y1 in thousandths of its width and height.
            level: "line" for one line, "block" for several.

        Returns:
            What stands there, as JSON.
        """
        given = {"on": on, **({} if box is None else {"box": box}), "level": level}
        result = self.world.toolbox.run(self._workspace, ToolCall("OCR", given))
        return observed(self.world.renderer, result, self._workspace)


def observed(renderer: Renderer, result: Any, workspace: Workspace) -> str:
    """What our policy would read of a result, without the turn around it."""
    return renderer.decode(renderer.observation(result, workspace).tokens).removeprefix(OPEN).removesuffix(CLOSE)


def seen(model: Model, store: MediaStore, sha: str) -> np.ndarray:
    """The thumbnail [96, 96, 3] that the policy sees of a picture."""
    import cv2

    info = store.info(sha)
    view = View(sha, (0, 0, info.width, info.height))
    height, width = model.layout.size(view)
    return cv2.resize(store.pixels(view), (width, height), interpolation=cv2.INTER_AREA)


def processor(model: Model) -> Qwen3VLProcessor:
    """TRL's processing class for the nano policy."""
    tokenizer: Any = model.tokenizer
    tokenizer.padding_side, tokenizer.response_template = "left", qwen3_template
    tokenizer.add_tokens(["<|video_pad|>"], special_tokens=True)  # or else what is unknown counts as a video; no text has it
    size = {"shortest_edge": 16 * 16, "longest_edge": model.card.image_area}
    shape: dict[str, Any] = {"patch_size": 8, "temporal_patch_size": 1, "merge_size": 2, "size": size}
    half: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    images, videos = Qwen2VLImageProcessor(**shape, **half), Qwen3VLVideoProcessor(**shape, **half)
    return Qwen3VLProcessor(images, tokenizer, videos, chat_template=TEMPLATE)


def check(world: World, ready: Qwen3VLProcessor) -> None:
    """AssertionError unless prompts, pixels, calls, observations and rewards are those of our own side, token for token."""
    renderer, row, gold = world.renderer, world.row(3), world.source.gold(3)
    message = [
        {"role": "user", "content": [{"type": "image", "image": row["image"]}, {"type": "text", "text": gold.task.question}]}
    ]
    whole = ready.apply_chat_template(
        [message], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ours = renderer.prompt(gold.task, world.store)
    prompt = whole["input_ids"][0].tolist()
    assert prompt == list(ours.tokens), "prompt"
    patches, grid = world.model.patches(ours.views[0], world.store)
    assert whole["image_grid_thw"].tolist() == [list(grid)], "grid"
    assert np.abs(whole["pixel_values"].numpy() - patches).max() < 1e-5, "pixels"
    tokenizer: Any = world.model.tokenizer
    call = ToolCall("OCR", {"on": "img0", "box": list(world.source.scene(3).grid_box(gold_rect(world, 3))), "level": "line"})
    turn = renderer.recite("Look for red. ", call, None)
    read = parse_response(tokenizer, turn, prefix=prompt, tools=[Desk().OCR])
    assert read["tool_calls"][0]["function"] == {"name": "OCR", "arguments": call.arguments}, "call"
    desk = Desk()
    desk.reset(index=3)
    workspace = Workspace(world.store, gold.task.media[0])
    told = renderer.observation(world.toolbox.run(workspace, call), workspace)
    tail = [{"role": "tool", "name": "OCR", "content": desk.OCR(**call.arguments)}]
    head = [{"role": "user", "content": "dummy"}, {"role": "assistant", "content": "", "tool_calls": read["tool_calls"]}]
    before = ready.apply_chat_template(head, tokenize=True, return_dict=False)[0]
    after = ready.apply_chat_template([*head, *tail], add_generation_prompt=True, tokenize=True, return_dict=False)[0]
    assert after == [*before, *told.tokens], "observation"
    said = [*turn, *told.tokens, *renderer.recite("", None, gold.answer)]
    assert world.rewards([said, turn, said[:-4]], [3, 3, 3]) == [1.0, 0.0, 0.0], "reward"
    assert not parse_response(tokenizer, said[-6:], prefix=[*prompt, *said[:-6]], tools=[desk.OCR]).get("tool_calls"), "answer"


def gold_rect(world: World, index: int) -> Any:
    """Where the asked plate is, in pixels."""
    scene = world.source.scene(index)
    return scene.find("plate", scene.asked).box


class Told(TrainerCallback):
    """Writes down when each update was done."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One line an update."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": state.global_step, "time": time()}) + "\n")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """What TRL says of its updates."""
        with self.path.with_name("logs.jsonl").open("a") as file:
            file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


def settings(out: Path, seed: int, every: int) -> GRPOConfig:
    """From grpo.toml."""
    told = tomllib.loads((HERE / "grpo.toml").read_text())
    return GRPOConfig(**told, output_dir=str(out), seed=seed, save_steps=every, max_steps=SCENES)


def write_config(path: Path = HERE / "config.json") -> None:
    """All settings, defaults included."""
    told = {key: value for key, value in settings(Path("out"), 0, 1).to_dict().items() if key not in OWN}
    path.write_text(json.dumps(told, indent=1, sort_keys=True, default=str) + "\n")


def train(start: Path, out: Path, seed: int, every: int) -> None:
    """Until it is ended."""
    out.mkdir(parents=True, exist_ok=True)
    world = World(start)
    Desk.world = world
    ready = processor(world.model)
    check(world, ready)
    policy = Qwen3VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    policy.model.visual.requires_grad_(False)
    policy.generation_config.eos_token_id = sorted(world.renderer.stop)
    world.toolbox.run(
        Workspace(world.store, world.source.gold(0).task.media[0]), ToolCall("OCR", {"on": "img0", "level": "line"})
    )
    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=world.rewards,
        args=settings(out, seed, every),
        train_dataset=Dataset.from_dict({"index": range(SCENES)}).with_transform(world.rows),
        processing_class=ready,
        callbacks=[Told(out / "steps.jsonl")],
        environment_factory=Desk,
    )
    trainer.train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("start", type=Path, nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--config", action="store_true")
    asked = parser.parse_args()
    write_config() if asked.config else train(asked.start, asked.out, asked.seed, asked.every)
