"""The whole learning path on adapters beside a Qwen3-VL of the true kinds of layers at toy width."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import shapes
from pixelis.actors.engine import TransformersEngine
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutSettings, RolloutWorker
from pixelis.actors.tasks import TaskSource
from pixelis.learners.batch import by_length, collate
from pixelis.learners.corridor import CorridorSettings
from pixelis.learners.ema import EmaSettings
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.learners.loss import K3, k3_to
from pixelis.learners.probe import PROBED
from pixelis.learners.reference import logprobs
from pixelis.learners.ttrl import TtrlSettings
from pixelis.memory.lora import TEXT, LoraSettings, adapt, layers
from pixelis.memory.model import FeatureCache, Model, ModelError, Precision
from pixelis.memory.trajectory import Group, Trajectory
from pixelis.memory.weights import unflatten
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox
from tests.learners.questions import asked
from tests.learners.test_agreement import sampled
from tests.learners.test_heads import CALLS, PAPER, demonstration
from tests.learners.test_learner import contrast, episode, honest

LORA = LoraSettings(rank=4, alpha=8)
RFT = LearnerSettings(loss="grpo", lr=1e-2, warmup=1, lora=LORA, corridor=CorridorSettings(high=0.0))
SFT = LearnerSettings(lr=1e-2, warmup=1, lora=LORA)


@pytest.fixture
def model() -> Model:
    torch.set_num_threads(1)
    return shapes.build("toy", seed=1)


@pytest.fixture
def store() -> MediaStore:
    return MediaStore(None)


def parameters(model: Model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.net.named_parameters()}


def moved(before: dict[str, torch.Tensor], model: Model) -> set[str]:
    return {name for name, p in model.net.named_parameters() if not torch.equal(before[name], p)}


@pytest.mark.parametrize("settings", [SFT, RFT], ids=["sft", "rft"])
def test_only_adapters_train_travel_and_are_saved(model: Model, store: MediaStore, settings: LearnerSettings) -> None:
    learner = Learner(model, store, settings)
    before = parameters(model)
    assert learner.update([contrast(model, store)])["skipped"] == 0
    changed = moved(before, model)
    assert changed and all("lora_" in name for name in changed)
    assert {name.split(".")[2] for name in changed} == {"layers", "blocks", "merger", "deepstack_merger_list"}
    names = {name for name in before if "lora_" in name}
    tensors, *_ = learner.state()
    assert {slot.name for slot in learner.flat().plan} == set(tensors["model"]) == names


def test_the_reference_is_the_network_without_adapters(model: Model, store: MediaStore) -> None:
    """It needs no copy, and neither its words nor what it sees move with training."""
    learner = Learner(model, store, replace(RFT, corridor=CorridorSettings(low=0.0, high=9.0)))
    assert learner.reference and learner.reference.model.net is model.net
    some = contrast(model, store)
    members = {(0, k): t for k, t in enumerate(some.trajectories)}
    before = learner._read(members)
    plain = shapes.build("toy", seed=1)
    views = some.trajectories[0].views
    figures = learner.update([some])
    assert figures[PROBED] > 0
    assert torch.equal(before[0, 0].logprobs, learner._read(members)[0, 0].logprobs)
    assert not torch.equal(FeatureCache(model, store).get(views)[0].pooled, learner._still.get(views)[0].pooled)
    assert torch.equal(FeatureCache(plain, store).get(views)[0].pooled, learner._still.get(views)[0].pooled)


def test_an_average_of_adapters_is_worn_by_the_same_network(model: Model, store: MediaStore) -> None:
    """The reference of TTRL needs no copy either, and asking it leaves the policy as it was, to the bit."""
    settings = replace(RFT, loss="ttrl", ttrl=TtrlSettings(ema=EmaSettings(0.5)))
    learner, one = Learner(model, store, settings), asked(model, store, 0)
    assert learner.reference and learner.reference.model.net is model.net
    members, start = {(0, k): t for k, t in enumerate(one.group.trajectories)}, parameters(model)
    before = learner._read(members)[0, 0].logprobs
    figures = learner.update([one])
    assert figures["skipped"] == 0 and figures[f"{k3_to('ema')}_token_mean"] == pytest.approx(0.0, abs=1e-6)
    after = parameters(model)
    half = learner._read(members)[0, 0].logprobs
    assert not moved(after, model) and moved(start, model)
    assert learner.ttrl and learner.ttrl.ema and all("lora_" in name for name in learner.ttrl.ema.weights)
    with torch.no_grad():
        for name, p in model.net.named_parameters():
            p.copy_((start[name] + after[name]) / 2)
    batch = collate([one.group.trajectories[0]], model.layout)
    assert torch.allclose(half, logprobs(model, batch, learner._features(batch.views)), atol=1e-5)
    assert not torch.allclose(half, before, atol=1e-5)


def test_pictures_are_encoded_once_where_text_alone_has_adapters(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, replace(SFT, lora=replace(LORA, targets=TEXT)))
    learner.update([Group("t", (episode(model, store, 0),))])
    assert len(learner.features._kept) == 2
    assert not any("visual" in slot.name for slot in learner.flat().plan)


def test_a_learner_goes_on_from_its_state(model: Model, store: MediaStore) -> None:
    learner, group = Learner(model, store, SFT), Group("t", (episode(model, store, 0),))
    learner.update([group])
    tensors, state, tables = learner.state()
    kept = {part: {name: t.detach().clone() for name, t in named.items()} for part, named in tensors.items()}
    learner.update([group])
    other = Learner(shapes.build("toy", seed=1), store, SFT, (0, 1))
    other.restore(kept, state, tables)
    other.update([group])
    assert not moved(parameters(model), other.model)


def test_whole_weights_do_not_train_in_bfloat16(store: MediaStore) -> None:
    with pytest.raises(ModelError, match=r"too coarse for steps: set learner\.lora\.rank"):
        Learner(shapes.build("toy", torch.bfloat16), store, LearnerSettings())


def recited(model: Model, store: MediaStore, engine: TransformersEngine) -> list[Trajectory]:
    """Demonstrations of both families with their pictures and crops."""
    source = TaskSource(("code", "clip"), "demo", store)
    worker = RolloutWorker(source, Toolbox(store), Renderer(model), engine, RolloutSettings(), run=0)
    return [g.trajectories[0] for g in worker.recite(range(4)) if not g.trajectories[0].family.endswith("caption")]


def apart(learner: Learner, trajectories: list[Trajectory]) -> float:
    """The mean difference of a log-prob, engine against learner, which encodes pictures anew for every batch."""
    batch = collate(trajectories, learner.model.layout)
    with torch.no_grad():
        return float((logprobs(learner.model, batch, learner._features(batch.views)) - batch.old).abs().mean())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sft_and_rft_with_engine_and_learner(dtype: Precision, store: MediaStore, tmp_path: Path) -> None:
    """A teacher recites, adapters imitate; the saved policy acts in an engine with adapters of its own, and learns from that.

    After each update the engine takes the adapters alone, and says the same as the learner of what it samples.
    """
    torch.set_num_threads(1)
    near = 5e-5 if dtype == "float32" else 5e-3
    start = shapes.build("toy", getattr(torch, dtype), seed=1)
    told = recited(start, store, TransformersEngine(start, store, frozenset()))
    sft = Learner(start, store, SFT)
    first, *_, last = [sft.update([Group(t.task_id, (t,)) for t in told])["nll"] for _ in range(8)]
    assert last < 0.95 * first
    sft.save(tmp_path / "sft")

    learner = Learner(Model.load(tmp_path / "sft", dtype), store, RFT)
    acting = Model.load(tmp_path / "sft", dtype)
    adapt(acting, LORA)
    engine = TransformersEngine(acting, store, Renderer(acting).stop)
    said = sampled(engine, told)
    assert apart(learner, said) < near
    rewarded = tuple(replace(t, task_id="t", rewards={"answer": float(i % 2)}) for i, t in enumerate(said))
    figures = learner.update([Group("t", rewarded)])
    assert figures["skipped"] == 0 and figures[f"{K3}_token_mean"] == pytest.approx(0.0, abs=1e-6)
    assert apart(learner, said) > 0.03
    array, plan = learner.flat().array().copy(), learner.flat().plan
    assert len(array) < 0.5 * sum(p.numel() * p.element_size() for p in acting.net.parameters())
    engine.load(unflatten(array, plan), learner.version, vision_changed=True)
    assert apart(learner, sampled(engine, told)) < near
    learner.save(tmp_path / "rft")
    assert not layers(Model.load(tmp_path / "rft").net)


def gradients(model: Model, store: MediaStore, settings: LearnerSettings, group: Group) -> tuple[dict, dict[str, float]]:
    """What one update would do, and its figures."""
    learner = Learner(model, store, settings)
    figures = learner.update([group])
    assert figures["skipped"] == 0
    return {name: p.grad.clone() for name, p in model.net.named_parameters() if p.grad is not None}, figures


def three(model: Model, store: MediaStore) -> Group:
    """Episodes of three lengths, two right and one wrong."""
    said = [honest(model, store, episode(model, store, i, text)) for i, text in enumerate(("K7P", "A", "LONGER CODE"))]
    return Group("t", tuple(replace(t, rewards={"answer": float(i % 2)}) for i, t in enumerate(said)))


WHOLE = LearnerSettings(lr=1e-3, warmup=1)
RFT_WHOLE = replace(WHOLE, loss="grpo", corridor=CorridorSettings(low=0.0, high=9.0))
CASES = {"sft": WHOLE, "rft": RFT_WHOLE, "sft lora": SFT, "rft lora": replace(RFT, corridor=RFT_WHOLE.corridor)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ["pack", "checkpointing"])
def test_packed_or_checkpointed_it_is_the_same_step(case: str, way: str, store: MediaStore) -> None:
    """Losses, the KL on probes, step embeddings behind the rewards, and every gradient."""
    torch.set_num_threads(1)
    group = three(shapes.build("toy", seed=1), store)
    plain, told = gradients(shapes.build("toy", seed=1), store, CASES[case], group)
    other, also = gradients(shapes.build("toy", seed=1), store, replace(CASES[case], **{way: True}), group)
    assert plain.keys() == other.keys() and any(g.abs().max() > 1e-4 for g in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(other[name], gradient, rtol=1e-3, atol=1e-6)
    assert also == pytest.approx(told, rel=1e-3, abs=1e-5)


def test_heads_read_packed_trajectories_where_they_stand(store: MediaStore) -> None:
    """Their losses and gradients do not depend on what stands before a trajectory in its row."""
    torch.set_num_threads(1)
    told: list[dict[str, float]] = []
    gradients: list[list[torch.Tensor]] = []
    for pack in (False, True):
        model = shapes.build("toy", seed=1)
        some = [demonstration(model, store, i, CALLS[i:]) for i in range(3)]
        learner = Learner(model, store, replace(SFT, heads=PAPER, pack=pack, micro_tokens=3000))
        told.append(learner.update([Group("t", (t,)) for t in some]))
        gradients.append([p.grad.clone() for p in learner.heads.parameters() if p.grad is not None])
    assert told[1]["head_box"] > 0 and len(gradients[1]) == 14
    assert told[1] == pytest.approx(told[0], rel=1e-3, abs=1e-5)
    for packed, padded in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-3, atol=1e-6)


def test_checkpointed_layers_are_computed_twice(model: Model, store: MediaStore) -> None:
    """Of text and, as adapters are in vision too, of vision."""
    learner, calls = Learner(model, store, replace(SFT, checkpointing=True)), dict.fromkeys(("text", "vision"), 0)

    def count(what: str) -> None:
        calls[what] += 1

    model.net.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: count("text"))
    model.net.model.visual.blocks[0].mlp.register_forward_pre_hook(lambda *_: count("vision"))
    learner.update([Group("t", (episode(model, store, 0),))])
    assert calls == {"text": 2, "vision": 2}


def test_packed_trajectories_are_blind_to_each_other(model: Model, store: MediaStore) -> None:
    """Log-probs beside another trajectory are those beside a third one, and those alone."""
    one, *others = three(model, store).trajectories
    cache, count = FeatureCache(model, store), int(one.mask.sum())

    def said(some: list[Trajectory]) -> torch.Tensor:
        batch = collate(some, model.layout, pack=True)
        assert batch.tokens.shape == (1, sum(map(len, some)))
        with torch.no_grad():
            found = logprobs(model, batch, cache.get(batch.views))
        return found[batch.row == some.index(one)]

    alone = said([one])
    assert len(alone) == count
    for other in others:
        torch.testing.assert_close(said([other, one]), alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(said([one, other]), alone, rtol=1e-4, atol=1e-5)


def test_packed_batches_hold_what_their_tokens_say(model: Model, store: MediaStore) -> None:
    some = list(three(model, store).trajectories)
    lengths = sorted(map(len, some))
    assert list(map(len, by_length(some, sum(lengths), pack=True))) == [3]
    assert list(map(len, by_length(some, sum(lengths)))) != [3]
    assert list(map(len, by_length(some, sum(lengths) - 1, pack=True))) == [2, 1]
