"""What a group of 32 rollouts of 10 turns on one 4K picture leaves on disk beyond the picture, and what memory grows with.

Real calls through real episodes: nine calls (ZOOM, SEG, OCR, PROP, on the picture and on what was found) and an answer. Once
shown as the nano policy sees it, and once at the area Qwen3-VL-8B sees, in tokens a quarter the size of its own, so that
the tokens are four times as many. Bytes are counted in the shard's log and in its media folder.
"""

import gc
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from figures import keep

from pixelis.actors import nano
from pixelis.actors.engine import Completion
from pixelis.actors.episode import Episode, Limits
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import turn
from pixelis.memory.model import Card, Model
from pixelis.memory.replay import ReplayShard
from pixelis.memory.task import Task
from pixelis.memory.trajectory import Group
from pixelis.tools.call import ToolCall
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox

WIDTH, HEIGHT = 3840, 2160
ROLLOUTS, TURNS = 32, 10
IMAGES = 6


def picture(seed: int) -> bytes:
    """A 4K JPEG: soft ground, grain, and forty plates with text."""
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(60, 200, (9, 16, 3), dtype=np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    pixels = cv2.add(pixels, rng.integers(0, 12, pixels.shape, dtype=np.uint8))
    for x, y in zip(rng.integers(0, WIDTH - 300, 40).tolist(), rng.integers(0, HEIGHT - 120, 40).tolist(), strict=True):
        cv2.rectangle(pixels, (x, y), (x + 280, y + 100), rng.integers(0, 120, 3).tolist(), -1)
        text = "".join(rng.choice(list("ABCDEFGHKMPRSTUVWXYZ2345678"), 5))
        cv2.putText(pixels, text, (x + 20, y + 70), cv2.FONT_HERSHEY_SIMPLEX, 2.0, (255, 255, 255), 4, cv2.LINE_AA)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def calls(seed: int) -> list[ToolCall]:
    """Nine calls that depend on `seed`; a call on a handle that an earlier one failed to make fails too."""
    rng = np.random.default_rng(seed)

    def box(side: int) -> list[int]:
        x, y = rng.integers(0, 1000 - side, 2).tolist()
        return [x, y, x + side, y + side]

    return [
        ToolCall("ZOOM", {"on": "img0", "box": box(300)}),
        ToolCall("SEG", {"on": "img0", "box": box(200)}),
        ToolCall("PROP", {"of": "m1", "keys": ["area", "color"]}),
        ToolCall("ZOOM", {"on": "img1", "box": box(400)}),
        ToolCall("OCR", {"on": "img2"}),
        ToolCall("SEG", {"on": "img1", "point": rng.integers(0, 1000, 2).tolist()}),
        ToolCall("ZOOM", {"on": "img0", "box": box(150)}),
        ToolCall("OCR", {"on": "img0", "box": box(100), "level": "line"}),
        ToolCall("PROP", {"of": "img3", "keys": ["color", "brightness"]}),
    ]


def rss() -> float:
    """Resident megabytes of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def act(model: Model, toolbox: Toolbox, sha: str, told: list[dict[str, float]]) -> Group:
    """The group; `told` gets the memory in use after each turn."""
    renderer, store = Renderer(model), toolbox.store
    task = Task("wide", "What is the code on the red plate?", (sha,), family="code")
    episodes = [Episode(task, f"wide/{r}", (0, 0, r), store, renderer, Limits(calls=TURNS)) for r in range(ROLLOUTS)]
    plans = [calls(r) for r in range(ROLLOUTS)]
    for number in range(TURNS):
        for episode, plan in zip(episodes, plans, strict=True):
            call, answer = (plan[number], None) if number < len(plan) else (None, "K7P")
            said = tuple(renderer.recite("", call, answer))
            turn([episode], [Completion(said, (-0.5,) * len(said), (0, 0))], toolbox)
        told.append({"turn": number + 1, "cached_mb": store._cached / 1e6, "rss_mb": rss()})
    return Group("wide", tuple(e.trajectory() for e in episodes))


def stored(group: Group, data: bytes) -> dict[str, int]:
    """Bytes on disk of the group in a fresh shard."""
    with tempfile.TemporaryDirectory() as folder:
        shard = ReplayShard(Path(folder))
        shard.add("bench", 0, [group], {group.media[0]: data})
        sizes = {p: p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()}
        media = sum(size for p, size in sizes.items() if "media" in p.parts)
        shard.close()
    return {"image": len(data), "media_beyond_image": media - len(data), "rest": sum(sizes.values()) - media}


def main() -> None:
    """Runs all of it."""
    torch.set_num_threads(1)
    data, small = picture(0), nano.build(0)
    wide = Model(small.net, small.tokenizer, Card(image_area=1_003_520, max_scale=1.0, grid=small.card.grid))
    figures: dict[str, object] = {"rollouts": ROLLOUTS, "turns": TURNS}
    toolbox = Toolbox(MediaStore(), deadline=120)  # one for both: the second group has the results of the first
    for name, model in (("nano", small), ("wide", wide)):
        told: list[dict[str, float]] = []
        group = act(model, toolbox, toolbox.store.put(data), told)
        results = [turn.result for t in group.trajectories for turn in t.turns if turn.result is not None]
        found = stored(group, data)
        beyond = (found["media_beyond_image"] + found["rest"]) / 1e6
        calls_ok = sum(r.ok for r in results)
        figures[name] = {
            **found,
            "tokens": sum(len(t) for t in group.trajectories),
            "calls": len(results),
            "calls_ok": calls_ok,
            "memory": told,
        }
        tokens = sum(len(t) for t in group.trajectories)
        print(f"{name}: {len(results)} calls ({calls_ok} ok), {tokens} tokens; image {len(data) / 1e6:.2f} MB")
        print(f"{name}: stored beyond the image {beyond:.3f} MB   bar < 10")
        for line in told:
            print(f"{name}: after turn {line['turn']:2}  cache {line['cached_mb']:7.1f} MB   process {line['rss_mb']:7.1f} MB")
    figures["images"] = grows_with_images()
    keep("media", figures)


def grows_with_images() -> list[dict[str, float]]:
    """Memory after the pixels of 1, 2, ... distinct pictures have been looked at."""
    store, told = MediaStore(), []
    toolbox = Toolbox(store)
    renderer = Renderer(nano.build(0))
    for count in range(1, IMAGES + 1):
        task = Task(f"t{count}", "?", (store.put(picture(count)),))
        episode = Episode(task, task.id, (0, 0, 0), store, renderer, Limits())
        said = tuple(renderer.recite("", calls(0)[0], None))
        turn([episode], [Completion(said, (0.0,) * len(said), (0, 0))], toolbox)
        told.append({"images": count, "cached_mb": store._cached / 1e6, "rss_mb": rss()})
        print(f"{count} images: cache {told[-1]['cached_mb']:7.1f} MB   process {told[-1]['rss_mb']:7.1f} MB")
    return told


if __name__ == "__main__":
    main()
