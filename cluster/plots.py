"""The plots of a report, drawn by matplotlib as SVG data URIs."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pixelis.cluster.html import svg
from pixelis.memory.trajectory import Trajectory
from pixelis.tools.call import OPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"SEG": "#7c5cc4", "ZOOM": "#3b76d6", "TRK": "#d9822b", "OCR": "#1a936f", "TEMP": "#c2478f", "PROP": "#8a94a3"}
INK, SOFT, LINE, FAINT = "#1c2430", "#5d6b7e", "#2456b3", "#a9c1ea"
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
    "kl_window": "KL to the moving average, nats a token (k3, mean of 16 kept updates)",
    "kl_exact_policy_to_ema_probes": "KL to the moving average on the probes, nats a token (exact)",
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
        ax.axvline(found["sft"][0], color=SOFT, linewidth=1, linestyle="--")
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(max(1, len(names)) - 0.5, -0.5)
        ax.grid(True, axis="x", color="#eceff3")
        ax.set_title(f"{key.replace('_', ' ')}, {start} start (dashed)", fontsize=10, color=INK, loc="left")
    return _drawn(figure)


COLOURS = ("#1f6feb", "#d9822b", "#2da44e", "#8250df", "#cf222e", "#57606a", "#bf8700", "#0a7ea4")
SPAN = 8
"""A stream's moving mean is over this part of it."""


def prequential(served: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Share of right answers along each stream, [arm] float [seeds, N], as moving means over an eighth of it."""
    figure, axes = _figure(8.2, 2.9 * -(-len(served) // 2), rows=-(-len(served) // 2), columns=2)
    names = dict.fromkeys(name for arms_ in served.values() for name in arms_)
    colours = dict(zip(names, COLOURS * 2, strict=False))
    for ax, (stream, found) in zip(axes, served.items(), strict=False):
        for name, right in found.items():
            span = max(1, right.shape[1] // SPAN)
            means = np.convolve(right.mean(axis=0), np.ones(span) / span, "valid")
            ax.plot(np.arange(len(means)) + span, means, color=colours[name], linewidth=1.5, label=name)
        ax.set_title(stream, fontsize=10, color=INK, loc="left")
        ax.set_xlabel("questions answered", fontsize=9, color=SOFT)
        ax.legend(fontsize=8, frameon=False)
    for ax in axes[len(served) :]:
        ax.set_visible(False)
    return _drawn(figure)


def risks(found: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Share of wrong answers among the most confident, [arm] float [N], against coverage, for each stream."""
    figure, axes = _figure(8.2, 2.9 * -(-len(found) // 2), rows=-(-len(found) // 2), columns=2)
    for ax, (stream, arms_) in zip(axes, found.items(), strict=False):
        for (name, risk), colour in zip(arms_.items(), COLOURS, strict=False):
            ax.plot(np.arange(1, len(risk) + 1) / len(risk), risk, color=colour, linewidth=1.5, label=name)
        ax.set_title(stream, fontsize=10, color=INK, loc="left")
        ax.set_xlabel("coverage", fontsize=9, color=SOFT)
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
