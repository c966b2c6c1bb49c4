from pathlib import Path

import pytest

from pixelis.tools.inspect import run_file, run_steps
from pixelis.tools.media import MediaError
from tests.fakes_media import plate, png


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "plate.png"
    path.write_bytes(png(plate("K7P")))
    return path


def test_one_call_on_a_file_needs_no_handle(picture: Path) -> None:
    result, workspace = run_file(picture, "OCR", {})
    assert result.data["text"] == "K7P" and list(workspace.handles) == ["img0"]
    assert run_file(picture, "PROP", {"keys": ["color"]})[0].data == {"color": "gray"}
    assert run_file(picture, "FLY", {})[0].observation() == '{"ok":false,"error":"unknown_op"}'


def test_a_chain_uses_its_own_handles_and_stops_at_a_failure(picture: Path) -> None:
    steps: list[dict] = [
        {"name": "SEG", "arguments": {"point": [360, 400]}},
        {"name": "PROP", "arguments": {"of": "m1", "keys": ["color"]}},
        {"name": "PROP", "arguments": {"of": "m2", "keys": ["color"]}},
        {"name": "OCR", "arguments": {}},
    ]
    results, workspace = run_steps(picture, steps)
    assert [r.ok for r in results] == [True, True, False] and "m1" in workspace


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        run_file(tmp_path / "none.png", "OCR", {})
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(MediaError, match=r"empty\.mp4: empty \(0 bytes\)"):
        run_file(tmp_path / "empty.mp4", "TEMP", {"query": "change"})
