"""Allocations that follow one another: what the ones before left, and whether there is anything left to do.

A scheduler starts every part of a chain, whatever became of the parts before; it starts a part anew after
a preemption, a dead node or a `requeue`. Each of them finds out here whether the run is over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_json
from nemotron.artifacts.records import AttemptRecord, read_record
from nemotron.artifacts.run_state import BEAT_FILE, RECORD_FILE, read_object
from nemotron.artifacts.submissions import Journal
from nemotron.errors import Conflict, SchedulerError
from nemotron.job.allocation import INTERRUPTED, WALLTIME, Allocation
from nemotron.job.progress import has_advanced, kept_step
from nemotron.job.recorder import Recorder

NO_PROGRESS, HANG, NODE_LOST, LOST = "no progress", "hang", "node lost", "lost"
# What ended with an allocation and not with the work; a client says the last, who asked the scheduler.
_GOES_ON = (WALLTIME, LOST, NODE_LOST, "preempted")
EXIT_FAILED, EXIT_INTERRUPTED, EXIT_KILLED = 1, 130, 137
SECRETS_FILE = ".secrets"


def count_attempts(directory: Path) -> int:
    """How many attempts of a run have begun."""
    return sum(1 for _ in (directory / "logs").glob("attempt-*.log"))


def may_go_on(exit_code: object, reason: object) -> bool:
    """Whether the next allocation of a chain goes on after an attempt that ended so.

    After what ended with an allocation, not with the work: its time, one of its nodes, the network.
    """
    return reason in _GOES_ON or exit_code == SchedulerError.exit_code


def is_over(directory: Path, allocation: Allocation) -> bool:
    """Whether earlier allocations of the same chain ended the run for good.

    A newly submitted run never is: somebody wants it to go on.
    """
    record = read_object(directory / RECORD_FILE)
    if not record or may_go_on(record.get("exit_code"), record.get("reason")):
        return False
    job = record.get("scheduler_id")
    if job == allocation.job:
        # Another node finds this where the first one has ended already; after a requeue it is from before.
        return record.get("exit_code") == 0 or (allocation.rank > 0 and allocation.restarts == 0)
    return allocation.part > 1 and job in (_chain(directory, allocation) or (job,))


def forget_secrets(directory: Path, allocation: Allocation, exit_code: int, reason: str | None) -> None:
    """Remove the file of secrets, unless this run may go on without its client.

    Who cancels a run removes it; whether a job was cancelled or will be requeued is not known in it.
    """
    goes_on = may_go_on(exit_code, reason) and not allocation.is_last
    if not goes_on and not (allocation.job and reason == INTERRUPTED):
        (directory / SECRETS_FILE).unlink(missing_ok=True)


def account_for_lost(recorder: Recorder) -> None:
    """Write the last word of a newest attempt that was killed before it could. Errors: see `write_record`."""
    directory = recorder.directory
    last = count_attempts(directory)
    if last == 0 or read_object(directory / RECORD_FILE).get("attempt") == last:
        return
    if _recorded(recorder, last):
        return
    seen = read_object(directory / BEAT_FILE)
    seen = seen if seen.get("attempt") == last else {}
    reason, code = _lost_reason(seen, recorder)
    told = {name: seen[name] for name in ("at", "host", "pid", "inputs") if seen.get(name)}
    more = {"host": None, "pid": None, **told, "scheduler_id": seen.get("job")}
    with contextlib.suppress(Conflict):  # a client was faster, and asked the scheduler
        recorder.write(last, "ended", exit_code=code, reason=reason, outputs={}, **more)
    _recorded(recorder, last)


def _lost_reason(seen: Mapping[str, Any], recorder: Recorder) -> tuple[str, int]:
    """Reason and exit code of an attempt that was killed, perhaps while it was stopping."""
    stopping = seen.get("stopping")
    if stopping is None:
        return LOST, EXIT_KILLED
    now = kept_step(recorder.directory, recorder.plan["outputs"])
    chained = isinstance(seen.get("parts"), int) and seen["parts"] > 1
    if stopping == WALLTIME and chained and not has_advanced(seen.get("begun"), now):
        return NO_PROGRESS, EXIT_FAILED
    return str(stopping), EXIT_INTERRUPTED


def _recorded(recorder: Recorder, attempt: int) -> bool:
    """Whether somebody recorded the end of an attempt; then it is the run's `record.json`."""
    name = f"attempt-{recorder.directory.name}-{attempt}.ended.json"
    for file in sorted(recorder.records_dir.glob(f"*/{name}")):
        record = read_record(file)
        if isinstance(record, AttemptRecord):
            write_json(recorder.directory / RECORD_FILE, record.as_dict())
            return True
    return False


def _chain(directory: Path, allocation: Allocation) -> tuple[str, ...]:
    """The jobs that were submitted together with this one and before it; empty where nobody knows."""
    found: tuple[str, ...] = ()
    for each in Journal(directory).submitted():
        found = (each.job,) if each.part == 1 else (*found, each.job)
        if each.job == allocation.job:
            return found
    return ()
