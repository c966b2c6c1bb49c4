"""What the demo does around its phases; the phases themselves are left out."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pixelis.actors.shift import Shift
from pixelis.actors.stream import Part, write
from pixelis.cluster import adapt, demo, report, usage
from pixelis.cluster.config import RunConfig
from pixelis.cluster.evaluate import Evaluation, Questions
from pixelis.cluster.run import Interrupted
from pixelis.cluster.source import looked_at
from pixelis.cluster.track import read_summary, write_summary

ROW = {"n": 500, "success": 0.5, "valid": 1.0, "chain_length": 2.0, "visfid": 0.9}


class Stage:
    """Stands for what takes minutes: notes what was asked of it, and leaves what it would leave."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.commands: list[str] = []
        self.phases: list[RunConfig] = []
        self.policies: list[str] = []
        self.interrupt = False
        patch.setattr(demo, "backbone", lambda seed: Path("backbone"))
        patch.setattr(demo, "train_all", self.train)
        patch.setattr(report, "write_report", lambda root: root / "report.html")
        patch.setattr(adapt, "_other", self.other)
        patch.setattr(adapt, "evaluate", self.evaluate)

    def train(self, configs: Sequence[RunConfig], resume: bool, dashboard: bool) -> Path:
        self.phases = [looked_at(config) for config in configs]
        root = Path("runs") / configs[0].name
        root.mkdir(exist_ok=True)
        if self.interrupt:
            raise Interrupted("ttrl", root / "checkpoints")
        (root / "config-ttrl.toml").write_text(_dump(self.phases[-1], start="before"))
        done = {c.phase: {"heldout": {"all": ROW}, "cpu_s": 1.0, "wall_s": 1.0, "policy": f"after-{c.phase}"} for c in configs}
        write_summary(root, {"phases": done})
        return root

    def other(self, *words: str) -> None:
        self.commands.append(words[0])
        if words[0] == "stream":
            shift, folder, _, key, _, n = words[1:]
            write(Path(folder), Path(key), ("code",), [Part(Shift.parse(shift), int(n))], seed=len(self.commands))

    def evaluate(self, policy: str, root: Path, asked: Questions, seen: object, rollout: object) -> Evaluation:
        self.policies.append(f"{policy} {asked.shift}")
        return Evaluation({"all": ROW}, (), 0)


def _dump(config: RunConfig, start: str) -> str:
    from dataclasses import replace

    from pixelis.cluster.config import dump

    return dump(replace(config, start=start))


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "STREAM", adapt.Stream("demo", "lighting:0.5", 240))
    return Stage(monkeypatch)


def test_the_demo_ends_with_a_phase_that_its_stream_and_its_average_fit(stage: Stage, capsys: pytest.CaptureFixture) -> None:
    demo.demo()
    assert [config.phase for config in stage.phases] == ["sft", "rft", "ttrl"]
    ttrl = stage.phases[-1]  # `looked_at` has refused no average
    assert ttrl.stop.steps == 60 and ttrl.start == "" and not Path(ttrl.tasks.file).is_relative_to(Path("runs/demo").resolve())
    assert stage.commands == ["stream", "score"]
    assert stage.policies == ["before lighting:0", "before lighting:0.5", "after-ttrl lighting:0.5"]
    assert list(read_summary(Path("runs/demo"))["phases"]["ttrl"]["shifts"]) == ["clean", "lighting:0.5"]
    assert "lighting:0.5, n 500: success 0.500 before, 0.500 after" in capsys.readouterr().out


def test_an_earlier_demo_is_replaced_with_its_stream(stage: Stage) -> None:
    demo.demo()
    first = demo.STREAM.file.read_text()
    demo.demo()
    assert stage.commands == ["stream", "score"] * 2 and demo.STREAM.file.read_text() != first


def test_a_resumed_demo_keeps_its_stream_and_what_was_measured(stage: Stage) -> None:
    stage.interrupt = True
    with pytest.raises(Interrupted):
        demo.demo()
    key = demo.STREAM.key.read_text()
    stage.interrupt = False
    demo.demo(resume=True)
    measured = len(stage.policies)
    adapt.compare(Path("runs/demo"), [Shift("lighting", 0.5)])
    assert demo.STREAM.key.read_text() == key and stage.commands == ["stream", "score"] and len(stage.policies) == measured


def test_a_stream_whose_rendering_was_interrupted_is_rendered_anew(stage: Stage) -> None:
    stray = demo.STREAM.folder / "media" / "stray.jpg"
    stray.parent.mkdir(parents=True)
    stray.touch()
    demo.STREAM.render()
    assert not stray.exists() and demo.STREAM.file.exists() and demo.STREAM.key.exists()


def test_a_command_that_is_waited_for_counts_in_what_a_run_costs() -> None:
    import sys

    meter = usage.Meter()
    assert usage.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.6: pass\nraise SystemExit(3)"]) == 3
    assert meter.read()["cpu_s"] >= 0.5
