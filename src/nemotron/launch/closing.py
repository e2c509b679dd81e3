"""The ended record of an attempt that could not write one: its node was lost, or it never began."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nemotron.artifacts.atomic import json_text, os_error, write_new
from nemotron.artifacts.records import AttemptRecord, read_record, timestamp, write_record
from nemotron.artifacts.run_state import BEAT_FILE, RECORD_FILE, read_object
from nemotron.artifacts.runs import Run
from nemotron.artifacts.store import Store
from nemotron.artifacts.submissions import JobState, JobStatus, Submission
from nemotron.errors import Conflict

DEPENDENCY = "dependency"
# A job that never began to work says little.
_KEPT_CHARACTERS = 1 << 16
# How a run is told to have ended, and with which exit code, where the job's own does not count.
_ENDS: Mapping[JobState, tuple[str, int | None]] = MappingProxyType(
    {
        "timeout": ("walltime", 130),
        "node_fail": ("node lost", 137),
        "cancelled": ("cancelled", 130),
        "preempted": ("preempted", 130),
        "out_of_memory": ("out of memory", None),
        "failed": ("job failed", None),
        "succeeded": ("job left no record", 1),
    }
)


def close_run(
    store: Store, run: Run, jobs: Sequence[Submission], words: Mapping[str, JobStatus]
) -> AttemptRecord:
    """Record the end of the last attempt of a run whose jobs are all over; returns the record.

    Whoever does the same at the same time writes the same record. jobs: what was handed over; words: what
    the scheduler says of each, by id. Errors: see `os_error`.
    """
    beat = read_object(run.directory / BEAT_FILE)
    job = _decisive(jobs, words, str(beat.get("job")) if run.attempts else None)
    status = words[job.job]
    reason, code = _reason_and_code(status)
    awaited = _awaited(run) if reason == DEPENDENCY else ""
    attempt, record = run.attempts, _record(store, run, run.attempts, "ended")
    began = attempt > 0 and (record is None or record.scheduler_id == job.job)
    said = f" ({status.reason})" if status.reason else ""
    what = f"job {job.job} ended{'' if began else ' before it began to work'}: {awaited or reason}{said}"
    kept = sorted((run.directory / "logs").glob(f"*-{job.job}.out"))
    if not began:
        attempt += 1
        _claim_attempt(run, attempt, what, kept)
    if record is None or not began:
        record = replace(
            _known(store, run, attempt, job),
            phase="ended",
            at=_moment(status.ended) or _moment(beat.get("at")) or job.at,
            exit_code=code,
            reason=reason,
            outputs={},
            scheduler_id=job.job,
        )
        with suppress(Conflict):  # somebody else was faster, with other words
            write_record(records_dir(store, run), record)
    if status.state != "cancelled" or awaited:
        where = ", ".join(status.nodes) or None
        told = {"what": what + _cause(kept), "where": where, "exit_code": code}
        _write_new(run.directory / "failure.json", told)
    _write_new(run.directory / RECORD_FILE, record.as_dict())
    return record


def _reason_and_code(status: JobStatus) -> tuple[str, int]:
    reason, code = _ENDS.get(status.state, ("job failed", None))
    if status.state == "cancelled" and "Dependency" in str(status.reason):
        reason = DEPENDENCY
    if status.state == "node_fail" and not status.nodes:
        reason = "lost"
    if code is None:
        code = status.exit_code or (137 if status.state == "out_of_memory" else 1)
    return reason, code


def _decisive(
    jobs: Sequence[Submission], words: Mapping[str, JobStatus], of_attempt: str | None
) -> Submission:
    """The job of the last attempt; without one the first that did not end well: the others waited for it."""
    own = next((job for job in jobs if job.job == of_attempt), None)
    if own is not None:
        return own
    started = [job for job in jobs if words[job.job].started]
    unwell = [job for job in started or jobs if words[job.job].state != "succeeded"]
    return (unwell or list(jobs))[0]


def _awaited(run: Run) -> str:
    """Which runs a job waited for that were not to have their outputs."""
    late = run.place.get("late")
    wanted = late.values() if isinstance(late, dict) else ()
    runs = dict.fromkeys(str(w["run"]) for w in wanted if isinstance(w, dict) and w.get("run"))
    return f"it waited for {', '.join(runs)}, and that did not succeed" if runs else DEPENDENCY


def _cause(kept: Sequence[Path]) -> str:
    """What the scheduler's own logs of a job tell of its end: an image or a mount that is not there, say."""
    from nemotron.job.causes.first_cause import first_cause

    cause = first_cause(kept) if kept else None
    return f": {cause['what']}" if cause else ""


def _claim_attempt(run: Run, number: int, what: str, kept: Sequence[Path]) -> None:
    """Take the number of an attempt that never began: the next one must not write records of its name.

    Its log is what the scheduler kept of its job.
    """
    log = run.directory / "logs" / f"attempt-{number}.log"
    try:
        log.parent.mkdir(exist_ok=True)
        with suppress(FileExistsError):
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{what}\n")
                for each in kept:
                    with each.open(encoding="utf-8", errors="replace") as text:
                        file.write(text.read(_KEPT_CHARACTERS))
    except OSError as problem:
        raise os_error(problem, log) from problem


def records_dir(store: Store, run: Run) -> Path:
    """Where the run's own job writes its records."""
    return Path(str(run.place.get("records_dir") or store.records_dir))


def _record(store: Store, run: Run, attempt: int, phase: str) -> AttemptRecord | None:
    for path in records_dir(store, run).glob(f"*/attempt-{run.id}-{attempt}.{phase}.json"):
        found = read_record(path)
        if isinstance(found, AttemptRecord):
            return found
    return None


def _known(store: Store, run: Run, attempt: int, job: Submission) -> AttemptRecord:
    """What is known of an attempt: its own record of the start, or that of its submission, or the plan."""
    for phase in ("started", "submitted"):
        found = _record(store, run, attempt, phase)
        if found is not None:
            return found
    plan, place = run.plan, run.place
    recipe, placement = _object(plan.get("recipe")), _object(plan.get("placement"))
    return AttemptRecord(
        run_id=run.id,
        attempt=attempt,
        phase="submitted",
        at=job.at,
        step=recipe.get("step"),
        root=placement.get("root"),
        engine=recipe.get("engine"),
        engine_version=recipe.get("engine_version"),
        plan_digest=place.get("plan_digest"),
        recipe_digest=plan.get("recipe_digest"),
        inputs=place.get("inputs"),
        code=recipe.get("code"),
        backend=job.backend,
        profile=placement.get("profile"),
        nemotron_version=place.get("nemotron_version"),
        directory=str(run.directory),
        config_name=plan.get("config_name"),
    )


def _write_new(path: Path, value: Mapping[str, Any]) -> None:
    write_new(path, json_text(value).encode("utf-8", "surrogateescape"))


def _moment(text: object) -> str | None:
    """An ISO time as records hold it."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return timestamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
