"""Test-time training through and through: no label can matter, an interruption leaves no trace, decisions can be shown."""

import json
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.kills import Run, babbler
from pixelis.actors import stream
from pixelis.actors.shift import Shift
from pixelis.actors.stream import Part, read_answers, read_keys
from pixelis.cluster.audit import audit, rederived
from pixelis.learners.canary import Canary
from pixelis.memory.checkpoint import Checkpoint, latest, load
from pixelis.memory.journal import Abstained, Accepted, Frozen, RolledBack, read

CONFIG = Path(__file__).parents[2] / "configs" / "tiny_ttrl.toml"
UPDATES = 55

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def newest(root: Path) -> Checkpoint:
    found = latest(root / "checkpoints" / "ttrl")
    assert found is not None
    return load(found)


def labelled(folder: Path, name: str, answers: list[str]) -> Path:
    """The stream's questions as a file that says these answers."""
    lines = [json.loads(line) for line in (folder / "tasks.jsonl").read_text().splitlines()]
    path = folder / name
    path.write_text("".join(json.dumps({**line, "answer": said}) + "\n" for line, said in zip(lines, answers, strict=True)))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, workplace: Path) -> list[Run]:
    """Two runs on the same questions: one as they are, and one with permuted labels that is killed and resumed."""
    folder = workplace / "asked"
    stream.write(folder, workplace / "key.jsonl", ("code",), [Part(Shift("lighting", 0.5), UPDATES)], seed=0)
    right = [key.answer for key in read_keys(workplace / "key.jsonl")]
    wrong = random.Random(0).sample(right, len(right))
    assert sum(a != b for a, b in zip(right, wrong, strict=True)) > UPDATES // 2
    start = babbler(tmp_path_factory.mktemp("babbler"), "no_tools")
    made = []
    for name, answers in (("whole", right), ("cut", wrong)):
        asked = labelled(folder, f"{name}.jsonl", answers)
        made.append(Run(CONFIG, {"name": name, "start": start, "stop.steps": UPDATES, "tasks.file": asked}))
    whole, cut = made
    whole.finish()
    with cut:
        cut.start()
        while len(cut.stamps()) < 13:
            cut.next_step(after=(cut.stamps() or [0.0])[-1])
        cut.kill("driver", 0.0)
    cut.finish(resume=True)
    return made


def test_permuted_labels_and_a_killed_driver_leave_the_same_weights_to_the_bit(runs: list[Run]) -> None:
    one, other = (newest(run.root) for run in runs)
    commits = one.state["loop"]["adaptation"]["commits"]
    assert commits == other.state["loop"]["adaptation"]["commits"] == one.state["version"][1] >= 50
    for file in ("model", "optimizer", "ema"):
        assert all((one.tensors[file][k] == other.tensors[file][k]).all() for k in one.tensors[file])
    start = load(sorted((runs[0].root / "checkpoints" / "ttrl").glob("step-*"))[0])
    assert any((one.tensors["model"][k] != start.tensors["model"][k]).any() for k in one.tensors["model"])


def test_every_question_is_answered_once_in_its_order(runs: list[Run], workplace: Path) -> None:
    order = [key.id for key in read_keys(workplace / "key.jsonl")]
    given = [read_answers(run.root / "answers.jsonl") for run in runs]
    assert [one.id for one in given[0]] == order and given[0] == given[1]


def test_trajectories_balance_and_every_decision_can_be_derived_again(runs: list[Run]) -> None:
    for run in runs:
        account = audit(run.root)["ttrl"]
        assert account.balanced and account.pending == 0, account
        count, wrong = rederived(run.root)
        assert count >= UPDATES and wrong == []


def test_weights_that_a_fall_of_the_canary_put_back_are_saved_at_once(
    runs: list[Run], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends the process then: it learns nothing more, and the journal says why."""
    look = Canary.look

    def fallen(canary: Canary, commits: int, right: Mapping[str, bool]) -> str | None:
        why = look(canary, commits, right)
        return "canary 0.10 after 0.90 at the start" if commits == 8 else why

    monkeypatch.setattr(Canary, "look", fallen)
    sets = dict(one.split("=", 1) for one in runs[0].sets)
    short = {"stop.steps": 12, "save_every": 100, "learner.ttrl.canary.every": 4, "learner.ttrl.ema.keep": 0.5}
    run = Run(CONFIG, {**sets, "name": "fallen", **short})
    run.finish()
    entries = [line.entry for line in read(run.root / "journal.jsonl")]
    kinds = [type(entry) for entry in entries]
    back = kinds.index(RolledBack)
    assert kinds[back : back + 2] == [RolledBack, Frozen] and set(kinds[back + 2 :]) <= {Abstained}
    kept = [entry.weights_out for entry in entries if isinstance(entry, Accepted)]
    assert len(kept) == 8 and isinstance(entries[back], RolledBack) and entries[back].weights_out == kept[3]
    told = [json.loads(line) for line in (run.root / "metrics.jsonl").read_text().splitlines()]
    assert next(line["rollbacks"] for line in told if line["commits"] == 8) == 1.0  # of the very update after which it fell
    saved = sorted((run.root / "checkpoints" / "ttrl").glob("step-*"))
    assert [load(path).state["learner"]["beside"]["frozen"] for path in saved[-2:]] == [True, True]
    assert rederived(run.root)[1] == [] and audit(run.root)["ttrl"].balanced


def test_a_journal_with_another_byte_or_without_its_end_is_found_out(runs: list[Run]) -> None:
    path = runs[0].root / "journal.jsonl"
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    try:
        path.write_bytes(data.replace(b'"margin":1.0', b'"margin":0.9', 1))
        assert "changed" in rederived(runs[0].root)[1][0]
        path.write_bytes(b"".join(lines[:5]))
        assert "missing" in rederived(runs[0].root)[1][0]
    finally:
        path.write_bytes(data)
