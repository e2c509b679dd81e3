"""Which runs there are: told by the names of their records, and read only where they are shown.

A record's file name holds run, attempt and phase, and its directory the day, so that the newest of many
thousand runs are found without opening the others. Runs that somebody else recorded in a shared directory
are among them; so are runs that have a directory here and no record yet.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nemotron.errors import NotFound, UsageError
from nemotron.findings import Finding

from .paths import printable
from .records import PHASES, AttemptRecord, read_record
from .run_state import UNFINISHED, RunState, Standing, ended_state
from .runs import Run
from .store import Store, age

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_ATTEMPT = "attempt-"
_END = re.compile(rf"(\d{{1,9}})\.({'|'.join(PHASES)})\.json")
_SHOWN = 12


@dataclass(frozen=True)
class ListedRun:
    """One run in a list.

    state: that of its last attempt; `unknown` where only its machine can tell, and when its record cannot be
    read. attempts: how many began. ended: ISO time. metrics: the last value of each.
    directory: where the run is, here or on the machine that recorded it; None where nothing says.
    backend, profile: where it was sent. job: what the scheduler calls the job that matters now. reason: why
    it waits, in the scheduler's words. asked: ISO time of these, where they decided the state.
    """

    run: str
    step: str | None = None
    config: str | None = None
    engine: str | None = None
    state: RunState = "unknown"
    attempts: int | None = None
    ended: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    directory: str | None = None
    user: str | None = None
    backend: str | None = None
    profile: str | None = None
    job: str | None = None
    reason: str | None = None
    asked: str | None = None


@dataclass(frozen=True)
class RunListing:
    """Runs, newest first. findings: records and directories that could not be read."""

    runs: tuple[ListedRun, ...]
    findings: tuple[Finding, ...]


class AttemptFile(NamedTuple):
    """A record of an attempt, told by its name alone; of one run's records the later is the greater."""

    attempt: int
    phase: int  # its place in PHASES
    path: str


def list_runs(store: Store, limit: int) -> RunListing:
    """The newest runs that records or directories of the store tell of, `limit` at most.

    Raises what `os_error` makes of a directory of runs that cannot be listed.
    """
    findings: list[Finding] = []
    last, ages = _last_records(store.records_dir, limit, findings)
    here = {run_id: age(run_id) for run_id in store.run_ids()[:limit]}
    ages |= here
    runs = []
    for run_id in sorted(ages, key=ages.__getitem__, reverse=True)[:limit]:
        place = store.runs_dir / run_id if run_id in here else None
        record = read_record(last[run_id].path) if run_id in last else None
        if isinstance(record, AttemptRecord):
            runs.append(_recorded(record, place))
            continue
        if isinstance(record, Finding):
            findings.append(record)
        runs.append(listed_run(Run(place)) if place else ListedRun(run_id))
    return RunListing(tuple(runs), tuple(findings))


def listed_run(run: Run) -> ListedRun:
    """A run as its own directory tells of it."""
    plan, record, now = run.plan, run.record, run.standing()
    recipe, metrics, placement = plan.get("recipe"), record.get("metrics"), plan.get("placement")
    known = recipe if isinstance(recipe, dict) else {}
    placed = placement if isinstance(placement, dict) else {}
    return ListedRun(
        run=run.id,
        step=known.get("step"),
        config=plan.get("config_name"),
        engine=known.get("engine"),
        attempts=record.get("attempt"),
        ended=record.get("at"),
        metrics=metrics if isinstance(metrics, dict) else {},
        directory=str(run.directory),
        user=record.get("user"),
        backend=placed.get("backend"),
        profile=placed.get("profile"),
        **_told(now, record.get("scheduler_id")),
    )


def find_run(store: Store, prefix: str) -> Run:
    """The run whose id is `prefix` or begins with it: of this store, else where its record says that it is.

    Errors: those of `Store.run_dir`; NotFound, too, when a run is recorded and its directory is not here.
    """
    try:
        return Run(store.run_dir(prefix))
    except NotFound:
        findings: list[Finding] = []
        files = (each for _, day in attempt_files(store.records_dir, findings) for each in day)
        found = {run_id: file for run_id, file in files if run_id.startswith(prefix)}
        if not found:
            raise
    if len(found) > 1 and prefix not in found:
        valid = sorted(found, key=age, reverse=True)[:_SHOWN]
        raise UsageError(f"{len(found)} runs begin with {prefix}", valid=valid, next="type more of the id")
    run_id = prefix if prefix in found else next(iter(found))
    record = read_record(found[run_id].path)
    directory = record.directory if isinstance(record, AttemptRecord) else None
    if directory is not None and _can_look_into(directory):
        return Run(Path(directory))
    host = record.host if isinstance(record, AttemptRecord) else None
    raise NotFound(
        f"run {run_id} is recorded, and its directory is not here",
        where=f"{host or '?'}:{printable(directory or '?')}",
        next="nemotron runs list --json tells what the record holds",
    )


def attempt_files(
    records_dir: Path, findings: list[Finding]
) -> Iterator[tuple[str, list[tuple[str, AttemptFile]]]]:
    """Run ids and records of attempts by day, the newest day first; names are listed and nothing is read.

    What cannot be listed is added to `findings`.
    """
    ends: dict[str, tuple[int, int] | None] = {}
    days = [name for name in _names(str(records_dir), findings) if _DAY.fullmatch(name)]
    for day in sorted(days, reverse=True):
        place = f"{records_dir}{os.sep}{day}"
        found = []
        for name in _names(place, findings):
            if name.startswith(_ATTEMPT):
                run_id, _, end = name[len(_ATTEMPT) :].rpartition("-")
                if end not in ends:  # a handful, for all files there may be
                    ends[end] = _moment(end)
                moment = ends[end]
                if moment is not None:
                    found.append((run_id, AttemptFile(*moment, f"{place}{os.sep}{name}")))
        yield day, found


def _moment(end: str) -> tuple[int, int] | None:
    """Attempt and phase, from the end of a record's name."""
    match = _END.fullmatch(end)
    return (int(match[1]), PHASES.index(match[2])) if match else None


def _last_records(
    records_dir: Path, limit: int, findings: list[Finding]
) -> tuple[dict[str, AttemptFile], dict[str, tuple[str, str]]]:
    """The last record of at least the `limit` newest runs, where there are so many, and the runs' ages."""
    last: dict[str, AttemptFile] = {}
    ages: dict[str, tuple[str, str]] = {}
    for day, files in attempt_files(records_dir, findings):
        for run_id, file in files:
            known = last.get(run_id)
            if known is None:
                ages[run_id] = age(run_id)
            if known is None or known < file:
                last[run_id] = file
        # Records of a run are as old as its id or younger; a day more, for clocks that do not agree.
        if (
            len(ages) >= limit
            and sum(begun[:8] > day.replace("-", "") for begun, _ in ages.values()) >= limit
        ):
            break
    return last, ages


def _recorded(record: AttemptRecord, here: Path | None) -> ListedRun:
    """A run as its last record tells of it; here: its directory in this store, if it has one."""
    place = str(here) if here is not None else record.directory
    over = record.phase in ("ended", "settled")
    now = Standing(ended_state(record.exit_code, record.reason) if over else "unknown")
    ended = record.at if over else None
    # One that was cut off may go on in another allocation.
    if now.state in ("unknown", "interrupted") and place is not None and _can_look_into(place):
        # Its files, not this record: it may have ended since the records were listed.
        run = Run(Path(place))
        now, ended = run.standing(), run.record.get("at")
    config = record.config_name
    if config is None and here is not None:
        config = Run(here).plan.get("config_name")
    return ListedRun(
        run=record.run_id,
        step=record.step,
        config=config,
        engine=record.engine,
        attempts=record.attempt,
        ended=ended,
        metrics=record.metrics or {},
        directory=place,
        user=record.user,
        backend=record.backend,
        profile=record.profile,
        **_told(now, record.scheduler_id),
    )


def _told(now: Standing, recorded_job: object) -> dict[str, Any]:
    """What a list says of a run's standing."""
    job = now.job.job if now.job else recorded_job
    live = now.state in UNFINISHED
    return {
        "state": now.state,
        "job": job if isinstance(job, str) else None,
        "reason": now.reason if live else None,
        "asked": now.asked if live else None,
    }


def _names(directory: str, findings: list[Finding]) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - ten thousands of names, and nothing but names
    except FileNotFoundError:
        return []
    except OSError as exc:
        said = f"cannot be listed: {(exc.strerror or str(exc)).lower()}"
        findings.append(Finding("record.unreadable", "warning", said, printable(directory)))
        return []


def _can_look_into(directory: str) -> bool:
    return os.access(directory, os.R_OK | os.X_OK) and Path(directory).is_dir()
