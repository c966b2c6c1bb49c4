"""Argument heads: what they cost, where they look, and that they learn (paper 4.2, section 15)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pixelis.actors import nano
from pixelis.actors.render import Renderer
from pixelis.learners.batch import collate
from pixelis.learners.heads import Heads, HeadSettings, box_losses, calls_of, op_losses, point_losses, time_losses
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.learners.ranks import Ranks
from pixelis.learners.reference import states_and_logprobs
from pixelis.memory import checkpoint
from pixelis.memory.model import FeatureCache, Model
from pixelis.memory.trajectory import Group, Trajectory, Turn
from pixelis.tools.call import ToolCall
from pixelis.tools.frame import View
from pixelis.tools.media import MediaStore
from tests.fakes_media import png, rectangles

PAPER = HeadSettings(box=0.2, point=0.2, time=0.2, op=0.05)
READ = ToolCall("OCR", {"on": "img0", "box": [125, 250, 500, 375], "level": "line"})
CALLS = (
    READ,
    ToolCall("SEG", {"on": "img0", "point": [500, 750]}),
    ToolCall("TEMP", {"on": "img0", "window": [250, 500], "k": 1}),
    ToolCall("TRK", {"on": "img0", "box": [0, 0, 500, 500], "t0": 250}),
    ToolCall("PROP", {"of": "m1", "keys": ["color"]}),
)


@pytest.fixture
def model() -> Model:
    torch.set_num_threads(1)
    return nano.build(seed=1)


@pytest.fixture
def store() -> MediaStore:
    return MediaStore(None)


def demonstration(model: Model, store: MediaStore, number: int, calls: Sequence[ToolCall] = CALLS) -> Trajectory:
    """A picture, some calls, each with an observation, and an answer."""
    source, renderer = store.put(png(rectangles(number, 224))), Renderer(model)
    view = View(source, (0, 0, 224, 224))
    seen, views, turns = [*model.layout.placeholders(view), *renderer.encode("What is the code?")], (view,), []
    for call in (*calls, None):
        said = renderer.recite("Look for red. ", call, None if call else "K7P")
        turns.append(Turn(tuple(seen), tuple(said), (-1.0,) * len(said), views, call, roles=renderer.roles(said)))
        seen, views = renderer.encode('{"ok":true,"ref":"img1"}'), ()
    return Trajectory(f"t{number}", "t", "?", (source,), tuple(turns), "K7P")


def group(trajectory: Trajectory) -> Group:
    return Group("t", (trajectory,))


def hidden(model: Model, store: MediaStore, trajectory: Trajectory) -> torch.Tensor:
    batch = collate([trajectory], model.layout)
    with torch.no_grad():
        return states_and_logprobs(model, batch, FeatureCache(model, store).get(batch.views))[0]


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers])


def test_losses_are_those_of_the_paper() -> None:
    assert float(point_losses(row(0.55, 0.45), row(0.5, 0.5))[0]) == pytest.approx(0.0125)
    assert float(point_losses(row(0.7, 0.3), row(0.5, 0.5))[0]) == pytest.approx(0.15)
    loss, (iou, good) = box_losses(row(0.0, 0.0, 0.5, 0.5), row(0.2, 0.2, 0.7, 0.7))
    assert float(iou) == pytest.approx(0.2195, abs=1e-4) and not good
    assert float(loss) == pytest.approx(0.15 + 0.5 * (1 - (0.2195 - (0.49 - 0.41) / 0.49)), abs=1e-4)
    assert float(time_losses(row(0.1, 0.45), row(0.2, 0.6))[0]) == pytest.approx((0.05 + 0.1) / 2 + 0.5)
    assert float(time_losses(row(0.1, 0.45), row(0.25, 0.25))[0]) == pytest.approx((0.1 + 0.15) / 2)
    assert float(op_losses(torch.zeros(1, 6), row(3.0))[0]) == pytest.approx(math.log(6))


def test_targets_are_what_the_calls_ask_for(model: Model, store: MediaStore) -> None:
    assert [asked.targets for asked in calls_of(demonstration(model, store, 0))] == [
        {"op": (3.0,), "box": (0.125, 0.25, 0.5, 0.375)},
        {"op": (0.0,), "point": (0.5, 0.75)},
        {"op": (4.0,), "time": (0.25, 0.5)},
        {"op": (2.0,), "box": (0.0, 0.0, 0.5, 0.5), "time": (0.25, 1.0)},
        {"op": (5.0,)},
    ]


def test_a_name_of_several_tokens_is_read_at_its_ends(model: Model, store: MediaStore) -> None:
    """As another tokenizer writes it: the op's head before the first of them, the others at the last."""
    renderer, trajectory = Renderer(model), demonstration(model, store, 0, [READ])
    first, answer = trajectory.turns
    letters = [token for letter in "OCR" for token in renderer.encode(letter)]
    name = renderer.encode("OCR")[0]
    at = first.sampled.index(name)
    spelt = (*first.sampled[:at], *letters, *first.sampled[at + 1 :])
    turn = replace(first, sampled=spelt, logprobs=(-1.0,) * len(spelt), roles=renderer.roles(spelt))
    [asked] = calls_of(replace(trajectory, turns=(turn, answer)))
    begin = len(first.observed) + at
    assert (asked.before, asked.named) == (begin - 1, begin + 2)
    [whole] = calls_of(trajectory)
    assert (whole.before, whole.named) == (begin - 1, begin)


def test_no_head_sees_what_it_foretells(model: Model, store: MediaStore) -> None:
    """Other coordinates in the call leave all that heads say as it is; another op only what its own head says."""
    heads = Heads(128, PAPER)

    def said(call: ToolCall) -> dict[str, torch.Tensor]:
        trajectory = demonstration(model, store, 0, [call])
        [asked] = calls_of(trajectory)
        states = hidden(model, store, trajectory)
        return {kind: heads(kind, states[:, asked.place(kind)]) for kind in heads.weights}

    one = said(READ)
    other = said(ToolCall("OCR", {**READ.arguments, "box": [625, 500, 875, 750]}))
    assert all(torch.equal(one[kind], other[kind]) for kind in one)
    zoom = said(ToolCall("ZOOM", {"on": "img0", "box": READ.arguments["box"]}))
    assert torch.equal(one["op"], zoom["op"]) and not torch.equal(one["box"], zoom["box"])


@pytest.mark.parametrize("kind", ["erroneous", "invalid"])
def test_what_must_not_be_imitated_is_no_target(model: Model, store: MediaStore, kind: str) -> None:
    trajectory = demonstration(model, store, 0)
    bad = trajectory.turns[0]
    assert bad.call is not None
    if kind == "erroneous":
        bad = replace(bad, roles=bad.roles.replace("g", "x"))
    else:
        bad = replace(bad, call=ToolCall("OCR", {"on": "img0", "box": [500, 250, 125, 375]}))
    flawed = replace(trajectory, turns=(bad, *trajectory.turns[1:]))
    assert calls_of(flawed) == calls_of(trajectory)[1:]


def test_turns_without_calls_cost_nothing(model: Model, store: MediaStore) -> None:
    """Steps on batches without calls are those without heads, to the bit, however gradients are clipped."""
    silent, ends, told = [group(demonstration(model, store, i, [])) for i in range(12)], [], []
    for settings in (HeadSettings(), PAPER):
        policy = nano.build(seed=1)
        learner = Learner(policy, store, LearnerSettings(heads=settings, clip=0.1, warmup=1))
        told.append([learner.update([one]) for one in silent])
        ends.append([p.detach().clone() for p in policy.net.parameters()])
    assert told[0] == told[1] and not any("head" in name for figures in told[1] for name in figures)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_heads_add_no_gradient_to_observations(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, LearnerSettings(heads=PAPER))
    states: list[torch.Tensor] = []

    def keep(_module: object, _inputs: object, out: torch.Tensor) -> None:
        out.retain_grad()
        states.append(out)

    trajectory = demonstration(model, store, 0)
    alone = gradient(learner, [trajectory], keep=keep)
    [last] = states
    before = torch.zeros(len(trajectory), dtype=torch.bool)
    before[torch.from_numpy(trajectory.mask).nonzero()[:, 0] - 1] = True
    assert last.grad is not None
    size = last.grad[0].abs().sum(-1)
    assert (size[~before] == 0).all() and (size[before] > 0).all()
    without = gradient(Learner(nano.build(seed=1), store, LearnerSettings()), [trajectory])
    assert any(not torch.equal(alone[name], without[name]) for name in without)


def gradient(learner: Learner, trajectories: Sequence[Trajectory], keep: object = None) -> dict[str, torch.Tensor]:
    """The gradient of one step, which is not taken."""
    samples, _ = learner._admit([group(t) for t in trajectories])
    hook = learner.model.net.model.language_model.norm.register_forward_hook(keep) if keep else None
    learner._gradient(samples, 0.0)
    if hook:
        hook.remove()
    return gradients(learner)


def gradients(learner: Learner) -> dict[str, torch.Tensor]:
    named = [*learner.model.net.named_parameters(), *learner.heads.named_parameters()]
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


class Half(Ranks):
    """One of two ranks, alone: what the other one adds is left to the test."""

    def add_up(self, parameters: object, figures: dict) -> dict:
        return figures


def unlike(model: Model, store: MediaStore) -> list[Trajectory]:
    """Trajectories of unlike numbers of calls of each kind, one of them without any."""
    some = [CALLS, CALLS[:1], (), (READ, READ, CALLS[1]), CALLS[2:]]
    return [demonstration(model, store, number, calls) for number, calls in enumerate(some)]


def test_the_gradient_is_that_of_the_whole_batch(model: Model, store: MediaStore) -> None:
    """However it is cut into micro-batches, and shared by ranks."""
    told = unlike(model, store)
    settings = LearnerSettings(heads=PAPER, micro_tokens=10**6)
    whole = gradient(Learner(model, store, settings), told)
    assert sum(name.startswith("parts.") for name in whole) == 14
    cut = gradient(Learner(nano.build(seed=1), store, replace(settings, micro_tokens=1)), told)
    halves = []
    for rank in range(2):
        learner = Learner(nano.build(seed=1), store, replace(settings, micro_tokens=200))
        learner.ranks = Half(rank, 2)
        halves.append(gradient(learner, told))
    assert whole.keys() == cut.keys() == halves[0].keys() == halves[1].keys()
    for name, expected in whole.items():
        torch.testing.assert_close(cut[name], expected, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(halves[0][name] + halves[1][name], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_heads_learn_and_an_untrained_one_does_not_pass(model: Model, store: MediaStore) -> None:
    """The boxes of a few pictures; on the same states a head that was never trained fails."""
    boxes = ([31, 62, 250, 187], [500, 625, 968, 750], [125, 500, 312, 937], [562, 31, 937, 312])
    told = [demonstration(model, store, i, [ToolCall("OCR", {"on": "img0", "box": box})]) for i, box in enumerate(boxes)]
    learner = Learner(model, store, LearnerSettings(lr=1e-3, warmup=1, heads=PAPER))
    first, *_, last = [learner.update([group(t) for t in told]) for _ in range(160)]
    assert first["head_box_iou"] < 0.3 and last["head_box_iou"] > 0.7
    assert last["head_box_good"] > first["head_box_good"] and last["head_op"] < 0.1 * first["head_op"]

    def iou(heads: Heads) -> float:
        found = []
        for trajectory in told:
            _, figures = heads.loss(hidden(model, store, trajectory), [trajectory], dict.fromkeys(heads.weights, 1))
            found.append(figures["head_box_iou"][0])
        return sum(found) / len(found)

    assert iou(learner.heads) > 0.7 > 0.4 > iou(Heads(128, PAPER))


def test_heads_are_trained_by_adamw_beside_muon(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, LearnerSettings(matrix_lr=0.01, warmup=1, heads=PAPER))
    muon, adamw = learner.optimizer.param_groups
    own = {id(p) for p in learner.heads.parameters()}
    assert own <= {id(p) for p in adamw["params"]} and own.isdisjoint(id(p) for p in muon["params"])
    before = [p.detach().clone() for p in learner.heads.parameters()]
    learner.update([group(demonstration(model, store, 0))])
    assert not any(torch.equal(a, b) for a, b in zip(before, learner.heads.parameters(), strict=True))


def test_a_resumed_run_equals_the_uninterrupted_one(model: Model, store: MediaStore, tmp_path: Path) -> None:
    """To the bit, by way of a checkpoint on disk."""
    settings = LearnerSettings(lr=3e-3, matrix_lr=0.01, warmup=1, heads=PAPER)
    batches = [[group(demonstration(model, store, i)), group(demonstration(model, store, i + 1))] for i in range(4)]
    one = Learner(model, store, settings)
    for batch in batches[:2]:
        one.update(batch)
    tensors, state, tables = one.state()
    found = checkpoint.load(checkpoint.save(tmp_path / "step-2", tensors, state, tables))
    other = Learner(nano.build(seed=1), store, settings)
    other.restore(found.tensors, found.state, found.tables)
    other.version = one.version
    for batch in batches[2:]:
        assert one.update(batch) == other.update(batch)
    assert len(one.parameters) == len(other.parameters)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters, other.parameters, strict=True))


def test_a_checkpoint_with_other_heads_is_refused(model: Model, store: MediaStore) -> None:
    tensors, state, tables = Learner(model, store, LearnerSettings()).state()
    assert "heads" not in tensors
    with pytest.raises(checkpoint.CheckpointError, match="optimizer state for groups"):
        Learner(model, store, LearnerSettings(heads=PAPER)).restore(tensors, state, tables)


def test_heads_stay_behind(model: Model, store: MediaStore, tmp_path: Path) -> None:
    """Neither what is broadcast nor the policy folder knows of them."""
    plain, learner = Learner(nano.build(seed=1), store, LearnerSettings()), Learner(model, store, LearnerSettings(heads=PAPER))
    learner.update([group(demonstration(model, store, 0))])
    assert learner.weights().keys() == plain.weights().keys() and learner.flat().plan == plain.flat().plan
    learner.save(tmp_path)
    assert Model.load(tmp_path).net.state_dict().keys() == model.net.state_dict().keys()
