"""What became of runs that were handed to schedulers: they are asked once for all of them, and it is kept.

A client that was killed while it submitted leaves a submission without an answer: its job is adopted where
the scheduler has one. A job that was killed cannot write how it ended: that is written here, in its name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from nemotron.artifacts.atomic import os_error
from nemotron.artifacts.run_state import (
    LOCK_FILE,
    RunState,
    is_locked,
    is_unfinished,
    seconds_since,
    standing,
)
from nemotron.artifacts.runs import Run
from nemotron.artifacts.store import Store
from nemotron.artifacts.submissions import LIVE, JobStatus, Journal, Submission
from nemotron.errors import NemotronError
from nemotron.findings import Finding
from nemotron.launch.backend import Backend, Distant, find_backend
from nemotron.launch.bundle import SECRETS_FILE
from nemotron.launch.closing import close_run

# Until then a client that lives may still be waiting for the scheduler's answer.
ANSWER_SECONDS = 150.0
# A scheduler's accounting tells of a new job a moment later than its controller.
_ASK_AGAIN_SECONDS = 0.5
# A file server may show what a job wrote at its end this much later.
_VISIBLE_SECONDS = 10.0

Find = Callable[[str], Backend]


@dataclass(frozen=True)
class Change:
    """A run that is in another state than it was known to be. reason: in the scheduler's words."""

    run: str
    before: RunState
    now: RunState
    reason: str | None = None


@dataclass(frozen=True)
class Refreshed:
    """What a refresh found. findings: schedulers that did not answer, and what could not be written."""

    changes: tuple[Change, ...] = ()
    findings: tuple[Finding, ...] = ()


def refresh(store: Store, runs: Iterable[Run], find: Find = find_backend) -> Refreshed:
    """Ask the schedulers of those of `runs` that are not over; one call for all that share a scheduler.

    What they say is kept in the run directories. The state of a run whose scheduler does not answer stays
    what was last known. A run that nobody ended properly gets its ended record; the secrets of runs that are
    over are removed. No backend is imported when all of them are over. find: gives a backend by its name.
    """
    own = [run for run in runs if Journal(run.directory).exists]
    before = {run.directory: standing(run.directory).state for run in own}
    open_ = [run for run in own if is_unfinished(run.directory)]
    findings = []
    if open_:
        findings += _adopt(open_, find)
        findings += _ask(open_, find)
        for run in open_:
            with _each(findings, run):
                _collect(run, find)
                _close(store, run)
    for run in own:
        with _each(findings, run):
            _forget_secrets(run)
    changes = []
    for run in own:
        now = standing(run.directory)
        if now.state != before[run.directory]:
            changes.append(Change(run.id, before[run.directory], now.state, now.reason))
    return Refreshed(tuple(changes), tuple(findings))


def by_scheduler(jobs: Iterable[Submission]) -> dict[str, list[Submission]]:
    """Jobs that one call can ask for, under a key that names their scheduler."""
    groups: dict[str, list[Submission]] = {}
    for job in jobs:
        key = json.dumps([job.backend, job.connection, job.cluster], sort_keys=True)
        groups.setdefault(key, []).append(job)
    return groups


@contextmanager
def _each(findings: list[Finding], run: Run) -> Iterator[None]:
    """An error about one run becomes a finding, so that the others are not held up by it."""
    try:
        yield
    except NemotronError as problem:
        where = problem.where or str(run.directory)
        findings.append(Finding("run.not_kept", "warning", f"run {run.id}: {problem.what}", where))


def _silent(backend: str, problem: NemotronError) -> Finding:
    said = f"{backend} does not answer: {problem.what}"
    return Finding("scheduler.silent", "warning", said, problem.where, fix=problem.next)


def _adopt(runs: Sequence[Run], find: Find) -> list[Finding]:
    """Answer for clients that did not live to note what their scheduler said."""
    findings: list[Finding] = []
    waiting = {run.id: (run, Journal(run.directory)) for run in runs}
    begun = [part for _, journal in waiting.values() for part in journal.unanswered()]
    for group in by_scheduler(replace(part, cluster="") for part in begun).values():
        try:
            backend = find(group[0].backend)
            found = backend.find(group)
            if any(_is_missing(part, found, waiting) for part in group):
                time.sleep(_ASK_AGAIN_SECONDS)
                found = backend.find(group)
        except NemotronError as problem:
            findings.append(_silent(group[0].backend, problem))
            continue
        for name in dict.fromkeys(part.name for part in group):
            run, journal = waiting[name]
            with _each(findings, run):
                _answer(journal, found.get(name, ()))
    return findings


def _is_missing(
    part: Submission, found: Mapping[str, Sequence[Submission]], waiting: Mapping[str, tuple[Run, Journal]]
) -> bool:
    return _is_late(part) and not _unknown_jobs(waiting[part.name][1], found.get(part.name, ()))


def _is_late(part: Submission) -> bool:
    return (seconds_since(part.at) or 0.0) > ANSWER_SECONDS


def _unknown_jobs(journal: Journal, found: Sequence[Submission]) -> list[Submission]:
    """Jobs of a run's name that its journal does not hold, in the order in which they were made."""
    known = {job.job for job in journal.submitted()}
    new = {job.job: job for job in found if job.job not in known}
    return sorted(new.values(), key=lambda job: (len(job.job), job.job))


def _answer(journal: Journal, found: Sequence[Submission]) -> None:
    new = _unknown_jobs(journal, found)
    for part in journal.unanswered():
        if new:
            job = next((each for each in new if each.part == part.part), new[0])
            new.remove(job)
            adopted = replace(job, part=part.part, parts=part.parts, at=job.at or part.at)
            journal.note("submitted", adopted, begun=part.at, adopted=True)
        elif _is_late(part):
            journal.note("failed", part, reason="never submitted")


def _ask(runs: Sequence[Run], find: Find) -> list[Finding]:
    """Keep what the schedulers say of all jobs of these runs; one that ended may have been requeued."""
    findings: list[Finding] = []
    jobs = {run.directory: Journal(run.directory).submitted() for run in runs}
    said: dict[str, Mapping[str, JobStatus]] = {}
    for key, group in by_scheduler(job for each in jobs.values() for job in each).items():
        try:
            said[key] = find(group[0].backend).status(group)
        except NemotronError as problem:
            findings.append(_silent(group[0].backend, problem))
    for run in runs:
        now: dict[str, JobStatus] = {}
        for key, group in by_scheduler(jobs[run.directory]).items():
            if key in said:
                now |= {j.job: said[key].get(j.job, JobStatus(j.job, "unknown")) for j in group}
        if now:
            with _each(findings, run):
                _keep(Journal(run.directory), now)
    return findings


def _keep(journal: Journal, now: Mapping[str, JobStatus]) -> None:
    """A scheduler forgets jobs that ended long ago: what it said of their end stays true."""
    before = {each.job: each for each in journal.seen()[1]}
    for job, status in now.items():
        old = before.get(job)
        if status.state != "unknown" or old is None:
            before[job] = status
        elif old.state in LIVE:
            before[job] = replace(old, state="unknown", reason="the scheduler knows nothing of it")
    journal.saw(before.values())


def _collect(run: Run, find: Find) -> None:
    """Bring back what a run wrote where nobody here sees it, before its end is looked for."""
    journal = Journal(run.directory)
    jobs, (_, said) = journal.submitted(), journal.seen()
    backend = find(jobs[0].backend) if jobs else None
    if isinstance(backend, Distant):
        words = {each.job: each.state for each in said}
        over = all(words.get(job.job, "unknown") not in (*LIVE, "unknown") for job in jobs)
        backend.collect(run.directory, jobs[-1], over=over)


def _close(store: Store, run: Run) -> None:
    """Write how a run ended whose jobs are all over, where the job itself did not."""
    journal = Journal(run.directory)
    jobs, (_, said) = journal.submitted(), journal.seen()
    words = {each.job: each for each in said}
    known = [words[job.job] for job in jobs if job.job in words]
    if not jobs or len(known) < len(jobs) or any(each.state in (*LIVE, "unknown") for each in known):
        return
    if journal.unanswered() or run.record or is_locked(run.directory / LOCK_FILE):
        return
    if run.attempts and any((seconds_since(each.ended) or 1e9) < _VISIBLE_SECONDS for each in known):
        return
    close_run(store, run, jobs, words)


def _forget_secrets(run: Run) -> None:
    path: Path = run.directory / SECRETS_FILE
    if standing(run.directory).state in ("succeeded", "failed", "interrupted", "prepared"):
        try:
            with suppress(FileNotFoundError):
                path.unlink()
        except OSError as problem:
            raise os_error(problem, path) from problem
