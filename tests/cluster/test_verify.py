import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from pixelis.actors.render import Renderer
from pixelis.cluster.verify import command, read, result_differences, verify, verify_file
from pixelis.memory.codec import CodecError, encode
from pixelis.memory.replay import ReplayShard
from pixelis.memory.trajectory import Group, Trajectory, Turn
from pixelis.tools.call import Failure, ToolCall
from pixelis.tools.media import MediaError, MediaStore
from tests.cluster.runs import episodes, policy

Told = tuple[Path, list[Trajectory], Renderer]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """A run with a policy, media and six episodes."""
    run = tmp_path_factory.mktemp("run")
    model = policy(run / "policy" / "rft")
    trajectories = episodes(model, MediaStore(run / "media"), 6)
    write(run / "heldout-rft.arrow", trajectories)
    return run, trajectories, Renderer(model)


def write(path: Path, trajectories: list[Trajectory]) -> Path:
    path.write_bytes(encode([Group(t.task_id, (t,)) for t in trajectories]))
    return path


def with_turn(trajectory: Trajectory, number: int, change: Callable[[Turn], Turn]) -> Trajectory:
    turns = list(trajectory.turns)
    turns[number] = change(turns[number])
    return replace(trajectory, turns=tuple(turns))


def called(trajectory: Trajectory, op: str) -> int:
    return next(i for i, t in enumerate(trajectory.turns) if t.call and t.call.name == op)


def with_argument(trajectory: Trajectory, number: int, name: str, value: Any) -> Trajectory:
    def change(turn: Turn) -> Turn:
        assert turn.call is not None
        return replace(turn, call=ToolCall(turn.call.name, {**turn.call.arguments, name: value}))

    return with_turn(trajectory, number, change)


def test_what_was_recorded_is_found_again(told: Told) -> None:
    run, trajectories, renderer = told
    for trajectory in trajectories:
        checks = verify(trajectory, MediaStore(run / "media"), renderer.parse)
        assert [c.turn for c in checks] == [i for i, t in enumerate(trajectory.turns) if t.call]
        assert all(c.ok and c.stored.digest() == c.found.digest() for c in checks)


def test_every_changed_argument_is_noticed_even_when_the_result_stays(told: Told) -> None:
    run, trajectories, renderer = told
    store = MediaStore(run / "media")
    for trajectory in trajectories[:2]:
        number = called(trajectory, "OCR")
        call = trajectory.turns[number].call
        assert call is not None
        x0, *rest = call.arguments["box"]
        changed = with_argument(trajectory, number, "box", [x0 + 1, *rest])  # reads the same text
        assert not all(c.ok for c in verify(changed, store, renderer.parse))
        for name in call.arguments:
            other = {"on": "img7", "box": [0, 0, 62, 62], "level": "block"}[name]
            assert not all(c.ok for c in verify(with_argument(trajectory, number, name, other), store, renderer.parse))


def test_a_changed_crop_is_noticed_without_a_tokenizer(told: Told) -> None:
    run, trajectories, _ = told
    trajectory = next(t for t in trajectories if any(turn.call and turn.call.name == "ZOOM" for turn in t.turns))
    number = called(trajectory, "ZOOM")
    changed = with_argument(trajectory, number, "box", [0, 0, 500, 500])
    [check] = [c for c in verify(changed, MediaStore(run / "media")) if c.turn == number]
    assert any(line.startswith("views") for line in check.differences)
    assert any(line.startswith("pixels shown next") for line in check.differences)


def test_a_changed_result_is_noticed_and_named(told: Told) -> None:
    run, trajectories, _ = told
    number = called(trajectories[0], "OCR")

    def change(turn: Turn) -> Turn:
        assert turn.result is not None
        return replace(turn, result=replace(turn.result, data={"text": "XXX"}))

    checks = verify(with_turn(trajectories[0], number, change), MediaStore(run / "media"))
    assert [c.turn for c in checks if not c.ok] == [number]
    assert 'data: {"text":"XXX"} -> ' in next(c for c in checks if not c.ok).differences[0]


def test_infrastructure_failures_are_not_compared(told: Told) -> None:
    run, trajectories, _ = told
    number = len(trajectories[0].turns) - 2

    def change(turn: Turn) -> Turn:
        assert turn.result is not None
        return replace(turn, result=replace(turn.result, ok=False, data={}, failure=Failure("infra", "timeout")))

    failed = with_turn(trajectories[0], number, change)
    assert all(c.ok for c in verify(replace(failed, turns=failed.turns[: number + 1]), MediaStore(run / "media")))


def test_differences_are_empty_exactly_for_equal_digests(told: Told) -> None:
    results = [t.result for one in told[1] for t in one.turns if t.result]
    for a in results[:6]:
        assert not result_differences(a, replace(a, ms=a.ms + 5))
        for b in results[:6]:
            assert bool(result_differences(a, b)) == (a.digest() != b.digest())


def test_all_kinds_of_files_are_read(told: Told, tmp_path: Path) -> None:
    run, trajectories, _ = told
    assert list(read(run)) == list(read(run / "heldout-rft.arrow")) == trajectories
    one = tmp_path / "one.json"
    one.write_text(json.dumps(trajectories[0].to_dict()))
    group = tmp_path / "group.json"
    group.write_text(json.dumps(Group(trajectories[0].task_id, (trajectories[0],)).to_dict()))
    shard = ReplayShard(run / "replay" / "rft", [MediaStore(run / "media")])
    shard.add("p", 0, [Group(t.task_id, (t,)) for t in trajectories[:2]])
    shard.close()
    assert list(read(one)) == list(read(group)) == trajectories[:1]
    assert list(read(run / "replay" / "rft")) == trajectories[:2]
    assert all(v.ok and v.spelled for v in verify_file(run / "replay" / "rft"))
    [alone] = verify_file(one, media=run / "media")
    assert alone.ok and alone.spelled


def test_wrong_input_gets_one_clear_line(told: Told, tmp_path: Path) -> None:
    run, trajectories, _ = told
    with pytest.raises(CodecError, match="no trajectory has the id nobody"):
        list(verify_file(run, "nobody"))
    with pytest.raises(CodecError, match="no such file"):
        list(verify_file(run / "nothing.arrow"))
    with pytest.raises(CodecError, match="neither a run"):
        list(verify_file(tmp_path))
    bad = tmp_path / "bad.json"
    bad.write_text('{"id": "x"}')
    with pytest.raises(CodecError, match="not a trajectory"):
        list(verify_file(bad))
    lost = write(tmp_path / "heldout-rft.arrow", trajectories[:1])
    with pytest.raises(MediaError, match="--media"):
        list(verify_file(lost))


def test_the_command_tells_by_its_exit_status(told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, trajectories, _ = told
    command(run / "heldout-rft.arrow", trajectories[0].id)
    assert "all as recorded" in capsys.readouterr().out
    number = called(trajectories[0], "OCR")
    changed = write(run / "changed.arrow", [with_argument(trajectories[0], number, "box", [0, 0, 62, 62])])
    with pytest.raises(typer.Exit) as ended:
        command(changed)
    assert ended.value.exit_code == 1
    assert "DIFFERENT" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_line_reaches_it(told: Told) -> None:
    run, trajectories, _ = told
    script = "from pixelis.cluster.cli import main; main()"
    path = write(run / "single.arrow", trajectories[:1])
    done = subprocess.run([sys.executable, "-c", script, "replay", str(path)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, "all as recorded" in done.stdout) == (0, True), done.stderr
