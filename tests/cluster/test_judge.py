"""Judging without Ray: what is answered, what is learned from it, and that answers change exactly when an update is kept."""

from concurrent import futures
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.kills import babbler
from pixelis.actors import stream
from pixelis.actors.engine import Request, TransformersEngine
from pixelis.actors.questions import Unanswered
from pixelis.actors.render import Renderer
from pixelis.actors.rollout import RolloutSettings, RolloutWorker
from pixelis.actors.shift import Shift
from pixelis.cluster.judge import Judge
from pixelis.learners.corridor import CorridorSettings
from pixelis.learners.effort import EffortSettings
from pixelis.learners.gate import GateSettings
from pixelis.learners.judged import decode, encode
from pixelis.learners.learner import Learner, LearnerSettings
from pixelis.learners.ttrl import TtrlSettings
from pixelis.memory.encoder import EncoderSettings, encoders
from pixelis.memory.episodes import EpisodeShard
from pixelis.memory.model import Model
from pixelis.memory.recall import AwayError, EpisodeMemory, Here
from pixelis.memory.weights import unflatten
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox

EASY = TtrlSettings(effort=EffortSettings(2, 4), gate=GateSettings(abstain=False))


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that answers at once, anything."""
    return babbler(tmp_path_factory.mktemp("talker"), "no_tools")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Unanswered:
    root = tmp_path_factory.mktemp("stream")
    stream.write(root / "asked", root / "key.jsonl", ("code",), [stream.Part(Shift("lighting", 0.5), 6)], seed=0)
    return Unanswered(root / "asked" / "tasks.jsonl", MediaStore())


def judge_of(model: Model, questions: Unanswered, settings: TtrlSettings, memory: EpisodeMemory | None = None) -> Judge:
    renderer, store = Renderer(model), questions.store
    engine = TransformersEngine(model, store, renderer.stop)
    return Judge(RolloutWorker(questions, Toolbox(store), renderer, engine, RolloutSettings(), 0), memory, settings)


def test_a_question_gets_more_rollouts_until_its_vote_is_clear_and_its_group_is_what_was_voted_on(
    talker: Path, questions: Unanswered
) -> None:
    judge = judge_of(Model.load(talker), questions, EASY)
    served = judge.serve({i: questions.task(i) for i in range(6)}, (0, 0))
    assert list(served) == list(range(6)) and {s.answer.id for s in served.values()} == {questions.task(i).id for i in range(6)}
    judged = [s.judged for s in served.values() if s.judged]
    sizes = [len(one.group.trajectories) for one in judged]
    assert set(sizes) <= {2, 4} and all(size == 4 or one.verdict.margin >= 0.5 for size, one in zip(sizes, judged, strict=True))
    assert all(t.rewards.keys() == {"vote", "invalid", "length", "duplicate"} for one in judged for t in one.group.trajectories)
    again = decode(encode(judged))
    assert [one.judgement for one in again] == [one.judgement for one in judged]


def test_what_was_accepted_votes_on_later_questions_but_not_on_those_of_before(
    talker: Path, questions: Unanswered, tmp_path: Path
) -> None:
    model = Model.load(talker)
    shard = Here(EpisodeShard(tmp_path / "0"))
    memory = EpisodeMemory([shard], *encoders(model.with_eyes_of_its_own(), questions.store, EncoderSettings()))
    judge = judge_of(model, questions, EASY, memory)
    first = judge.serve({i: questions.task(i) for i in range(3)}, (0, 0))
    rows = [one.row for one in first.values() if one.row]
    assert rows and memory.add(rows) == len(rows)
    asked = {i: questions.task(i) for i in range(3, 6)}
    later, before = (judge.serve(asked, version) for version in ((0, 1), (0, 0)))
    heard = [one.judged.verdict.neighbours for one in later.values() if one.judged]
    assert {n.id for some in heard for n in some} <= {row[0].id for row in rows} and any(heard)
    assert not any(one.judged.verdict.neighbours for one in before.values() if one.judged)
    shard.close()


def test_questions_that_a_shard_was_away_for_are_counted_and_answered(
    talker: Path, questions: Unanswered, tmp_path: Path
) -> None:
    class Away:
        name = "1"

        def ask(self, method: str, *given: Any) -> futures.Future[Any]:
            failed: futures.Future[Any] = futures.Future()
            failed.set_exception(AwayError("1 is away"))
            return failed

    model = Model.load(talker)
    shard = Here(EpisodeShard(tmp_path / "0"))
    seeing = encoders(model.with_eyes_of_its_own(), questions.store, EncoderSettings())
    for shards, partial in (([shard], 0), ([shard, Away()], 2)):
        judge = judge_of(model, questions, EASY, EpisodeMemory(shards, *seeing))
        served = judge.serve({i: questions.task(i) for i in range(2)}, (0, 0))
        assert len(served) == 2 and judge.partial == partial
    shard.close()


def scores(judge: Judge, questions: Unanswered) -> torch.Tensor:
    """Log-probs of a greedy turn on each of two questions, as they are served now."""
    requests = []
    for i in range(2):
        shown = judge.worker.renderer.prompt(questions.task(i), questions.store)
        requests.append(Request(f"look{i}", shown.tokens, shown.views, (0, 0, 0, 0), max_tokens=4, temperature=0.0))
    done = judge.worker.engine.generate(requests)
    judge.worker.engine.close(["look0", "look1"])
    return torch.tensor([v for one in done for v in one.logprobs])


def test_served_log_probs_change_when_an_update_is_accepted_and_not_when_it_is_refused(
    talker: Path, questions: Unanswered
) -> None:
    model = Model.load(talker)
    judge = judge_of(model, questions, EASY)
    served = judge.serve({i: questions.task(i) for i in range(6)}, (0, 0))
    judged = [one.judged for one in served.values() if one.judged]
    strict = judge_of(model, questions, TtrlSettings(gate=GateSettings(votes=99)))
    refused = [one.judged for one in strict.serve({0: questions.task(0)}, (0, 0)).values() if one.judged]
    assert refused and not refused[0].decision.accepted

    def publish(learner: Learner) -> torch.Tensor:
        flat = learner.flat()
        state = unflatten(flat.array().copy(), flat.plan)
        judge.worker.engine.load(state, learner.version, vision_changed=True)
        return scores(judge, questions)

    settings = LearnerSettings(
        loss="ttrl", lr=1e-2, warmup=1, train_vision=True, ttrl=EASY, corridor=CorridorSettings(0.1, 100.0)
    )
    learner = Learner(Model.load(talker), questions.store, settings, (0, 0))
    before = publish(learner)
    learner.update(refused)
    assert torch.equal(publish(learner), before) and learner.version == (0, 0)
    learner.update(judged)
    assert not torch.allclose(publish(learner), before, atol=1e-3) and learner.version == (0, 1)
    narrow = LearnerSettings(
        loss="ttrl", lr=1e-2, warmup=1, train_vision=True, ttrl=EASY, corridor=CorridorSettings(0.0, 1e-12, undos=1)
    )
    learner = Learner(Model.load(talker), questions.store, narrow, (0, 0))
    figures = learner.update(judged)
    assert figures["discarded"] == 1.0
    assert torch.equal(publish(learner), before) and learner.version == (0, 0)
