"""`pixelis eval`: figures under a shift beside the ceiling of the tools, and one line for what cannot be asked."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pixelis.actors.shift import Shift
from pixelis.cluster.cli import app
from pixelis.cluster.errors import is_users
from pixelis.cluster.evaluate import jobs


@pytest.mark.slow
def test_a_shift_is_named_and_the_tools_have_their_ceiling(untrained: Path) -> None:
    asked = ["eval", str(untrained), "--n", "2", "--family", "tally", "--family", "code", "--shift", "noise:0.5", "--json"]
    told = json.loads(CliRunner().invoke(app, asked, catch_exceptions=False).stdout.splitlines()[-1])
    assert told["shift"] == "noise:0.5" and told["tool_ceiling"]["n"] == told["heldout"]["tally"]["n"] == 2
    assert set(told["tool_ceiling"]) == {"n", "tally", "code"} and set(told["heldout"]) == {"tally", "code", "all"}


@pytest.mark.parametrize(
    ("option", "known"), [("--shift=fog:1", "lighting, motion, noise"), ("--shift=noise:2", "0 to 1"), ("--family=x", "tally")]
)
def test_a_wrong_option_names_the_known_ones(option: str, known: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["eval", str(tmp_path), option])
    assert result.exception is not None and is_users(result.exception)
    assert known in str(result.exception) and "\n" not in str(result.exception)


def test_every_job_carries_the_shift() -> None:
    shift = Shift("motion", 0.5)
    assert {job.shift for job in jobs(200, 2, "dev", shift)} == {shift}
    assert {job.shift.severity for job in jobs(200, 2, "dev")} == {0}
