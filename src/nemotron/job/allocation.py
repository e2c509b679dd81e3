"""What a scheduler gave this job, as the submitted script tells it in the environment."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass

from nemotron.errors import CheckFailed

# Not for the trainer: a launch that a job makes of itself has no part in this job's allocation.
NAMES = (
    "NEMOTRON_JOB_ID",
    "NEMOTRON_PART",
    "NEMOTRON_PARTS",
    "NEMOTRON_RESTARTS",
    "NEMOTRON_NODES",
    "NEMOTRON_NODE_RANK",
    "NEMOTRON_DEADLINE",
    "NEMOTRON_RAY",
)
WALLTIME, INTERRUPTED = "walltime", "interrupted"
# A signal so shortly before the end comes from the end.
_END_SECONDS = 5.0


@dataclass(frozen=True)
class Allocation:
    """One stay of a job on its nodes.

    job: the scheduler's id; None where no scheduler has a hand in it. part: which of `parts` allocations
    that follow one another, from 1. restarts: how often the scheduler started this very job anew.
    nodes: how many take part, 0 where nobody says. rank: which of them this is. deadline: epoch seconds
    at which it ends, None where it has no end. own_ray: whether the runtime has to bring up Ray itself.
    """

    job: str | None = None
    part: int = 1
    parts: int = 1
    restarts: int = 0
    nodes: int = 0
    rank: int = 0
    deadline: float | None = None
    own_ray: bool = True

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Allocation:
        """The allocation of this environment. Raises CheckFailed for what is no number."""
        job = environ.get("NEMOTRON_JOB_ID") or None
        # SLURM_NODEID alone may be that of a session in which somebody typed a command.
        rank = "NEMOTRON_NODE_RANK" if "NEMOTRON_NODE_RANK" in environ else "SLURM_NODEID"
        return cls(
            job=job,
            part=_number(environ, "NEMOTRON_PART", 1),
            parts=_number(environ, "NEMOTRON_PARTS", 1),
            restarts=_number(environ, "NEMOTRON_RESTARTS", 0),
            nodes=_number(environ, "NEMOTRON_NODES", 0),
            rank=_number(environ, rank, 0) if job else 0,
            deadline=_number(environ, "NEMOTRON_DEADLINE", 0) or None,
            own_ray=environ.get("NEMOTRON_RAY") != "external",
        )

    @property
    def is_last(self) -> bool:
        """Whether no other allocation of the chain follows."""
        return self.part >= self.parts

    def reason(self, number: int, now: float) -> str:
        """Why a signal asks the job to end: its time is nearly up, or somebody wants it to."""
        over = self.deadline is not None and now >= self.deadline - _END_SECONDS
        return WALLTIME if number == signal.SIGUSR1 or over else INTERRUPTED


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name) or str(default)
    try:
        return int(text)
    except ValueError as problem:
        raise CheckFailed(f"{name} is no whole number: {text!r}", where=name) from problem
