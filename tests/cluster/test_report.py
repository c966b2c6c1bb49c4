import base64
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pixelis.cluster.evidence import Drawer, gold_of, is_right
from pixelis.cluster.plots import curves
from pixelis.cluster.report import sample, write_report
from pixelis.cluster.voice import open_voice, voice_of
from pixelis.memory.codec import decode, encode
from pixelis.memory.model import Model, ModelError
from pixelis.memory.trajectory import Group, Trajectory
from pixelis.tools.call import ToolCall
from pixelis.tools.handle import Workspace
from pixelis.tools.media import MediaStore
from pixelis.tools.toolbox import Toolbox
from tests.cluster.runs import make_run, metrics

VOID = {"meta", "img", "br", "input"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder with its report."""
    root = tmp_path_factory.mktemp("demo")
    make_run(root)
    write_report(root)
    return root


class Page(HTMLParser):
    """Checks that tags close, and keeps what they point to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.images: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        told = dict(attrs)
        self.ids |= {told["id"] or ""} if "id" in told else set()
        self.links += [told["href"] or ""] if "href" in told else []
        self.images += [told["src"] or ""] if "src" in told else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(run: Path, phase: str) -> list[Trajectory]:
    return [g.trajectories[0] for g in decode((run / f"heldout-{phase}.arrow").read_bytes())]


def test_the_report_needs_nothing_outside_itself(run: Path) -> None:
    html = (run / "report.html").read_text()
    page = Page(html)
    assert not page.open
    assert all(src.startswith("data:image/") for src in page.images) and len(page.images) > 30
    assert all(link[0] == "#" and link[1:] in page.ids for link in page.links) and page.links
    assert not re.search(r"url\(|@import|<script|<link|<iframe", html)
    for image in page.images:
        kind, data = image.split(";base64,")
        start = {"png": b"\x89PNG", "jpeg": b"\xff\xd8", "svg+xml": b"<?xml"}[kind.removeprefix("data:image/")]
        assert base64.b64decode(data).startswith(start)


def test_the_report_tells_the_figures_and_the_chains(run: Path) -> None:
    html = (run / "report.html").read_text()
    for told in ("0.930", "0.580", "2.10", "1581 s", "mean reward of rollouts", "negative log-likelihood", "KL to the"):
        assert told in html
    for phase in ("sft", "rft"):
        for trajectory in sample(read(run, phase)):
            assert trajectory.question in html
            for turn in trajectory.turns:
                if turn.call:
                    assert f"{turn.call.name}</div>" in html
    assert "differs" not in html  # every call of the shown episodes was run again
    assert "Look for" in html  # thoughts are decoded from the tokens


def test_right_and_wrong_answers_stand_beside_the_gold_one(run: Path) -> None:
    drawer = Drawer(MediaStore(run / "media"), voice_of(run, "sft"))
    wrong = next(t for t in read(run, "sft") if not is_right(t))
    gold = gold_of(wrong)
    assert gold is not None and gold.answer != wrong.answer
    card = drawer.episode(wrong, "e")
    assert f"<code>{wrong.answer}</code>" in card and f"<code>{gold.answer}</code>" in card
    assert "badge bad" in card


def test_sampling_takes_both_verdicts_of_every_family_in_order(run: Path) -> None:
    told = read(run, "sft")
    chosen = sample(told, 1)
    assert [(t.family, is_right(t)) for t in chosen] == [("clip", True), ("clip", False), ("code", True), ("code", False)]
    assert chosen[2] == next(t for t in told if t.family == "code" and is_right(t))


def test_gold_is_only_told_of_the_scene_that_was_seen(run: Path) -> None:
    told = read(run, "rft")
    for trajectory in told:
        gold = gold_of(trajectory)
        assert gold is not None and gold.task.question == trajectory.question and gold.answer == trajectory.answer
    odd = replace(told[0], task_id=told[2].task_id)
    assert gold_of(odd) is None
    assert gold_of(replace(told[0], task_id="photo")) is None


def test_what_a_policy_writes_cannot_become_markup(run: Path) -> None:
    store = MediaStore(run / "media")
    told = read(run, "rft")[0]
    evil = "<script>alert(1)</script>"
    call = ToolCall("OCR", {"on": evil, "box": [evil]})
    result = Toolbox(store).run(Workspace(store, told.media[0]), call)
    turns = (replace(told.turns[0], call=call, result=result), told.turns[-1])
    card = Drawer(store, None).episode(replace(told, turns=turns, question=evil, answer=evil), "e")
    assert "<script" not in card and "&lt;script&gt;" in card


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("TRK", {"on": "img0", "box": [300, 60, 800, 300], "t0": 0}),
        ToolCall("TRK", {"on": "img0", "box": [300, 60, 200, 300], "t0": 0}),
        ToolCall("TEMP", {"on": "img0", "query": "change"}),
        ToolCall("TEMP", {"on": "img0", "window": [0, 1000], "k": 8}),
        ToolCall("ZOOM", {"on": "img0", "box": [0, 0, 2000, 10]}),
        ToolCall("SEG", {"on": "img0", "point": "here"}),
        ToolCall("PROP", {"of": 3}),
        ToolCall("DIG", {}),
    ],
)
def test_every_kind_of_call_and_failure_can_be_drawn(run: Path, call: ToolCall) -> None:
    store = MediaStore(run / "media")
    told = next(t for t in read(run, "rft") if t.family == "clip")
    result = Toolbox(store).run(Workspace(store, told.media[0]), call)
    turns = (replace(told.turns[0], call=call, result=result), replace(told.turns[0], call=call, result=None, views=()))
    told = replace(told, turns=turns, answer=None, status="over_budget")
    card = Drawer(store, open_voice(run / "policy" / "rft")).episode(told, "e")
    assert "over its budget" in card and call.name in card


def test_a_run_in_progress_has_a_report_too(tmp_path: Path, run: Path) -> None:
    (tmp_path / "config-sft.toml").touch()
    html = write_report(tmp_path).read_text()
    assert "No metrics.jsonl" in html and "No evaluated episodes" in html
    (tmp_path / "metrics.jsonl").write_text(json.dumps(metrics()[0]) + "\n" + '{"phase": "sft", "st')
    shutil.copytree(run / "media", tmp_path / "media")
    (tmp_path / "heldout-sft.arrow").write_bytes(encode([Group(t.task_id, (t,)) for t in read(run, "sft")[:2]]))
    html = write_report(tmp_path).read_text()  # neither summary nor policy: thoughts are left out
    assert "Look for" not in html and Page(html).images


def test_curves_leave_out_what_is_missing() -> None:
    sft = [line for line in metrics() if line["phase"] == "sft"]
    titles = [title for title, _ in curves(sft)]
    assert titles == ["success on the dev split", "negative log-likelihood, nats a token", "gradient norm before clipping"]
    taught = [{**line, "valid": 1.0, "chain_length": 5.0} for line in sft]
    assert [title for title, _ in curves(taught)] == titles  # a teacher's calls say nothing about the policy
    assert curves([{"phase": "rft", "step": 1, "reward": 0.5}]) == []


def test_a_voice_reads_and_sees_as_the_model_does(run: Path, tmp_path: Path) -> None:
    folder = run / "policy" / "rft"
    voice, model = open_voice(folder), Model.load(folder)
    assert (voice.layout, voice.card) == (model.layout, model.card)
    tokens = read(run, "rft")[0].turns[0].sampled
    assert voice.tokenizer.decode(list(tokens)) == model.tokenizer.decode(list(tokens))
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        open_voice(tmp_path)
