"""A question as it reaches the learner of the third phase: its rollouts, the verdict on them, and whether to learn from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from pixelis.learners.gate import Decision
from pixelis.learners.verdict import Verdict
from pixelis.memory.codec import SCHEMA, CodecError, from_table, to_table
from pixelis.memory.journal import Judgement
from pixelis.memory.trajectory import Group, Trajectory

VOTE = "vote"
"""The component of a trajectory's rewards that is its verdict's S."""
KEYED = "answer"
"""The one that needs an answer key: nothing that has it may be learned from here."""
JUDGEMENTS = b"pixelis.judgements"


@dataclass(frozen=True, slots=True)
class Judged:
    """Rollouts with what the one vote on them earned each: the answer that was served and what is learned are of one verdict.

    Rollouts that infrastructure ended are in the group, but not in the verdict.

    Example: Judged.of(group, verdict, judge(verdict, GateSettings()))
    """

    group: Group
    """Rewards of its trajectories: `vote`, and what chains cost."""
    verdict: Verdict
    decision: Decision

    @classmethod
    def of(cls, group: Group, verdict: Verdict, decision: Decision) -> Judged:
        """Write what the vote earned into the rewards.

        Raises: ValueError when the verdict is of other rollouts, or when one was rewarded by an answer key.
        """
        votable = {t.id for t in group.trajectories if _votes(t)}
        if votable != set(verdict.reward_of):
            raise ValueError(f"group {group.task_id} of {sorted(votable)} with a verdict on {sorted(verdict.reward_of)}")
        keyed = [t.id for t in group.trajectories if KEYED in t.rewards]
        if keyed:
            raise ValueError(f"{keyed[0]} was rewarded by an answer key: nothing may be learned from it without labels")
        earned = verdict.reward_of
        rated = (replace(t, rewards={**t.rewards, VOTE: earned[t.id]}) if _votes(t) else t for t in group.trajectories)
        return cls(Group(group.task_id, tuple(rated)), verdict, decision)

    @property
    def exemplar(self) -> Trajectory | None:
        """The best rollout of the winner; None when no rollout answered."""
        return next((t for t in self.group.trajectories if t.id == self.verdict.exemplar), None)

    @property
    def judgement(self) -> Judgement:
        """As the journal has it. With the group it gives all of this again: `Judged.read`."""
        oldest = min(t.oldest_version for t in self.group.trajectories if t.turns)
        return Judgement(self.group.task_id, oldest, self.verdict.to_dict(), self.decision.to_dict())

    @classmethod
    def read(cls, group: Group, judgement: Judgement) -> Judged:
        """Inverse of `group` and `judgement`, also when that was JSON."""
        return cls(group, Verdict.from_dict(judgement.verdict), Decision.from_dict(judgement.decision))


def encode(some: Sequence[Judged]) -> bytes:
    """An Arrow stream that `memory.codec.decode` reads as groups, with the judgements in its metadata; see `decode`."""
    told = json.dumps([asdict(one.judgement) for one in some]).encode()
    table = to_table([one.group for one in some]).replace_schema_metadata({**(SCHEMA.metadata or {}), JUDGEMENTS: told})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def decode(data: bytes) -> list[Judged]:
    """Inverse of `encode`. CodecError for groups without judgements."""
    table = pa.ipc.open_stream(data).read_all()
    told = (table.schema.metadata or {}).get(JUDGEMENTS)
    if told is None:
        raise CodecError("groups without judgements: nobody voted on them")
    judgements = [Judgement(**{**raw, "version": tuple(raw["version"])}) for raw in json.loads(told)]
    return [Judged.read(*pair) for pair in zip(from_table(table), judgements, strict=True)]


def _votes(trajectory: Trajectory) -> bool:
    return trajectory.status not in ("infra", "cancelled")
