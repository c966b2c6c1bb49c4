"""`pixelis memory` on a memory that an untrained policy's towers made."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pixelis.actors import nano
from pixelis.cluster.cli import app
from pixelis.cluster.memory import write_card
from pixelis.memory.encoder import EncoderSettings, encoders
from pixelis.memory.episodes import EpisodeShard
from pixelis.memory.look import WHOLE, Look
from pixelis.memory.recall import EpisodeMemory, Here
from pixelis.memory.remembered import Remembered
from pixelis.tools.media import MediaStore
from tests.fakes_media import plate, png

pytestmark = pytest.mark.slow
COLORS = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
QUESTION = "What is the code on the red plate?"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes on plates, in two shards; picture 0 lies beside them."""
    run = tmp_path_factory.mktemp("run")
    model, store = nano.build(0), MediaStore()
    model.save(run / "policy" / "sft")
    handles = [Here(EpisodeShard(run / "memory" / str(n))) for n in range(2)]
    memory = EpisodeMemory(handles, *encoders(model, store, EncoderSettings()))
    items = []
    for n in range(6):
        pixels = plate(f"K{n}P")
        pixels[:, : 70 * n] = COLORS[n]  # for the tower to tell them apart
        data = png(pixels)
        (run / f"{n}.png").write_bytes(data)
        looks = (Look("OCR", (WHOLE,), text=f"K{n}P"),)
        items.append(Remembered(f"e{n}", QUESTION, "text", f"K{n}P", (store.put(data),), looks, scores={"score": 1.0}))
    assert memory.remember(items) == 6
    for handle in handles:
        handle.close()
    write_card(run / "memory", run / "policy" / "sft", EncoderSettings())
    return run


def told(*words: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["memory", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.stdout


def test_a_picture_and_a_question_find_their_neighbours(run: Path) -> None:
    found = json.loads(told("search", run, run / "0.png", QUESTION, "--json"))
    assert {hit["id"] for hit in found["hits"]} <= {f"e{n}" for n in range(1, 6)} and found["own"] >= 1
    assert found["hits"] and all(hit["text"] == pytest.approx(1, abs=1e-5) for hit in found["hits"])
    for hit in found["hits"]:
        assert hit["similarity"] == pytest.approx(0.4 * hit["text"] + 0.6 * hit["pixels"], abs=1e-5)
    table = told("search", run, run / "0.png", QUESTION, "-k", "2")
    assert "OCR" in table and "left out: of this very medium" in table


def test_keys_of_another_policy_are_not_compared(run: Path, tmp_path: Path) -> None:
    nano.build(1).save(tmp_path)
    assert "6 not compared" in told("search", run, run / "0.png", QUESTION, "--policy", tmp_path)


def test_counted_and_verified(run: Path) -> None:
    counts = json.loads(told("stats", run, "--json"))
    assert sum(one["rows"] for one in counts.values()) == 6 and all(one["spaces"] for one in counts.values())
    assert "6 rows with keys of 128 + 128 numbers" in told("stats", run)
    assert "2 shards, 6 episodes: all sound" in told("verify", run / "memory")


def test_written_out_without_media(run: Path, tmp_path: Path) -> None:
    assert "6 episodes" in told("export", run, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {line["answer"] for line in lines} == {f"K{n}P" for n in range(6)} and lines[0]["ops"] == ["OCR"]
    told("export", run, tmp_path / "out.arrow")
    table = pa.ipc.open_file(tmp_path / "out.arrow").read_all()
    assert len(table) == 6 and len(table["pixel_key"][0]) == 128
    assert (run / "0.png").read_bytes()[60:120] not in (tmp_path / "out.arrow").read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["stats", "nowhere"], "nowhere: no episode memory here"),
        (["export", "RUN", "out.csv"], "out.csv: name a file that ends in .jsonl or .arrow"),
        (["search", "RUN", "none.png", "?"], "none.png"),
        (["search", "RUN", "RUN/0.png", "?", "--kind", "poem"], "--kind poem: an answer is text, number or choice"),
        (["forget", "RUN", "none.png"], "none.png"),
    ],
)
def test_what_cannot_be_meant_is_told(run: Path, words: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["memory", *(word.replace("RUN", str(run)) for word in words)])
    assert result.exit_code and says in str(result.exception)


def test_damage_is_found_and_a_forgotten_picture_is_gone(run: Path) -> None:
    """Last, since it changes the memory."""
    assert "1 episodes forgotten" in told("forget", run, run / "3.png")
    assert "K3P" not in told("search", run, run / "0.png", QUESTION)
    assert b"K3P" not in b"".join(p.read_bytes() for p in (run / "memory").rglob("*") if p.is_file())
    assert "2 shards, 5 episodes: all sound" in told("verify", run)
