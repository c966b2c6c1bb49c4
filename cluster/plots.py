"""The plots of a report, drawn by matplotlib as SVG data URIs."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pixelis.cluster.html import svg
from pixelis.learners.risk import curve, selected
from pixelis.memory.trajectory import Trajectory
from pixelis.tools.call import OPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"SEG": "#7c5cc4", "ZOOM": "#3b76d6", "TRK": "#d9822b", "OCR": "#1a936f", "TEMP": "#c2478f", "PROP": "#8a94a3"}
INK, SOFT, LINE, FAINT, BAD, BAND = "#1c2430", "#5d6b7e", "#2456b3", "#a9c1ea", "#b3261e", "#d8ebe0"
FLOOR = 1e-4
"""Nats below which a KL is drawn as if it were so many: it begins at 0, and the scale is logarithmic."""
CURVES: Mapping[str, str] = {  # key in metrics.jsonl -> title; in this order
    "reward": "mean reward of rollouts",
    "answer": "share of rollouts answered right",
    "dev/success": "success on the dev split",
    "valid": "share of steps that are valid calls",
    "chain_length": "steps before the answer",
    "nll": "negative log-likelihood, nats a token",
    "loss": "loss",
    "head_box_iou": "mean IoU of the box head on its batch",
    "kl_k3_policy_to_start_token_mean": "KL to the start policy, nats a token (k3)",
    "kl_exact_policy_to_start_probes": "KL to the start policy on the probes, nats a token (exact)",
    "stream_accepted": "share of the last questions that were learned from",
    "stream_entropy": "entropy of the answers to the last questions, nats",
    "commits": "updates kept so far",
    "beta": "weight of the KL",
    "curiosity_scaled": "mean reward for curiosity",
    "coherence_scaled": "mean reward for coherence",
    "dynamics_loss": "loss of the dynamics head",
    "ratio_clipped": "share of tokens whose ratio was clipped",
    "grad_norm": "gradient norm before clipping",
}
SAME = {"nll": "loss"}
"""Curves that make another one superfluous: imitation's loss is its likelihood."""


def curves(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(title, data URI) for every figure that the metrics of one phase hold."""
    out: list[tuple[str, str]] = []
    present = {key for line in lines for key, value in line.items() if value is not None}
    hidden = {other for key, other in SAME.items() if key in present}
    if "reward" not in present:  # the rollouts were a teacher's, they say nothing about the policy
        hidden |= {"valid", "chain_length"}
    for key, title in CURVES.items():
        points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
        if key not in hidden and len({step for step, _ in points}) > (0 if key.startswith("dev/") else 1):
            out.append((title, _curve(points, marked=key.startswith("dev/"))))
    return out


def chain_lengths(phases: Mapping[str, Sequence[Trajectory]]) -> str:
    """Histogram of steps before the answer, one row of bars for each phase."""
    longest = max((t.chain_length for some in phases.values() for t in some), default=0)
    figure, axes = _figure(4.9, 1.0 + 1.25 * len(phases), rows=len(phases))
    for ax, (phase, some) in zip(axes, phases.items(), strict=True):
        counts = np.bincount([t.chain_length for t in some], minlength=longest + 1) / max(1, len(some))
        ax.bar(range(longest + 1), counts, color=LINE, width=0.8)
        mean = float(np.mean([t.chain_length for t in some]))
        ax.set_title(f"{phase}: mean {mean:.2f}", fontsize=10, color=INK, loc="left")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        ax.set_xticks(range(longest + 1))
        ax.set_xlim(-0.6, longest + 0.6)
    axes[-1].set_xlabel("steps before the answer", fontsize=10, color=SOFT)
    return _drawn(figure)


def tool_mix(phases: Mapping[str, Sequence[Trajectory]]) -> str:
    """Calls of each tool per episode, one bar for each phase."""
    figure, [ax] = _figure(4.9, 1.15 + 0.62 * len(phases))
    rows = {phase: Counter(t.call.name for one in some for t in one.turns if t.call) for phase, some in phases.items()}
    names = [op for op in OPS if any(op in row for row in rows.values())]
    for y, (phase, some) in enumerate(phases.items()):
        left = 0.0
        for op in names:
            width = rows[phase][op] / max(1, len(some))
            ax.barh(y, width, left=left, height=0.62, color=COLORS[op], label=op if y == 0 else None)
            if width > 0.25:
                ax.text(left + width / 2, y, f"{width:.1f}", ha="center", va="center", color="white", fontsize=9)
            left += width
    ax.set_yticks(range(len(phases)), list(phases))
    ax.set_ylim(len(phases) - 0.5, -0.5)
    ax.grid(False, axis="y")
    ax.set_xlabel("calls an episode", fontsize=10, color=SOFT)
    if names:
        figure.legend(loc="upper center", ncols=len(names), frameon=False, fontsize=9, handlelength=1, columnspacing=1.2)
    figure.subplots_adjust(top=0.8)
    return _drawn(figure, tight=bool(not names))


def drift(lines: Sequence[Mapping[str, Any]], anchor: str, corridor: Mapping[str, float]) -> str:
    """How far the kept updates of test-time training were from what holds them, and the corridor: edges `low` and `high` in
    nats a token (`high` 0: none)."""
    from pixelis.learners.corridor import BEYOND  # it brings torch

    figure, [ax] = _figure(4.9, 3.3)
    kept = [line for line in lines if line.get("skipped") == 0]
    k3, exact = f"kl_k3_policy_to_{anchor}_token_mean", f"kl_exact_policy_to_{anchor}_probes"
    _points(ax, kept, k3, "of an update", marker="o", markersize=3, linestyle="", color=FAINT)
    _points(ax, kept, "kl_window", f"mean of {corridor['window']:g}", linewidth=1.8, color=LINE)
    _points(ax, kept, exact, "on the probes", linewidth=1.2, color=COLORS["TRK"])
    undone = [line for line in lines if line.get("discarded")]
    _points(ax, undone, exact, "undone", marker="x", linestyle="", color=BAD)
    low, high = corridor["low"], corridor["high"]
    if high:
        ax.axhspan(low, high, color=BAND, zorder=0, label=f"corridor {low:g} to {high:g}")
        ax.axhline(BEYOND * high, color=BAD, linewidth=1, linestyle="--", label=f"undone above {BEYOND * high:g}")
    ax.set_yscale("log")
    ax.set_ylim(FLOOR * 0.8, max(ax.get_ylim()[1], 2 * high))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return _labelled(figure, ax, "update", "nats a token")


def moving(series: Mapping[str, Sequence[float]], window: int) -> str:
    """Shares over the questions of a stream by name, each the mean of the last `window` questions."""
    figure, [ax] = _figure(4.9, 3.3)
    for (name, values), color in zip(series.items(), (LINE, COLORS["OCR"], COLORS["TRK"]), strict=False):
        means = np.convolve(values, np.ones(window) / window, "valid")
        ax.plot(np.arange(window, len(values) + 1), means, label=name, linewidth=1.8, color=color)
    ax.set_ylim(0, 1.03)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return _labelled(figure, ax, "question", f"mean of {window} questions")


def risk_coverage(confidence: np.ndarray, right: np.ndarray, accepted: np.ndarray) -> str:
    """How many of the most confident answers are wrong, and where the gate stands; floats and bools [N]."""
    figure, [ax] = _figure(4.9, 3.3)
    risk, (coverage, wrong) = curve(confidence, right), selected(accepted, right)
    ax.plot(np.arange(1, len(risk) + 1) / len(risk), risk, color=LINE, linewidth=1.8, label="the most confident")
    ax.axhline(float(risk[-1]), color=SOFT, linewidth=1, linestyle="--", label=f"all: {risk[-1]:.1%}")
    if wrong is not None:
        ax.plot([coverage], [wrong], color=COLORS["TRK"], marker="o", linestyle="", label=f"answered for sure: {wrong:.1%}")
    ax.set_xlim(0, 1.02)
    ax.set_ylim(0, max(0.05, 1.1 * float(risk[len(risk) // 20 :].max())))  # of a handful anything can be wrong
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return _labelled(figure, ax, "coverage: share of the questions", "risk: share of wrong answers")


def before_after(shifts: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Success by shift, before and after, with 95 % of a binomial; `shifts[name][when]` has `success` and `n`."""
    figure, [ax] = _figure(4.9, 3.3)
    for i, (when, color) in enumerate((("before", FAINT), ("after", LINE))):
        rates, counts = (np.array([row[when][key] for row in shifts.values()], float) for key in ("success", "n"))
        spread, places = 1.96 * np.sqrt(rates * (1 - rates) / counts), np.arange(len(shifts)) + 0.38 * i - 0.19
        ax.bar(places, rates, 0.36, yerr=spread, color=color, ecolor=SOFT, capsize=3, label=when)
        for x, rate in zip(places, rates, strict=True):
            ax.text(x, 0.03, f"{rate:.1%}", ha="center", color="white" if i else INK, fontsize=9)
    ax.set_xticks(range(len(shifts)), list(shifts))
    ax.set_xlim(-0.6, max(1, len(shifts)) - 0.4)
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return _labelled(figure, ax, "", "success, decoded greedily")


def arms(rows: Sequence[Mapping[str, Any]]) -> str:
    """Success and excess calls of each arm of an experiment, a dot for each seed; those of its start as a line."""
    some = [row for row in rows if row["split"] == "heldout"]
    begins = list(dict.fromkeys(row["start"] for row in some))
    names = list(dict.fromkeys(row["arm"] for row in some if row["arm"] != "sft"))
    figure, axes = _figure(8.2, 1.4 + 0.34 * max(1, len(names)) * len(begins), rows=len(begins), columns=2)
    for ax, (start, key) in zip(axes, [(start, key) for start in begins for key in ("success", "excess_calls")], strict=True):
        found = {arm: [row[key] for row in some if (row["start"], row["arm"]) == (start, arm)] for arm in ("sft", *names)}
        for y, arm in enumerate(names):
            ax.scatter(found[arm], [y] * len(found[arm]), s=16, color=FAINT)
            ax.scatter([float(np.mean(found[arm]))] if found[arm] else [], [y] if found[arm] else [], s=34, color=LINE)
        for begun in found["sft"]:  # one, or more where it was trained again
            ax.axvline(begun, color=SOFT, linewidth=1, linestyle="--")
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(max(1, len(names)) - 0.5, -0.5)
        ax.grid(True, axis="x", color="#eceff3")
        ax.set_title(f"{key.replace('_', ' ')}, {start} start (dashed)", fontsize=10, color=INK, loc="left")
    return _drawn(figure)


ARMS = ("#1f6feb", "#d9822b", "#2da44e", "#8250df", "#cf222e", "#57606a", "#bf8700", "#0a7ea4")
"""Their colours, in their order."""
SPAN = 8
"""A stream's moving mean is over this part of it."""


def prequential(served: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Share of right answers along each stream, [arm] float [seeds, N], as moving means over an eighth of it."""
    lines: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for stream, found in served.items():
        for name, right in found.items():
            span = max(1, right.shape[1] // SPAN)
            means = np.convolve(right.mean(axis=0), np.ones(span) / span, "valid")
            lines.setdefault(stream, {})[name] = np.arange(len(means)) + span, means
    return _panels(lines, "questions answered")


def risks(found: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Share of wrong answers among the most confident, [arm] float [N], against coverage, for each stream."""
    steps = {s: {name: (np.arange(1, len(r) + 1) / len(r), r) for name, r in arms_.items()} for s, arms_ in found.items()}
    return _panels(steps, "coverage")


def _panels(found: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], x: str) -> str:
    """Two to a row, one for each stream: lines by arm, each arm of one colour in all of them."""
    figure, axes = _figure(8.2, 2.9 * -(-len(found) // 2), rows=-(-len(found) // 2), columns=2)
    names = dict.fromkeys(name for lines in found.values() for name in lines)
    colors = dict(zip(names, ARMS, strict=False))
    for ax, (stream, lines) in zip(axes, found.items(), strict=False):
        for name, points in lines.items():
            ax.plot(*points, color=colors[name], linewidth=1.5, label=name)
        ax.set_title(stream, fontsize=10, color=INK, loc="left")
        ax.set_xlabel(x, fontsize=9, color=SOFT)
        ax.legend(fontsize=8, frameon=False)
    for ax in axes[len(found) :]:
        ax.set_visible(False)
    return _drawn(figure)


def _curve(points: Sequence[tuple[float, float]], marked: bool) -> str:
    from matplotlib.ticker import MaxNLocator

    figure, [ax] = _figure(3.3, 2.1)
    steps, values = (np.array(column, float) for column in zip(*sorted(points), strict=True))
    if len(values) > 25:  # the curve itself faint, its running mean strong
        ax.plot(steps, values, color=FAINT, linewidth=1)
        span = max(3, len(values) // 20)
        ends = np.convolve(np.pad(values, (span // 2, span - 1 - span // 2), "edge"), np.ones(span) / span, "valid")
        ax.plot(steps, ends, color=LINE, linewidth=1.8)
    else:
        ax.plot(steps, values, color=LINE, linewidth=1.8, marker="o" if marked or len(values) == 1 else None)
    ax.set_xlabel("step", fontsize=9, color=SOFT)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _drawn(figure)


def _points(ax: Axes, lines: Sequence[Mapping[str, Any]], key: str, label: str, **look: Any) -> None:
    """What some lines of metrics.jsonl have of one figure, over the updates; nothing where none has it."""
    points = [(line["step"], max(FLOOR, line[key])) for line in lines if line.get(key) is not None]
    if points:
        ax.plot(*zip(*points, strict=True), label=label, **look)


def _labelled(figure: Figure, ax: Axes, x: str, y: str) -> str:
    """With its axes named, and what is what above them."""
    ax.set_xlabel(x, fontsize=10, color=SOFT)
    ax.set_ylabel(y, fontsize=10, color=SOFT)
    named = ax.get_legend_handles_labels()[1]
    columns = len(named) if sum(map(len, named)) < 40 else 2  # a legend that is wider than the plot makes it small
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=columns, frameon=False, fontsize=9, handlelength=1.4)
    return _drawn(figure)


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches with axes row by row. Without pyplot: nothing global changes."""
    from matplotlib.figure import Figure

    figure = Figure((width, height))
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color("#c6cdd6")
        ax.tick_params(colors=SOFT, labelsize=9)
        ax.grid(True, axis="y", color="#eceff3")
        ax.set_axisbelow(True)
    return figure, axes


def _drawn(figure: Figure, tight: bool = True) -> str:
    import matplotlib as mpl

    if tight:
        figure.tight_layout()
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "pixelis"}):  # equal figures give equal files
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True, bbox_inches="tight")
    return svg(out.getvalue())
