"""How an attempt ended: from what became of its trainer to an exit code, a reason and outputs."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemotron.artifacts.records import stat_fingerprint
from nemotron.errors import CheckFailed
from nemotron.job.allocation import INTERRUPTED, WALLTIME, Allocation
from nemotron.job.chain import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_KILLED, NO_PROGRESS, NODE_LOST
from nemotron.job.outputs import check_outputs, find_outputs
from nemotron.job.progress import has_advanced, kept_step, saved_step
from nemotron.job.watching.supervision import End


@dataclass(frozen=True)
class Ending:
    """The end of an attempt.

    failure: what `failure.json` is to say, None where it is left as it is. is_trainers_own: the trainer
    failed, and may have said why.
    """

    code: int
    reason: str | None = None
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failure: Mapping[str, Any] | None = None
    is_trainers_own: bool = False


@dataclass(frozen=True)
class Course:
    """What an end is judged by.

    planned: the outputs of the plan. begun: the step that training went on from. planned_steps: where it is
    done, None where nobody knows.
    """

    directory: Path
    planned: Sequence[Mapping[str, Any]]
    allocation: Allocation
    begun: int | None = None
    planned_steps: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the last step is known to be trained and saved."""
        saved = saved_step(self.directory, self.planned)
        return saved is not None and self.planned_steps is not None and saved >= self.planned_steps

    @property
    def is_cut_short(self) -> bool:
        """Whether the last step is known not to be saved."""
        saved = saved_step(self.directory, self.planned)
        return saved is not None and self.planned_steps is not None and saved < self.planned_steps


def judge(end: End, course: Course) -> Ending:
    """What the end of a trainer means for its attempt."""
    if end.trouble is not None:
        # As killed from outside where a node went away: submitted scripts keep the next allocation for that.
        code = EXIT_KILLED if end.trouble.reason == NODE_LOST else EXIT_FAILED
        return Ending(code, end.trouble.reason, failure=_trouble(end.trouble.what, code))
    if end.stopped == INTERRUPTED:  # with exit code 0 too: it may have saved and stopped half-way
        return Ending(EXIT_INTERRUPTED, INTERRUPTED)
    if end.stopped is not None and not (end.code == 0 and course.is_complete):
        return _out_of_time(course)
    if end.code != 0:
        reason = f"signal {_signal_name(-end.code)}" if end.code < 0 else "trainer failed"
        code = 128 - end.code if end.code < 0 else end.code
        return Ending(code, reason, is_trainers_own=True)
    if end.left_in_time and course.is_cut_short:
        return _out_of_time(course)
    return _with_outputs(course)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return str(number)


def _trouble(what: str, code: int) -> dict[str, Any]:
    from nemotron.job.nodes.link import node_name  # what it needs takes 10 ms

    return {"what": what, "node": node_name(), "exit_code": code}


def _out_of_time(course: Course) -> Ending:
    """The time is up: the next allocation goes on, unless this one was for nothing."""
    allocation = course.allocation
    now = kept_step(course.directory, course.planned)
    if allocation.parts == 1 or has_advanced(course.begun, now):
        return Ending(EXIT_INTERRUPTED, WALLTIME)
    part = f"allocation {allocation.part} of {allocation.parts}"
    failure = {
        "what": f"no progress: {part} ended at step {now}, where it began",
        "next": "save more often, give an allocation more time, or let it save earlier before its end",
        "exit_code": EXIT_FAILED,
    }
    return Ending(EXIT_FAILED, NO_PROGRESS, failure=failure)


def _with_outputs(course: Course) -> Ending:
    outputs, missing = find_outputs(course.directory, course.planned)
    for output in outputs.values():
        output["fingerprint"] = stat_fingerprint(Path(output["path"]))
    if missing:
        code = CheckFailed.exit_code
        return Ending(code, missing, outputs, {"what": missing, "exit_code": code})
    # A client that waits for the end checks them itself, and need not read them twice.
    problem = check_outputs(outputs) if course.allocation.job is not None else None
    if problem is not None:
        return Ending(problem.exit_code, problem.what, outputs, problem.as_dict())
    return Ending(0, outputs=outputs)
