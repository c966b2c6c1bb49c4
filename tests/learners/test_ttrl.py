"""The third phase: what is learned without a key, what is taken back to the bit, and what the journal says of it."""

import ast
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pixelis.actors import nano
from pixelis.actors.engine import TransformersEngine
from pixelis.actors.render import Renderer
from pixelis.learners.audit import lineage, rederive
from pixelis.learners.corridor import CorridorSettings
from pixelis.learners.ema import EmaSettings
from pixelis.learners.gate import GateSettings
from pixelis.learners.intrinsic import IntrinsicSettings
from pixelis.learners.judged import Judged
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.learners.loss import GrpoSettings, k3_to
from pixelis.learners.probe import probed
from pixelis.learners.ttrl import TtrlSettings
from pixelis.learners.vote import Ballot, Neighbour
from pixelis.memory import checkpoint, journal
from pixelis.memory.journal import Abstained, Accepted, Discarded, Entry, Journal
from pixelis.memory.lora import LoraSettings
from pixelis.memory.model import Model
from pixelis.memory.trajectory import Group
from pixelis.memory.weights import unflatten
from pixelis.tools.media import MediaStore
from tests.learners.questions import asked, question, rollouts
from tests.learners.test_learner import contrast, episode, score_of, state, token_logprobs

EDGES = CorridorSettings(low=0.1, high=0.2, window=2, undos=3)
SETTINGS = LearnerSettings(loss="ttrl", lr=1e-4, warmup=1, train_vision=True, corridor=EDGES)
PROBED = probed("ema")


@pytest.fixture
def model() -> Model:
    torch.set_num_threads(1)
    return nano.build(seed=1)


@pytest.fixture
def store() -> MediaStore:
    return MediaStore(None)


def bits(learner: Learner) -> dict[str, torch.Tensor]:
    """All that an update may change: weights, moments, average, reference."""
    tensors, _, _ = learner.state()
    named = {f"{part}.{name}": t.detach().clone() for part, some in tensors.items() for name, t in some.items()}
    assert learner.reference
    return named | {f"reference.{name}": p.detach().clone() for name, p in learner.reference.model.net.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def far(learner: Learner, *readings: float) -> None:
    """Let the probes say this, one reading after another and the last for ever."""
    left = list(readings)
    learner._probe = lambda: left.pop(0) if len(left) > 1 else left[0]  # type: ignore[method-assign]


def test_only_states_before_sampled_tokens_carry_a_gradient(model: Model, store: MediaStore) -> None:
    """Exactly zero everywhere else, in rollouts, replayed exemplars and demonstrations alike."""
    learner = Learner(model, store, replace(SETTINGS, corridor=replace(EDGES, probes=0), micro_tokens=10_000))
    learner.rehearse([episode(model, store, 7)])
    learner.ttrl.recall.add(0, [episode(model, store, 8)])  # type: ignore[union-attr]
    given = [asked(model, store, n) for n in range(4)]
    states: list[torch.Tensor] = []

    def keep(_module: object, _inputs: object, out: torch.Tensor) -> None:
        if out.requires_grad:
            out.retain_grad()
            states.append(out)

    handle = model.net.model.language_model.norm.register_forward_hook(keep)
    learner.version = (0, 1)  # where a demonstration is due too
    figures = learner.update(given)
    handle.remove()
    assert (figures["skipped"], figures["replayed"], figures["rehearsed"]) == (0, 1, 1)
    [hidden] = [h for h in states if h.grad is not None]
    every = sorted([t for one in given for t in one.group.trajectories] + [episode(model, store, n) for n in (8, 7)], key=len)
    size = hidden.grad.abs().sum(-1).numpy()
    assert len(size) == len(every) == 18
    for row, trajectory in enumerate(every):
        before_sampled = np.zeros(size.shape[1], bool)
        before_sampled[np.flatnonzero(trajectory.mask) - 1] = True
        assert (size[row][~before_sampled] == 0).all() and (size[row][before_sampled] > 0).all()


@pytest.mark.parametrize("rank", [0, 4])
def test_what_is_served_and_saved_is_the_average_and_saving_it_changes_nothing(
    model: Model, store: MediaStore, tmp_path: Path, rank: int
) -> None:
    learner = Learner(model, store, replace(SETTINGS, lr=1e-2, train_vision=not rank, lora=LoraSettings(rank)))
    learner.update([asked(model, store, 0)])
    before = bits(learner)
    learner.save(tmp_path)
    assert same(bits(learner), before) and learner.reference
    saved = Model.load(tmp_path)
    flat = learner.flat()
    mean, last = unflatten(flat.array().copy(), flat.plan), learner.weights()
    assert mean.keys() == last.keys() and any(not torch.equal(mean[name], last[name]) for name in mean)
    one = episode(model, store, 5)
    torch.testing.assert_close(token_logprobs(saved, store, one), token_logprobs(learner.reference.model, store, one))
    start = Learner(nano.build(seed=1), store, replace(SETTINGS, ttrl=TtrlSettings(anchor="start")))
    start.update([asked(model, store, 0)])
    flat = start.flat()
    mean, last = unflatten(flat.array().copy(), flat.plan), start.weights()
    assert all(torch.equal(mean[name], last[name]) for name in mean)


def test_an_accepted_question_makes_its_exemplar_likelier_and_the_dissenter_less(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, replace(SETTINGS, corridor=replace(EDGES, high=0.0)))
    one = asked(model, store, 0)
    lone = one.group.trajectories[3]
    assert one.exemplar and one.exemplar.answer == "K" and lone.rewards["vote"] < one.exemplar.rewards["vote"]
    before = [score_of(model, store, t) for t in (one.exemplar, lone)]
    for step in range(3):
        figures = learner.update([asked(model, store, 0)])
        assert figures["skipped"] == 0 and learner.version == (0, step + 1)
    best, other = (score_of(model, store, t) - was for t, was in zip((one.exemplar, lone), before, strict=True))
    assert best > 0 and best > other


def test_without_contrast_the_exemplar_is_imitated_and_there_is_no_policy_gradient(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, SETTINGS)
    one = asked(model, store, 0, "KKKK")
    before = token_logprobs(model, store, one.group.trajectories[0]).sum()
    figures = learner.update([one])
    assert figures["groups_uniform"] == 1 and figures["surrogate"] == 0 and figures["skipped"] == 0
    assert token_logprobs(model, store, one.group.trajectories[0]).sum() > before
    assert learner.left_out == {"infra": [], "abstained": []}


def test_what_is_served_changes_exactly_when_an_update_is_kept(model: Model, store: MediaStore) -> None:
    """By the log-probs of the engine that answers, which takes weights when their version is a newer one."""
    learner, served = Learner(model, store, SETTINGS), nano.build(seed=1)
    engine = TransformersEngine(served, store, Renderer(model).stop)
    one = episode(model, store, 5)

    def answers_with() -> torch.Tensor:
        if learner.version > engine.version:
            flat = learner.flat()
            engine.load(unflatten(flat.array().copy(), flat.plan), learner.version, vision_changed=True)
        return token_logprobs(served, store, one)

    first = answers_with()
    abstained = asked(model, store, 0, "KKAA")
    assert learner.update([abstained])["skipped"] == 1 and torch.equal(answers_with(), first)
    accepted, honest_probe = asked(model, store, 0), learner._probe
    far(learner, 0.0, 0.31)
    assert learner.update([accepted])["discarded"] == 1 and torch.equal(answers_with(), first)
    learner._probe = honest_probe  # type: ignore[method-assign]
    assert learner.update([accepted])["skipped"] == 0 and learner.version == (0, 1)
    assert not torch.equal(answers_with(), first) and engine.version == (0, 1)
    assert learner.reference and torch.equal(answers_with(), token_logprobs(learner.reference.model, store, one))


def test_an_update_beyond_the_corridor_is_discarded_to_the_bit(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, SETTINGS)
    learner.update([asked(model, store, 0)])
    before, told = bits(learner), learner.state()[1]
    far(learner, 0.1, 0.31)
    figures = learner.update([asked(model, store, 1)])
    assert figures["discarded"] == figures["skipped"] == 1 and same(bits(learner), before) and learner.version == (0, 1)
    assert learner.left_out["discarded"] == [(0, k) for k in range(4)]
    assert learner.corridor.undone == 3 and learner.corridor.beta == told["corridor"]["beta"]
    assert [type(entry) for entry in learner.entries] == [Discarded] * 3
    tries: Any = learner.entries
    assert [one.beta for one in tries] == [0.02, 0.04, 0.08] and {one.kl_after for one in tries} == {0.31}
    assert {one.weights_out for one in tries} == {one.weights_in for one in tries} == {learner.flat().hash()}
    far(learner, 0.1, 0.31, 0.30)
    figures = learner.update([asked(model, store, 1)])
    assert (figures["undone"], figures["skipped"]) == (1, 0)
    assert [type(entry) for entry in learner.entries] == [Discarded, Accepted] and not same(bits(learner), before)


def test_no_number_is_discarded_and_written_down(model: Model, store: MediaStore) -> None:
    learner, one = Learner(model, store, SETTINGS), asked(model, store, 0)
    with torch.no_grad():
        model.net.model.language_model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    assert learner.update([one])["non_finite"] == 1 and learner.version == (0, 0)
    [entry] = learner.entries
    assert isinstance(entry, Discarded) and entry.kl_before is entry.kl_after is None and entry.weights_out == entry.weights_in


def lying(model: Model, store: MediaStore) -> Judged:
    """Five of eight give a wrong answer in the same words, and looked at nothing."""
    wrong = [replace(t, id=f"x{t.id}") for t in rollouts(model, store, 0, "AAAAA", looks=False)]
    return question([*rollouts(model, store, 0, "KKK"), *wrong])


def surrounded(model: Model, store: MediaStore) -> Judged:
    """Two of four agree, and all that is remembered says something else."""
    near = [Neighbour(Ballot(f"n{i}", "Z", ("other",)), 0.9) for i in range(8)]
    return question(rollouts(model, store, 0, "KKAA"), near)


def test_a_majority_that_looked_at_nothing_is_not_believed(model: Model, store: MediaStore) -> None:
    """Answers that the tools of their own chains did not find: what is learned is what the other three say."""
    one = lying(model, store)
    assert one.verdict.answer == "K" and one.decision.accepted
    honest = {t.id for t in one.group.trajectories if t.answer == "K"}
    assert one.verdict.exemplar in honest
    assert all((reward > 0) == (name in honest) for name, reward in one.verdict.reward_of.items())


def doubted(model: Model, store: MediaStore) -> Judged:
    """Half of the rollouts found something else."""
    return question(rollouts(model, store, 0, "KKKKAAAA"))


@pytest.mark.parametrize("attack", [doubted, surrounded])
def test_an_injected_majority_is_abstained_and_teaches_nothing(model: Model, store: MediaStore, attack: Any) -> None:
    learner = Learner(model, store, SETTINGS)
    before, one = bits(learner), attack(model, store)
    figures = learner.update([one])
    assert (figures["skipped"], figures["abstained"], figures["accepted"]) == (1, 1, 0)
    assert same(bits(learner), before) and learner.version == (0, 0)
    assert learner.left_out["abstained"] == [(0, k) for k in range(len(one.group))]
    [entry] = learner.entries
    assert isinstance(entry, Abstained) and entry.judgement.decision["refusals"]


def test_abstained_and_lost_episodes_change_nothing_beside_others(model: Model, store: MediaStore) -> None:
    """An update with them is to the bit the update without."""
    ends = []
    for more in (False, True):
        policy = nano.build(seed=1)
        learner = Learner(policy, store, SETTINGS)
        some = rollouts(policy, store, 0, "KKKA")
        lost = [replace(episode(policy, store, 9, status="infra"), id="lost", task_id="q0")]
        given = [question([*some, *lost]), asked(policy, store, 1, "KKAA")] if more else [question(some)]
        figures = learner.update(given)
        ends.append((state(policy), figures["dropped_infra"], figures["abstained"]))
    assert [end[1:] for end in ends] == [(0.0, 0.0), (1.0, 1.0)]
    assert same(ends[0][0], ends[1][0])


def test_the_reference_is_the_average_of_what_was_kept(model: Model, store: MediaStore) -> None:
    keep = EmaSettings(0.5)
    learner = Learner(model, store, replace(SETTINGS, ttrl=TtrlSettings(ema=keep)))
    assert learner.reference and learner.ttrl and learner.ttrl.ema
    start = state(model)
    figures = learner.update([asked(model, store, 0)])
    assert figures[f"{k3_to('ema')}_token_mean"] == pytest.approx(0.0, abs=1e-6) and figures[PROBED] > 0
    known = dict(learner.reference.model.net.named_parameters())
    for name, p in model.net.named_parameters():
        assert torch.allclose(known[name], (start[name] + p.detach()) / 2, atol=1e-7), name
    assert any("visual" in name and not torch.equal(start[name], p) for name, p in known.items()), "its own eyes move too"
    half = figures[PROBED]
    assert learner._probe() == pytest.approx(half / 4, rel=0.2), "half as far; a KL is quadratic"
    far(learner, 0.1, 0.25)  # kept, but above the corridor: the average waits
    assert learner.update([asked(model, store, 1)])["skipped"] == 0 and learner.ttrl.ema.updates == 1
    far(learner, 0.1, 0.05)
    learner.update([asked(model, store, 1)])
    assert learner.ttrl.ema.updates == 2


def test_held_to_the_start_the_reference_stays(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, replace(SETTINGS, ttrl=TtrlSettings(anchor="start")))
    assert learner.reference
    before = {name: p.clone() for name, p in learner.reference.model.net.named_parameters()}
    figures = learner.update([asked(model, store, 0)])
    assert f"{k3_to('start')}_token_mean" in figures and probed("start") in figures and PROBED not in figures
    assert same(before, dict(learner.reference.model.net.named_parameters()))


def statistics(store: MediaStore) -> tuple[Model, dict[str, torch.Tensor], dict[str, Any]]:
    """What CC-RFT leaves: the policy that it started from, and what it has seen."""
    origin = nano.build(seed=1)
    rft = Learner(nano.build(seed=1), store, LearnerSettings(loss="grpo", lr=1e-4, warmup=1))
    for n in range(2):
        rated = [replace(t, rewards={"answer": float(k == 0)}) for k, t in enumerate(rollouts(rft.model, store, n, "KA"))]
        rft.update([Group(f"q{n}", tuple(rated))])
    tensors, packed, _ = rft.state()
    return origin, dict(tensors["intrinsic"]), packed["intrinsic"]


def test_curiosity_and_coherence_are_paid_by_frozen_statistics_of_the_first_phases(model: Model, store: MediaStore) -> None:
    learner = Learner(model, store, replace(SETTINGS, lr=1e-3, corridor=replace(EDGES, high=0.0)))
    learner.inherit(*statistics(store))
    assert learner.intrinsic and learner.intrinsic.curiosity and learner.intrinsic.coherence
    one = asked(model, store, 0)
    whole = {(0, k): t for k, t in enumerate(one.group.trajectories)}
    before, kept = learner._earned(whole), learner.intrinsic.curiosity.state()[0]
    learner.update([one])
    assert learner._earned(whole)[0] == before[0], "other weights and eyes of the policy, the same pay"
    assert before[1]["curiosity_raw"] > 0 and all(before[0][p] > sum(t.rewards.values()) for p, t in whole.items())
    assert same(kept, learner.intrinsic.curiosity.state()[0])
    lone = Learner(nano.build(seed=1), store, SETTINGS)
    assert lone._earned(whole)[0] == {p: sum(t.rewards.values()) for p, t in whole.items()}


def test_statistics_without_a_component_that_is_paid_for_are_refused(model: Model, store: MediaStore) -> None:
    origin, tensors, packed = statistics(store)
    packed.pop("coherence")
    with pytest.raises(ValueError, match=r"without coherence: set learner\.intrinsic\.coherence = 0"):
        Learner(model, store, SETTINGS).inherit(origin, tensors, packed)
    only = replace(SETTINGS, intrinsic=IntrinsicSettings(coherence=0.0))
    Learner(model, store, only).inherit(origin, tensors, packed)


def prepared(store: MediaStore, given: tuple[Model, dict[str, torch.Tensor], dict[str, Any]]) -> Learner:
    learner = Learner(nano.build(seed=1), store, replace(SETTINGS, ttrl=TtrlSettings(ema=EmaSettings(0.5))))
    learner.inherit(*given)
    learner.rehearse([episode(learner.model, store, 20 + n) for n in range(3)])
    return learner


def test_resumed_from_its_checkpoint_it_is_the_uninterrupted_phase_to_the_bit(store: MediaStore, tmp_path: Path) -> None:
    given, made_by = statistics(store), nano.build(seed=1)
    some = [[asked(made_by, store, n), asked(made_by, store, n + 1)] for n in (0, 2, 4, 6)]
    straight, told = prepared(store, given), []
    for n, batch in enumerate(some):
        told.append(straight.update(batch))
        if n == 0:
            straight.keep_good()
        if n == 1:
            tensors, packed, tables = straight.state()
            checkpoint.save(tmp_path / "step-2", tensors, {"learner": packed}, tables)
    assert all(figures["skipped"] == 0 for figures in told) and told[3]["replayed"] and told[3]["kl_median"] > 0
    assert sum(figures["rehearsed"] for figures in told) == 1
    resumed, found = Learner(nano.build(seed=1), store, straight.settings), checkpoint.load(tmp_path / "step-2")
    with pytest.raises(checkpoint.CheckpointError, match="saved with the statistics of CC-RFT"):
        resumed.restore(found.tensors, found.state["learner"], found.tables)
    resumed.inherit(*given)
    resumed.restore(found.tensors, found.state["learner"], found.tables)
    resumed.version = (0, 2)
    assert [resumed.update(batch) for batch in some[2:]] == told[2:]
    assert resumed.entries == straight.entries and same(bits(resumed), bits(straight))
    assert json.loads(json.dumps(resumed.state()[1])) == json.loads(json.dumps(straight.state()[1]))
    for learner in (straight, resumed):
        learner.roll_back(1, "canary")
    assert same(bits(resumed), bits(straight)) and resumed.version == straight.version == (1, 1)


def test_rolled_back_all_is_as_it_was_and_goes_on_as_if_nothing_had_been(model: Model, store: MediaStore) -> None:
    learner, other = (Learner(nano.build(seed=1), store, SETTINGS) for _ in range(2))
    with pytest.raises(RuntimeError, match="nothing to go back to"):
        learner.roll_back(1, "canary")
    first, second, third = (asked(model, store, n) for n in range(3))
    for one in (learner, other):
        one.update([first])
    learner.keep_good()
    served, moving = learner.flat().hash(), copy.deepcopy(learner._moving()[1])
    was = [bits(learner)]
    learner.update([second])
    assert learner.flat().hash() != served
    entry = learner.roll_back(3, "canary 0.71 after 0.76", {"canary": 0.71})
    assert same(bits(learner), was[0]) and learner.version == (3, 1) and learner._moving()[1] == moving
    assert (entry.weights_out, entry.step, entry.figures) == (served, 1, {"canary": 0.71})
    a, b = learner.update([third]), other.update([third])
    drift = {name for name in a if name.startswith("kl_") and not name.startswith("kl_k3") and name != PROBED}
    assert {k: v for k, v in a.items() if k not in drift} == {k: v for k, v in b.items() if k not in drift}
    assert torch.equal(torch.from_numpy(learner.flat().array().copy()), torch.from_numpy(other.flat().array().copy()))


def test_the_journal_of_a_real_sequence_is_derived_again(model: Model, store: MediaStore, tmp_path: Path) -> None:
    learner, entries = Learner(model, store, SETTINGS), []
    learner.keep_good()
    honest_probe, given = learner._probe, [asked(model, store, n) for n in range(3)] + [asked(model, store, 3, "KKAA")]
    learner.update(given[:2])
    entries += learner.entries
    far(learner, 0.1, 0.4)
    learner.update(given[2:])
    entries += learner.entries
    far(learner, 0.1, 0.4, 0.2)
    learner.update(given[2:3])
    entries += learner.entries
    learner._probe = honest_probe  # type: ignore[method-assign]
    entries += [learner.roll_back(1, "canary 0.70 after 0.75"), learner.freeze("canary 0.70 after 0.75")]
    figures = learner.update(given[:1])
    entries += learner.entries
    assert figures["frozen"] == 1 and learner.left_out["frozen"] == [(0, k) for k in range(4)]
    kinds = ["Accepted", "Abstained", *["Discarded"] * 4, "Accepted", "RolledBack", "Frozen", "Abstained"]
    assert [type(one).__name__ for one in entries] == kinds and lineage(entries) == []
    written = Journal(tmp_path / "journal.jsonl")
    for entry in entries:
        written.write(entry)
    written.close()
    read: list[Entry] = [line.entry for line in journal.read(tmp_path / "journal.jsonl")]
    assert lineage(read) == []
    stored = {one.group.task_id: [Ballot.of(t) for t in one.group.trajectories] for one in given}
    judgements = [one for e in read if isinstance(e, Accepted | Discarded) for one in e.judgements]
    judgements += [e.judgement for e in read if isinstance(e, Abstained)]
    assert len(judgements) == 9
    assert [line for one in judgements for line in rederive(one, stored[one.task_id], [])] == []
    first = read[0]
    assert isinstance(first, Accepted) and first.limit == pytest.approx(0.3) and first.kl_before == pytest.approx(0.0, abs=1e-6)
    assert set(first.trajectories) == {t.id for one in given[:2] for t in one.group.trajectories}


def test_what_is_kept_of_the_probes_is_what_reading_them_anew_gives(model: Model, store: MediaStore) -> None:
    """After an update, after one that was undone, and after good weights were put back; each weights read once."""
    learner, counts = Learner(model, store, replace(SETTINGS, lr=0.01, train_vision=True)), [0]
    read, real = learner._read_probes, learner._probe

    def counted(*some: Any) -> None:
        counts[0] += 1
        read(*some)

    learner._read_probes = counted  # type: ignore[method-assign]
    for n in range(2):
        learner.update([asked(model, store, n)])
        kept = _both(learner)
        counts[0] = 0
        assert real() == kept[0] == kept[1] and counts[0] == 0
        learner.keep_good()
    learner.settings = replace(learner.settings, corridor=replace(EDGES, high=1e-15, undos=1))
    learner.corridor.settings = learner.settings.corridor
    assert learner.update([asked(model, store, 2)])["discarded"] == 1
    assert len(set(_both(learner))) == 1
    learner.roll_back(1, "canary")
    assert len(set(_both(learner))) == 1


def _both(learner: Learner) -> tuple[float, float]:
    """The probes' KL as it is kept, and read anew."""
    kept = learner._probe()
    assert learner.probes
    learner.probes.forget("policy")
    learner.probes.forget("reference")
    return kept, learner._probe()


def test_unsafe_is_a_matter_of_settings_alone(model: Model, store: MediaStore) -> None:
    """No KL, no abstention, nothing taken back: a split vote is learned from, however far that leads. It is measured still."""
    settings = replace(SETTINGS, lr=0.02, grpo=GrpoSettings(beta=0.0), corridor=replace(EDGES, high=0.0))
    learner = Learner(model, store, settings)
    one = question(rollouts(model, store, 0, "KKAA"), gate=GateSettings(abstain=False))
    for _ in range(3):
        figures = learner.update([one])
        assert figures["skipped"] == 0 and figures["beta"] == 0.0
    assert figures[PROBED] > 0.3 and learner.version == (0, 3)
    [entry] = learner.entries
    assert isinstance(entry, Accepted) and entry.limit == 0.0 and lineage([entry]) == []


def test_labelled_source_data_are_imitated_at_their_share(model: Model, store: MediaStore) -> None:
    learner, labelled = Learner(model, store, replace(SETTINGS, ttrl=TtrlSettings(rehearsal=0.5))), episode(model, store, 30)
    learner.rehearse([labelled])
    learner.rehearse([labelled])
    with pytest.raises(ValueError, match="frozen"):
        learner.rehearse([episode(model, store, 31)])
    before = score_of(model, store, labelled)
    for n in range(2):
        figures = learner.update([asked(model, store, n)])
        assert figures["rehearsed"] == 2 and figures["nll_rehearsal"] > 0
    assert score_of(model, store, labelled) > before


def test_groups_that_nobody_judged_are_refused_and_judged_ones_elsewhere(model: Model, store: MediaStore) -> None:
    with pytest.raises(TypeError, match="judged groups"):
        Learner(model, store, SETTINGS).update([contrast(model, store)])
    with pytest.raises(TypeError, match="loss grpo learns from groups"):
        Learner(model, store, LearnerSettings(loss="grpo")).update([asked(model, store, 0)])


def test_an_average_that_looks_back_too_far_is_refused_before_it_begins(model: Model, store: MediaStore) -> None:
    with pytest.raises(ValueError, match="more than a fifth of 90"):
        Learner(model, store, SETTINGS, steps=90)
    Learner(model, store, SETTINGS, steps=100)
    with pytest.raises(ValueError, match="mean over trajectories"):
        Learner(model, store, replace(SETTINGS, grpo=GrpoSettings(form="dr_grpo")))


def test_nothing_in_the_learner_knows_of_a_key() -> None:
    """Types with an answer or its evidence are neither imported nor named: no permutation of labels can change a weight."""
    folder = Path(__file__).parent.parent.parent / "learners"
    for file in sorted(folder.glob("*.py")):
        tree = ast.parse(file.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & {"GoldTask", "Evidence", "gold"}, file.name
