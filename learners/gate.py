"""Whether a verdict is good enough to learn from, and if not, why (paper 6.5)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pixelis.learners.verdict import Verdict


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Bounds, each of which a verdict has to keep."""

    margin: float = 0.3
    """Least lead of the winner's share."""
    entropy: float = 0.6
    """Largest normalised entropy."""
    votes: float = 3.0
    """Least weight of the winner's rollouts."""
    fidelity: float = 0.5
    """Least pixel fidelity of the exemplar."""
    invalid: int = 0
    """Most invalid steps of the exemplar."""
    abstain: bool = True
    """False: whatever has an answer is learned from."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A bound that was not kept.

    Example:
        >>> str(Refusal("margin", 0.125, 0.3))
        'margin 0.125 (bound 0.3)'
    """

    gate: str
    value: float
    bound: float

    def __str__(self) -> str:
        return f"{self.gate} {self.value:.4g} (bound {self.bound:g})"


@dataclass(frozen=True, slots=True)
class Decision:
    """Accepted, or abstained for these reasons: then the answer is given, marked so, and nothing is learned or remembered.

    Example:
        >>> str(Decision(GateSettings(), (Refusal("entropy", 0.8173, 0.6),)))
        'abstained: entropy 0.8173 (bound 0.6)'
    """

    settings: GateSettings
    refusals: tuple[Refusal, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether it may be learned from."""
        return not self.refusals

    def __str__(self) -> str:
        return "accepted" if self.accepted else f"abstained: {', '.join(map(str, self.refusals))}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Decision:
        """Inverse of `to_dict`."""
        return cls(GateSettings(**raw["settings"]), tuple(Refusal(**one) for one in raw["refusals"]))


def judge(verdict: Verdict, settings: GateSettings) -> Decision:
    """All bounds that the verdict does not keep; `answer` alone when there is none."""
    best = verdict.best
    if best is None:
        return Decision(settings, (Refusal("answer", 0.0, 1.0),))
    if not settings.abstain:
        return Decision(settings)
    # rounding must not decide on what lies on a bound
    least = (
        ("margin", verdict.margin, settings.margin),
        ("votes", verdict.votes, settings.votes),
        ("fidelity", best.fidelity, settings.fidelity),
    )
    most = (("entropy", verdict.entropy, settings.entropy), ("invalid", float(best.invalid), float(settings.invalid)))
    low = [Refusal(*one) for one in least if not one[1] >= one[2] - 1e-9]
    high = [Refusal(*one) for one in most if not one[1] <= one[2] + 1e-9]
    return Decision(settings, (*low, *high))
