"""`runs/NAME/report.html`: the run's figures, curves, tools, and single episodes with their evidence; opens offline."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pixelis.cluster import plots, stream_page
from pixelis.cluster.errors import UsageError
from pixelis.cluster.evidence import Drawer, is_right
from pixelis.cluster.html import figure, page, row, table, tag, text, tiles
from pixelis.cluster.track import read_summary
from pixelis.cluster.voice import voice_of
from pixelis.memory.codec import decode
from pixelis.memory.log import replace_file
from pixelis.memory.trajectory import Trajectory
from pixelis.tools.media import MediaStore

SAMPLES = 2
"""Episodes shown of each phase, family and verdict."""
WHAT = {
    "sft": "imitation of a teacher that recites demonstrations through the real tools",
    "rft": "reinforcement from own rollouts: answers, curiosity and coherence pay; long, invalid and repeated chains cost",
    "ttrl": "adaptation to questions without a key, from the votes of own rollouts",
}
COLUMNS = {
    "n": "episodes", "success": "success", "valid": "valid steps", "chain_length": "steps", "rapr": "RaPR",
    "racpr": "RaCPR", "hop_rate": "hops", "redundancy": "redundant", "visfid": "VisFid",
}  # fmt: skip

Phases = Mapping[str, Sequence[Trajectory]]


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run's folder from what is there and return its path.

    Reads summary.json, metrics.jsonl, heldout-PHASE.arrow, media/ and policy/, and of test-time training what `stream_page`
    does; a part whose input is missing says so. Raises CodecError for a damaged file of episodes, JournalError for a changed
    journal, UsageError for a folder that is no run.
    """
    if not any(next(run_dir.glob(name), None) for name in ("config-*.toml", "metrics.jsonl", "summary.json")):
        raise UsageError(f"{run_dir}: no run (neither config-PHASE.toml, nor metrics.jsonl, nor summary.json)")
    summary, lines = read_summary(run_dir), _metrics(run_dir / "metrics.jsonl")
    phases = _episodes(run_dir, [*summary["phases"], *(line["phase"] for line in lines)])
    parts = [
        _head(run_dir.name, summary),
        _figures(summary["phases"]),
        _adapted(run_dir, summary, lines),
        _curves(lines),
        _calls(phases),
        _samples(run_dir, phases),
    ]
    path = run_dir / "report.html"
    replace_file(path, page(f"pixelis run {run_dir.name}", "".join(parts)).encode())
    return path


def _metrics(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]  # a run in progress may be writing the last one


def _episodes(run_dir: Path, known: Iterable[str]) -> dict[str, list[Trajectory]]:
    """The evaluated episodes by phase, in the order in which the phases ran."""
    files = {path.stem.removeprefix("heldout-"): path for path in sorted(run_dir.glob("heldout-*.arrow"))}
    order = [phase for phase in dict.fromkeys([*known, *files]) if phase in files]
    return {phase: [t for group in decode(files[phase].read_bytes()) for t in group.trajectories] for phase in order}


def _head(name: str, summary: Mapping[str, Any]) -> str:
    phases = summary["phases"]
    told = "; then ".join(f"{phase.upper()}, {WHAT.get(phase, 'a phase of its own')}" for phase in phases)
    about = f"A policy that answers questions about images and clips by calling pixel tools. {told or 'No phase'}." + (
        " The figures are of episodes on held-out scenes, decoded greedily." if phases else " No phase has finished yet."
    )
    parts = [text("h1", f"pixelis run {name}"), text("p", about, "soft")]
    parts.append(tiles(_tiles(summary)))
    versions = ", ".join(f"{key} {value}" for key, value in summary.get("versions", {}).items())
    seed = f"seed {summary['seed']}; " if "seed" in summary else ""
    return "".join(parts) + (text("p", f"{seed}{versions}", "note") if versions else "")


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few figures that tell most."""
    phases = {name: row for name, row in summary["phases"].items() if row.get("heldout")}
    if not phases:
        return []
    first, last = (list(phases.values())[i]["heldout"]["all"] for i in (0, -1))
    names = list(phases)

    def change(key: str, form: str) -> str:
        return f"{names[0]} {first[key]:{form}}" if len(phases) > 1 else f"after {names[0]}"

    spent = summary.get("demo") or {k: sum(row[k] for row in summary["phases"].values()) for k in ("cpu_s", "wall_s")}
    return [
        (f"{last['success']:.1%}", f"right answers ({change('success', '.1%')})"),
        (f"{last['valid']:.1%}", f"valid steps ({change('valid', '.1%')})"),
        (f"{last['chain_length']:.2f}", f"steps before the answer ({change('chain_length', '.2f')})"),
        (f"{spent['cpu_s']:.0f} s", f"CPU time, in {spent['wall_s'] / 60:.1f} minutes"),
    ]


def _figures(phases: Mapping[str, Any]) -> str:
    if not phases:
        return ""
    titles = ["phase", "family", *COLUMNS.values(), "CPU s", "wall s", "load"]
    rows = [row("th", titles)]
    for phase, told in phases.items():
        for family, found in sorted(told.get("heldout", {}).items(), key=lambda item: item[0] != "all"):
            cells = [phase if family == "all" else "", family, *(_shown(key, found[key]) for key in COLUMNS)]
            rows.append(row("td", [*cells, *(_costs(told) if family == "all" else ["", "", ""])], family))
        if not told.get("heldout"):
            rows.append(row("td", [phase, "not evaluated", *[""] * len(COLUMNS), *_costs(told)], "all"))
    note = (
        "Success: the answer is exactly right. Valid steps: calls that were no fault of the policy's. Steps: calls, and "
        "attempts at one, before the answer. RaPR: episodes with at least one successful call. VisFid: how well calls agree "
        "with the gold evidence. Load: processes that ran on the machine at the start and at the end of the phase."
    )
    infra = sum(int(told.get("infra", 0)) + int(told.get("heldout_infra", 0)) for told in phases.values())
    note += f" Episodes that infrastructure ended, never rewarded: {infra}."
    note += "".join(_pool(phase, told["tools"]) for phase, told in phases.items() if told.get("tools"))
    return text("h2", "Held-out figures") + table(rows) + text("p", note, "note")


def _pool(phase: str, told: Mapping[str, Any]) -> str:
    asks, batches = told["asks"], told["batches"]
    all_, saved = sum(asks.values()), asks.get("memo", 0) + asks.get("joined", 0)
    mean = sum(int(size) * n for size, n in batches.items()) / max(1, sum(batches.values()))
    return (
        f" Tools of {phase}: {told['replicas']} replicas, {all_} asks, {saved} of them answered from memory, {mean:.1f} a "
        "batch; "
        f"{asks.get('infra', 0)} failed by infrastructure, {told['died'] + told['hung']} replicas replaced."
    )


def _shown(key: str, value: float) -> str:
    return f"{value:.0f}" if key == "n" else f"{value:.2f}" if key == "chain_length" else f"{value:.3f}"


def _costs(row: Mapping[str, Any]) -> list[str]:
    loads = [f"{row[end]['load_1']:.1f}" for end in ("load_start", "load_end") if end in row]
    return [f"{row['cpu_s']:.0f}", f"{row['wall_s']:.0f}", " / ".join(loads)]


def _adapted(run_dir: Path, summary: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    """Test-time training, if there was any."""
    some = [line for line in lines if line["phase"] == "ttrl"]
    return stream_page.section(run_dir, summary["phases"].get("ttrl", {}), some) if some else ""


def _curves(lines: Sequence[Mapping[str, Any]]) -> str:
    out = [text("h2", "Learning curves")]
    for phase in dict.fromkeys(line["phase"] for line in lines):
        found = plots.curves([line for line in lines if line["phase"] == phase])
        out.append(text("h3", f"{phase}: {WHAT.get(phase, '')}".rstrip(": ")))
        out.append(tag("div", "".join(figure(source, title) for title, source in found), "plots"))
    return "".join(out) if lines else "".join(out) + text("p", "No metrics.jsonl in this run.", "note")


def _calls(phases: Phases) -> str:
    out = text("h2", "What the policy does")
    if not phases:
        return out + text("p", "No evaluated episodes in this run.", "note")
    drawn = figure(plots.tool_mix(phases), "tools called in a held-out episode, by phase")
    drawn += figure(plots.chain_lengths(phases), "steps before the answer in held-out episodes, by phase")
    return out + tag("div", drawn, "plots two") + _outcomes(phases)


def _outcomes(phases: Phases) -> str:
    """How the calls of held-out episodes ended, and most often why not well."""
    rows = [row("th", ("phase", "ok", "policy", "tool", "most often"))]
    for phase, some in phases.items():
        results = [turn.result for one in some for turn in one.turns if turn.result]
        ends = Counter(result.failure.cls if result.failure else "ok" for result in results)
        codes = Counter(f"{r.op} {r.failure.code}" for r in results if r.failure)
        told = ", ".join(f"{code} ({count})" for code, count in codes.most_common(3))
        rows.append(row("td", [phase, *(ends[name] for name in ("ok", "policy", "tool")), told]))
    note = "How their calls ended: policy is the policy's fault, tool means that the tool found nothing."
    return table(rows) + text("p", note, "note")


def _samples(run_dir: Path, phases: Phases) -> str:
    chosen = {phase: sample(some) for phase, some in phases.items()}
    anchors = {id(t): f"{phase}-{i}" for phase, some in chosen.items() for i, t in enumerate(some)}
    out = [text("h2", "Episodes").replace("<h2>", '<h2 id="episodes">')]
    told = f"The first {SAMPLES} right and the first {SAMPLES} wrong ones of each phase and family."
    out.append(text("p", told, "note"))
    for phase, some in chosen.items():
        links = [tag("li", f'<a href="#{anchors[id(t)]}">{_told(t)}</a>') for t in some]
        out.append(text("h3", phase) + tag("nav", tag("ul", "".join(links))))
    store = MediaStore(run_dir / "media")
    for phase, some in chosen.items():
        drawer = Drawer(store, voice_of(run_dir, phase))
        out.append(text("h2", f"Episodes after {phase}"))
        out += [drawer.episode(t, anchors[id(t)]) for t in some]
    return "".join(out)


def sample(episodes: Sequence[Trajectory], count: int = SAMPLES) -> list[Trajectory]:
    """The first `count` right and the first `count` wrong episodes of each family: chosen by order, not by hand."""
    out: list[Trajectory] = []
    for family in sorted({t.family for t in episodes}):
        for right in (True, False):
            out += [t for t in episodes if t.family == family and is_right(t) is right][:count]
    return out


def _told(trajectory: Trajectory) -> str:
    verdict = "right" if is_right(trajectory) else "wrong"
    return escape(f"{trajectory.family}, {verdict}: {trajectory.question}")
