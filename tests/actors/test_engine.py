"""The engine against a plain forward: same tokens, same positions, same log-probs, whatever is batched with what."""

import numpy as np
import pytest
import torch

from pixelis.actors import nano
from pixelis.actors.engine import Completion, Request, TransformersEngine
from pixelis.actors.render import Renderer
from pixelis.learners.batch import collate
from pixelis.learners.reference import logprobs
from pixelis.memory.model import FeatureCache, Model
from pixelis.memory.trajectory import Trajectory, Turn
from pixelis.tools.frame import View
from pixelis.tools.media import MediaStore
from tests.fakes_media import png, rectangles

SIZE = 224


@pytest.fixture(scope="module")
def model() -> Model:
    torch.set_num_threads(1)
    return nano.build(seed=3)


@pytest.fixture(scope="module")
def store() -> MediaStore:
    return MediaStore(None)


def dialogue(model: Model, store: MediaStore, episode: int, turns: int) -> list[tuple[list[int], list[View]]]:
    """What the environment adds before each turn of one episode: a picture first, then text or a crop."""
    source = store.put(png(rectangles(episode, SIZE)))
    encode, layout = Renderer(model).encode, model.layout
    whole = View(source, (0, 0, SIZE, SIZE))
    added = [([*encode("<|im_start|>user\n"), *layout.placeholders(whole), *encode("List the plates.")], [whole])]
    for turn in range(1, turns):
        crop = View(source, (8 * turn, 4, 8 * turn + 90 + 30 * episode, 60))
        shows = (turn + episode) % 2 == 0
        text = encode('{"ok":true,"ref":"img1"}' if shows else '{"ok":true,"data":{"text":"K7P"}}')
        added.append(([*text, *(layout.placeholders(crop) if shows else [])], [crop] if shows else []))
    return added


def run(engine: TransformersEngine, dialogues: dict[str, list], temperature: float = 1.0) -> dict[str, Trajectory]:
    """Play the dialogues together and return what was sampled as trajectories."""
    tokens: dict[str, tuple[int, ...]] = dict.fromkeys(dialogues, ())
    views: dict[str, tuple[View, ...]] = dict.fromkeys(dialogues, ())
    turns: dict[str, list[Turn]] = {name: [] for name in dialogues}
    for number in range(max(map(len, dialogues.values()))):
        live = [name for name, added in dialogues.items() if number < len(added)]
        for name in live:
            tokens[name] += tuple(dialogues[name][number][0])
            views[name] += tuple(dialogues[name][number][1])
        seeds = {name: (7, int(name.split("/")[0]), int(name.split("/")[1]), number) for name in live}
        asked = [Request(n, tokens[n], views[n], seeds[n], 6 + int(n[0]) % 3, temperature) for n in live]
        for name, done in zip(live, engine.generate(asked), strict=True):
            observed, shown = dialogues[name][number]
            turns[name].append(Turn(tuple(observed), done.tokens, done.logprobs, tuple(shown), version=done.version))
            tokens[name] += done.tokens
        engine.close(n for n in live if number + 1 == len(dialogues[n]))
    media = {name: (added[0][1][0].source,) for name, added in dialogues.items()}
    return {n: Trajectory(n, n, "?", media[n], tuple(some)) for n, some in turns.items()}


def plain(model: Model, store: MediaStore, trajectory: Trajectory) -> np.ndarray:
    """Log-probs of the sampled tokens by one forward over the whole sequence."""
    batch = collate([trajectory], model.layout)
    with torch.no_grad():
        return logprobs(model, batch, FeatureCache(model, store, torch.float32).get(batch.views)).numpy()


def test_logprobs_equal_a_plain_forward_on_multi_turn_episodes_with_images(model: Model, store: MediaStore) -> None:
    """Ragged episodes, several rollouts of one prompt, crops of different sizes in later turns."""
    engine = TransformersEngine(model, store, stop=Renderer(model).stop)
    engine.features.dtype = torch.float32
    dialogues = {f"{e}/{r}": dialogue(model, store, e, turns=2 + e) for e in range(3) for r in range(2)}
    for name, trajectory in run(engine, dialogues).items():
        difference = np.abs(trajectory.logprobs[trajectory.mask] - plain(model, store, trajectory)).max()
        assert difference < 1e-4, f"episode {name}: engine and forward differ by {difference}"


def test_a_rollout_does_not_depend_on_what_it_is_batched_with(model: Model, store: MediaStore) -> None:
    alone, together = (TransformersEngine(model, store, Renderer(model).stop) for _ in range(2))
    dialogues = {f"{e}/0": dialogue(model, store, e, turns=3) for e in range(3)}
    crowd = run(together, dialogues)
    for name, added in dialogues.items():
        assert run(alone, {name: added})[name].tokens.tolist() == crowd[name].tokens.tolist()


def test_a_prompt_is_read_once_for_its_whole_group(model: Model, store: MediaStore) -> None:
    class Counting(FeatureCache):
        asked = 0

        def get(self, views):  # type: ignore[no-untyped-def]
            self.asked += len(views)
            return super().get(views)

    engine = TransformersEngine(model, store, Renderer(model).stop)
    engine.features = Counting(model, store)
    run(engine, {f"0/{r}": dialogue(model, store, 0, turns=1) for r in range(8)})
    assert engine.features.asked == 1


def test_the_stop_token_ends_a_turn_and_is_part_of_it(model: Model, store: MediaStore) -> None:
    every = frozenset(range(len(model.tokenizer)))
    engine = TransformersEngine(model, store, stop=every)
    tokens, views = dialogue(model, store, 0, turns=1)[0]
    [done] = engine.generate([Request("0/0", tuple(tokens), tuple(views), (1,), 9, 1.0)])
    assert isinstance(done, Completion) and len(done.tokens) == len(done.logprobs) == 1


def test_weights_change_between_episodes_only(model: Model, store: MediaStore) -> None:
    engine = TransformersEngine(model, store, stop=Renderer(model).stop)
    tokens, views = dialogue(model, store, 0, turns=1)[0]
    engine.generate([Request("0/0", tuple(tokens), tuple(views), (1,), 3, 1.0)])
    with pytest.raises(RuntimeError, match="1 sessions are open"):
        engine.load({}, (0, 1), vision_changed=False)
    engine.close(["0/0"])
    engine.load({}, (0, 1), vision_changed=False)
    assert engine.version == (0, 1)


def test_sampling_follows_the_distribution(model: Model, store: MediaStore) -> None:
    """400 first tokens of one prompt: the frequency of the likeliest ones matches their reported probability."""
    engine = TransformersEngine(model, store, stop=frozenset(range(len(model.tokenizer))))
    tokens, views = dialogue(model, store, 1, turns=1)[0]
    asked = [Request(f"1/{r}", tuple(tokens), tuple(views), (5, r), 1, 1.0) for r in range(400)]
    first = [(c.tokens[0], c.logprobs[0]) for c in engine.generate(asked)]
    probability = dict(first)
    for token in sorted(probability, key=probability.__getitem__)[-3:]:
        expected = np.exp(probability[token])
        seen = sum(t == token for t, _ in first) / len(first)
        assert abs(seen - expected) < 5 * np.sqrt(expected * (1 - expected) / len(first)) + 1e-3
