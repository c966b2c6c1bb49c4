"""The learner: what may carry a gradient, what is left out, and when a step is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pixelis.actors import nano
from pixelis.actors.render import Renderer
from pixelis.learners.batch import collate
from pixelis.learners.corridor import CorridorError, CorridorSettings
from pixelis.learners.curiosity import Senses
from pixelis.learners.ema import Ema, EmaSettings
from pixelis.learners.intrinsic import Intrinsic, IntrinsicSettings
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.learners.loss import GrpoSettings
from pixelis.learners.probe import PROBED
from pixelis.learners.reference import logprobs
from pixelis.memory.model import FeatureCache, Model
from pixelis.memory.trajectory import Group, Trajectory, Turn
from pixelis.tools.call import ToolCall, ToolResult
from pixelis.tools.frame import View
from pixelis.tools.media import MediaStore
from tests.fakes_media import png, rectangles

OPEN = CorridorSettings(high=0.0)


@pytest.fixture
def model() -> Model:
    torch.set_num_threads(1)
    return nano.build(seed=1)


@pytest.fixture
def store() -> MediaStore:
    return MediaStore(None)


def episode(model: Model, store: MediaStore, number: int, text: str = "K7P", **changes: object) -> Trajectory:
    """Two turns with a picture each: a call, its observation with a crop, an answer."""
    source, renderer = store.put(png(rectangles(number, 224))), Renderer(model)
    whole, crop = View(source, (0, 0, 224, 224)), View(source, (10, 10, 120, 60))
    shown = model.layout.placeholders
    ask = (*renderer.encode("<|im_start|>user\n"), *shown(whole), *renderer.encode("List the plates."))
    see = (*renderer.encode('{"ok":true,"ref":"img1"}'), *shown(crop))
    call, answer = tuple(renderer.encode("<tool_call>OCR")), tuple(renderer.encode(f"<answer>{text}</answer>"))
    turns = (
        Turn(ask, call, (-1.0,) * len(call), (whole,)),
        Turn(see, answer, (-1.0,) * len(answer), (crop,)),
    )
    return replace(Trajectory(f"t{number}", "t", "?", (source,), turns, text), **changes)  # type: ignore[arg-type]


def state(model: Model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.net.named_parameters()}


@pytest.mark.parametrize("loss", ["imitation", "grpo"])
def test_only_states_before_sampled_tokens_carry_a_gradient(model: Model, store: MediaStore, loss: str) -> None:
    """Exactly zero everywhere else: breaking the loss mask turns this red."""
    learner = Learner(model, store, LearnerSettings(loss=loss))  # type: ignore[arg-type]
    states: list[torch.Tensor] = []

    def keep(_module: object, _inputs: object, out: torch.Tensor) -> None:
        if out.requires_grad:
            out.retain_grad()
            states.append(out)

    handle = model.net.model.language_model.norm.register_forward_hook(keep)
    one, other = honest(model, store, episode(model, store, 0)), honest(model, store, episode(model, store, 1, "A"))
    states.clear()
    group = Group("t", (replace(one, rewards={"answer": 1.0}), replace(other, rewards={"answer": 0.0})))
    figures = learner.update([group])
    handle.remove()
    assert figures["skipped"] == 0
    [hidden] = [h for h in states if h.grad is not None]
    rows = sorted((one, other), key=len)
    assert hidden.shape[:2] == (2, max(len(one), len(other)))
    for row, trajectory in enumerate(rows):
        before_sampled = np.zeros(hidden.shape[1], bool)
        before_sampled[np.flatnonzero(trajectory.mask) - 1] = True
        size = hidden.grad[row].abs().sum(-1).numpy()
        assert (size[~before_sampled] == 0).all()
        assert (size[before_sampled] > 0).all()


def test_imitation_learns_the_demonstration(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, LearnerSettings(lr=3e-3, warmup=1))
    group = Group("t", (episode(model, store, 0),))
    first, *_, last = [learner.update([group])["nll"] for _ in range(12)]
    assert last < 0.5 * first


def test_rates_rise_stay_and_fall_to_the_end_of_the_phase(model: Model, store: MediaStore) -> None:
    settings = LearnerSettings(lr=1e-3, warmup=2, decay=4)
    group, rates = Group("t", (episode(model, store, 0),)), []
    for learner in (Learner(model, store, settings, steps=8), Learner(model, store, settings)):
        for _ in range(8):
            learner.update([group])
            rates.append(1e3 * learner.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25, *[0.5], *[1] * 7])


def test_policy_gradient_moves_probability_to_the_better_rollout(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, LearnerSettings(loss="grpo", lr=1e-3, warmup=1))
    good, bad = episode(model, store, 0, "K"), episode(model, store, 0, "A")

    before = {t.answer: score_of(model, store, t) for t in (good, bad)}
    for _ in range(4):
        now = [replace(t, turns=honest(model, store, t).turns) for t in (good, bad)]
        rewarded = tuple(replace(t, rewards={"answer": float(t.answer == "K")}) for t in now)
        assert learner.update([Group("t", rewarded)])["skipped"] == 0
    after = {t.answer: score_of(model, store, t) for t in (good, bad)}
    assert after["K"] - before["K"] > after["A"] - before["A"]


def score_of(model: Model, store: MediaStore, trajectory: Trajectory) -> float:
    """Log-prob of the sampled tokens."""
    return float(token_logprobs(model, store, trajectory).sum())


def token_logprobs(model: Model, store: MediaStore, trajectory: Trajectory) -> torch.Tensor:
    batch = collate([trajectory], model.layout)
    with torch.no_grad():
        return logprobs(model, batch, FeatureCache(model, store).get(batch.views))


def honest(model: Model, store: MediaStore, trajectory: Trajectory) -> Trajectory:
    """The same tokens with the log-probs that the current weights give them."""
    values = token_logprobs(model, store, trajectory).tolist()
    turns = []
    for turn in trajectory.turns:
        count = len(turn.sampled)
        turns.append(replace(turn, logprobs=tuple(values[:count])))
        values = values[count:]
    return replace(trajectory, turns=tuple(turns))


def test_infrastructure_never_enters_the_loss(model: Model, store: MediaStore) -> None:
    """A group with two failed episodes gives the update of the group without them, to the bit."""
    kept = tuple(replace(episode(model, store, i), rewards={"answer": float(i)}) for i in range(2))
    lost = tuple(episode(model, store, 7 + i, status="infra", rewards={"answer": 0.0}) for i in range(2))
    ends = []
    for members in (kept, kept + lost):
        copy = nano.build(seed=1)
        figures = Learner(copy, store, LearnerSettings(loss="grpo")).update([Group("t", members)])
        ends.append((state(copy), figures["dropped_infra"]))
    assert [count for _, count in ends] == [0.0, 2.0]
    assert all(torch.equal(ends[0][0][name], ends[1][0][name]) for name in ends[0][0])


@pytest.mark.parametrize("loss", ["imitation", "grpo"])
def test_nothing_to_learn_from_is_no_step(model: Model, store: MediaStore, loss: str) -> None:
    """No group at all, or none whose episodes ended."""
    learner = Learner(model, store, LearnerSettings(loss=loss))  # type: ignore[arg-type]
    lost = Group("t", tuple(episode(model, store, k, status="infra") for k in range(2)))
    assert [learner.update(groups)["skipped"] for groups in ([], [lost])] == [1.0, 1.0]
    assert learner.version == (0, 0) and learner.left_out["infra"] == [(0, 0), (0, 1)]


def test_a_group_without_contrast_teaches_nothing(model: Model, store: MediaStore) -> None:
    before = state(model)
    group = Group("t", tuple(replace(episode(model, store, i), rewards={"answer": 1.0}) for i in range(3)))
    learner = Learner(model, store, LearnerSettings(loss="grpo"))
    assert learner.update([group])["skipped"] == 1 and learner.version == (0, 0)
    assert all(torch.equal(before[name], p) for name, p in model.net.named_parameters())


def test_a_group_with_contrast_stands_in_once_for_one_without(model: Model, store: MediaStore) -> None:
    alike = Group("t", tuple(replace(episode(model, store, i), rewards={"answer": 1.0}) for i in range(2)))
    only = IntrinsicSettings(curiosity=0.0, coherence=0.0)
    settings = LearnerSettings(loss="grpo", lr=1e-4, warmup=1, intrinsic=only, corridor=OPEN)
    learner = Learner(model, store, settings)
    told, stood_in = [], []
    for groups in ([contrast(model, store)], [alike, alike, contrast(model, store)], [alike]):
        told.append(learner.update(groups))
        stood_in.append(learner.stood_in)
    assert stood_in == [(), tuple(t.id for t in contrast(model, store).trajectories), ()]
    assert [figures["groups_refilled"] for figures in told] == [0.0, 1.0, 0.0]  # and with nothing new there is no step
    assert [figures["skipped"] for figures in told] == [0.0, 0.0, 1.0]
    assert learner.left_out["uniform"] == [(0, 0), (0, 1)] and learner.stood_in == ()
    lone = Learner(nano.build(seed=1), store, replace(settings, grpo=replace(settings.grpo, refill=0)))
    lone.update([contrast(model, store)])
    assert lone.update([alike, contrast(model, store)])["groups_refilled"] == 0.0


def test_dr_grpo_divides_by_a_constant_however_long_chains_are(model: Model, store: MediaStore) -> None:
    norms = {}
    for budget in (64, 256):
        settings = LearnerSettings(loss="grpo", grpo=GrpoSettings(form="dr_grpo", budget=budget), corridor=OPEN)
        norms[budget] = Learner(nano.build(seed=1), store, settings).update([contrast(model, store)])["grad_norm"]
    assert norms[64] == pytest.approx(4 * norms[256], rel=1e-3) and norms[256] > 0


def test_what_may_stand_in_is_part_of_a_checkpoint(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, LearnerSettings(loss="grpo", lr=1e-4, warmup=1, corridor=OPEN))
    learner.update([contrast(model, store)])
    other = Learner(nano.build(seed=1), store, LearnerSettings(loss="grpo", lr=1e-4, warmup=1))
    other.restore(*learner.state())
    [ours], [theirs] = learner.refill.take(1, 2), other.refill.take(1, 2)
    assert ours.step == theirs.step == 1 and ours.members == theirs.members
    assert learner.refill.take(1, 2) == []


def test_a_non_finite_loss_skips_the_step(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, LearnerSettings())
    group = Group("t", (episode(model, store, 0),))
    learner.update([group])
    with torch.no_grad():
        model.net.model.language_model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    before = state(model)
    figures = learner.update([group])
    assert figures["non_finite"] == 1 and learner.version == (0, 1)
    assert all(torch.equal(before[n].nan_to_num(7), p.nan_to_num(7)) for n, p in model.net.named_parameters())


def test_vision_stays_frozen_unless_it_is_trained(model: Model, store: MediaStore) -> None:
    before = state(model)
    Learner(model, store, LearnerSettings(lr=1e-2, warmup=1)).update([Group("t", (episode(model, store, 0),))])
    moved = {name for name, p in model.net.named_parameters() if not torch.equal(before[name], p)}
    assert moved and not any("visual" in name for name in moved)
    Learner(model, store, LearnerSettings(lr=1e-2, warmup=1, train_vision=True)).update(
        [Group("t", (episode(model, store, 0),))]
    )
    assert any("visual" in name for name, p in model.net.named_parameters() if not torch.equal(before[name], p))


def contrast(model: Model, store: MediaStore) -> Group:
    """A right and a wrong answer, as the policy would sample them now."""
    said = [honest(model, store, episode(model, store, 0, text)) for text in ("K", "A")]
    return Group("t", tuple(replace(t, rewards={"answer": float(t.answer == "K")}) for t in said))


def test_an_update_beyond_the_corridor_is_undone_and_made_smaller(model: Model, store: MediaStore) -> None:
    corridor = CorridorSettings(low=0.0, high=0.01)
    learner = Learner(model, store, LearnerSettings(loss="grpo", lr=0.02, warmup=1, corridor=corridor))
    before, beta = state(model), learner.corridor.beta
    figures = learner.update([contrast(model, store)])
    assert figures["undone"] >= 1 and figures[PROBED] <= 1.5 * corridor.high
    assert figures["beta"] == min(1.0, beta * 2 ** figures["undone"]) and learner.corridor.undone == figures["undone"]
    assert learner.version == (0, 1)
    assert any(not torch.equal(before[name], p) for name, p in model.net.named_parameters())


def test_undone_again_and_again_the_run_ends_where_it_was(model: Model, store: MediaStore) -> None:
    corridor = CorridorSettings(low=0.0, high=1e-15, undos=3)
    learner = Learner(model, store, LearnerSettings(loss="grpo", lr=0.1, warmup=1, corridor=corridor))
    before = state(model)
    with pytest.raises(CorridorError, match=r"3 times in a row .* lower learner\.lr"):
        learner.update([contrast(model, store)])
    assert all(torch.equal(before[name], p) for name, p in model.net.named_parameters())
    assert learner.version == (0, 0)


def test_probes_are_the_first_rollouts_and_stay(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, LearnerSettings(loss="grpo", lr=1e-4, warmup=1))
    learner.update([contrast(model, store)])
    assert learner.probes is not None
    first = learner.probes.trajectories
    assert [t.id for t in first] == ["t0", "t0"]
    learner.update([contrast(model, store)])
    assert learner.probes.trajectories == first
    other = Learner(nano.build(seed=1), store, LearnerSettings(loss="grpo", lr=1e-4, warmup=1))
    tensors, packed, tables = learner.state()
    other.restore(tensors, packed, tables)
    assert other.probes is not None and other.probes.trajectories == first


def test_what_the_reference_sees_stays_while_vision_trains(model: Model, store: MediaStore) -> None:
    """Its own vision tower, and features of it: a KL to a moving reference would be none."""
    learner = Learner(model, store, LearnerSettings(loss="grpo", lr=1e-2, warmup=1, train_vision=True, corridor=OPEN))
    some = contrast(model, store)
    members = {(0, k): t for k, t in enumerate(some.trajectories)}
    before = learner._read(members)
    learner.update([some])
    assert torch.equal(before[0, 0].logprobs, learner._read(members)[0, 0].logprobs)


def test_a_group_of_equal_answers_has_contrast_where_chains_differ(model: Model, store: MediaStore) -> None:
    """Both are right, one used a tool: the bonus for use pays for it while too few do."""
    used = episode(model, store, 0)
    call, result = ToolCall("OCR", {"on": "img0"}), ToolResult(True, "OCR", data={"text": "K7P"})
    used = replace(used, turns=(replace(used.turns[0], call=call, result=result), used.turns[1]))
    group = Group("t", tuple(replace(t, rewards={"answer": 1.0}) for t in (used, *[episode(model, store, 0)] * 3)))
    only = IntrinsicSettings(curiosity=0.0, coherence=0.0)
    for bonus, skipped in ((0.0, 1.0), (0.5, 0.0)):
        settings = LearnerSettings(loss="grpo", intrinsic=replace(only, usage=bonus), corridor=OPEN)
        learner = Learner(nano.build(seed=1), store, settings)
        assert learner.update([group])["skipped"] == skipped


def test_a_component_that_never_differs_sets_off_an_alarm(model: Model, store: MediaStore) -> None:
    """Episodes without calls: there is nothing to be curious about."""
    senses = Senses(model, FeatureCache(model, store))
    intrinsic = Intrinsic(IntrinsicSettings(coherence=0.0), senses)
    some = {(0, k): episode(model, store, k) for k in range(2)}
    told = [intrinsic.rewards(some, {})[1]["curiosity_constant"] for _ in range(50)]
    assert told == [0.0] * 49 + [1.0]


def test_what_is_erroneous_is_not_imitated(model: Model, store: MediaStore) -> None:
    """Its recovery is (paper 4.1)."""
    whole = episode(model, store, 0)
    flawed = replace(whole, turns=(replace(whole.turns[0], roles="x" * len(whole.turns[0].sampled)), whole.turns[1]))
    rest = token_logprobs(model, store, whole)[len(whole.turns[0].sampled) :]
    told = Learner(model, store, LearnerSettings(lr=1e-9)).update([Group("t", (flawed,))])
    assert told["nll"] == pytest.approx(-float(rest.mean()), rel=1e-3)


def test_the_reference_can_follow_an_average_of_the_policy(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, LearnerSettings(loss="grpo", lr=0.01, warmup=1, corridor=OPEN))
    ema = Ema(learner.weights(), EmaSettings(0.5))
    one, before = episode(model, store, 0), token_logprobs(model, store, episode(model, store, 0))
    learner.update([contrast(model, store)])
    after = token_logprobs(model, store, one)
    assert learner.reference is not None

    def known() -> torch.Tensor:
        batch = collate([one], model.layout)
        assert learner.reference is not None
        return learner.reference.read(batch, learner.features.get(batch.views), [one])[0].logprobs

    assert torch.equal(known(), before) and not torch.equal(before, after)
    ema.update(learner.weights())
    learner.reference.follow(ema.weights)
    halfway = known()
    assert float((halfway - before).abs().max()) > 0 and float((halfway - after).abs().max()) > 0
    learner.reference.follow(learner.weights())
    assert torch.equal(known(), after) and torch.equal(token_logprobs(model, store, one), after)
    with pytest.raises(KeyError):
        learner.reference.follow({"no.such": torch.zeros(1)})
