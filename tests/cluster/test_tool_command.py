"""`pixelis tool --save` draws what the tool found, in the format that the name asks for."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pixelis.cluster.cli import app
from pixelis.cluster.errors import is_users, told
from tests.fakes_media import avi, moving_square, plate, png


@pytest.fixture
def there(tmp_path: Path) -> Path:
    (tmp_path / "plate.png").write_bytes(png(plate("K7P")))
    (tmp_path / "clip.avi").write_bytes(avi(moving_square(8)[0]))
    return tmp_path


def test_a_picture_a_sheet_and_a_clip_are_written(there: Path) -> None:
    def tool(*words: str) -> dict:
        done = CliRunner().invoke(app, ["tool", *words])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert tool("OCR", str(there / "plate.png"), "--save", str(there / "out.png"))["data"]["text"] == "K7P"
    assert (np.array(Image.open(there / "out.png")) != plate("K7P")).any()
    track = json.dumps({"box": [125, 375, 275, 575], "t0": 0})
    tool("TRK", str(there / "clip.avi"), "--args", track, "--save", str(there / "out.jpg"))
    assert Image.open(there / "out.jpg").width > 320
    tool("TRK", str(there / "clip.avi"), "--args", track, "--save", str(there / "out.mp4"))
    with av.open(str(there / "out.mp4")) as container:
        assert container.streams.video[0].frames == 8


@pytest.mark.parametrize(("name", "what"), [("a.gif", "written as .png or .jpg"), ("a", "written as"), ("a.mp4", "no time")])
def test_another_format_is_one_clear_line(there: Path, name: str, what: str) -> None:
    done = CliRunner().invoke(app, ["tool", "OCR", str(there / "plate.png"), "--save", str(there / name)])
    assert done.exception is not None and is_users(done.exception) and what in told(done.exception)
    assert not (there / name).exists()
