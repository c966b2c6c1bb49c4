"""The gate that a phase may end at: looked at now and then, on the dev split. Made-up figures; no Ray."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pixelis.cluster.config import CONFIGS, ConfigError, StopSettings, load
from pixelis.cluster.evaluate import Evaluation
from pixelis.cluster.run import Phase, Stop


class Said(Phase):
    """A phase whose dev split says what it is told to."""

    says: list[float]
    asked: list[tuple[int, str]]

    def _evaluate(self, algorithm: Any, n: int, split: Any) -> Evaluation:
        self.asked.append((n, split))
        return Evaluation({"all": {"success": self.says.pop(0)}}, (), 0)


def test_a_phase_ends_where_the_dev_split_says_that_it_is_enough(tmp_path: Path) -> None:
    stop = StopSettings(100, gate=0.8, gate_every=10, gate_n=5)
    phase = Said(replace(load(CONFIGS / "tiny_sft.toml"), stop=stop), tmp_path, False, Stop())
    phase.says, phase.asked = [0.79, 0.8], []
    logged: list[tuple[int, dict[str, float]]] = []
    track, bar = SimpleNamespace(log=lambda step, told: logged.append((step, told))), SimpleNamespace(say=lambda line: None)
    ends = [
        phase._gate(SimpleNamespace(loop=SimpleNamespace(step=after)), before, track, bar)  # type: ignore[arg-type]
        for before, after in ((0, 4), (4, 9), (9, 12), (12, 19), (19, 20))
    ]
    assert ends == [False, False, False, False, True] and phase.asked == [(5, "dev")] * 2
    assert logged == [(12, {"dev/success": 0.79}), (20, {"dev/success": 0.8})]


def test_questions_of_ones_own_have_no_gate() -> None:
    """It would ask PixelWorld's."""
    with pytest.raises(ConfigError, match=r"stop\.gate: .* tasks\.file"):
        load(CONFIGS / "rft.toml", ["stop.gate=0.9", "tasks.file=mine.jsonl"])
