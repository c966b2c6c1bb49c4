"""What `pixelis adapt` looks at before it has anything rendered."""

from pathlib import Path

import pytest

from pixelis.cluster.adapt import Stream, adapt
from pixelis.memory.checkpoint import CheckpointError


@pytest.mark.parametrize("resume", [False, True])
def test_without_a_policy_nothing_is_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="nowhere: does not exist"):
        adapt(Path("nowhere"), "lighting:0.5", "run", "ttrl", [], 20, resume, False)
    stream = Stream("run", "lighting:0.5", 20)
    assert not stream.folder.exists() and not stream.key.exists()
