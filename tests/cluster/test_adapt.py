"""Test-time training through and through: no label can matter, an interruption leaves no trace, decisions can be shown."""

import json
import random
from pathlib import Path

import pytest

from bench.kills import Run, babbler
from pixelis.actors import stream
from pixelis.actors.shift import Shift
from pixelis.actors.stream import Part, read_answers, read_keys
from pixelis.cluster.audit import audit, rederived
from pixelis.memory.checkpoint import Checkpoint, latest, load

CONFIG = Path(__file__).parents[2] / "configs" / "tiny_ttrl.toml"
UPDATES = 50

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
        made.append(Run(CONFIG, {"name": name, "start": start, "tasks.file": labelled(folder, f"{name}.jsonl", answers)}))
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
    assert commits == other.state["loop"]["adaptation"]["commits"] == one.state["version"][1] >= UPDATES - 5
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
