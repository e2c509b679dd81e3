"""A scheduler that says what a test tells it to say, and runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nemotron.artifacts.submissions import JobStatus, Journal, Submission
from nemotron.errors import SchedulerError

SUBMITTED = "2026-11-21T12:30:06.000Z"


@dataclass
class Scheduler:
    """Stands at the process boundary: what `sbatch` and its kin would answer."""

    said: dict[str, JobStatus] = field(default_factory=dict)
    known: dict[str, tuple[Submission, ...]] = field(default_factory=dict)
    silent: bool = False
    calls: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)

    name = "fake"

    def __call__(self, name: str) -> Scheduler:
        """As `find_backend`."""
        return self

    def tell(self, job: str, state: str, **more: object) -> None:
        """From now on it says so of a job."""
        self.said[job] = JobStatus(job, state, **more)  # type: ignore[arg-type]

    def find(self, parts: Iterable[Submission]) -> Mapping[str, tuple[Submission, ...]]:
        self._called("find", [part.name for part in parts])
        return self.known

    def status(self, jobs: Sequence[Submission]) -> Mapping[str, JobStatus]:
        self._called("status", [job.job for job in jobs])
        return {job.job: self.said.get(job.job, JobStatus(job.job, "unknown")) for job in jobs}

    def cancel(self, jobs: Sequence[Submission]) -> None:
        self._called("cancel", [job.job for job in jobs])
        for job in jobs:
            old = self.said.get(job.job, JobStatus(job.job, "pending"))
            if old.state in ("pending", "running"):
                self.said[job.job] = replace(old, state="cancelled")

    def _called(self, what: str, of: list[str]) -> None:
        self.calls.append((what, tuple(of)))
        if self.silent:
            raise SchedulerError("connection refused")


def submitted(
    directory: Path, *jobs: str, at: str = SUBMITTED, backend: str = "fake"
) -> tuple[Submission, ...]:
    """Journal lines as a client leaves them that submitted these jobs, one part after another."""
    journal = Journal(directory)
    made = []
    for part, job in enumerate(jobs, 1):
        begun = Submission(backend, "", directory.name, at=at, part=part, parts=len(jobs))
        journal.note("submitting", begun)
        done = replace(begun, job=job, cluster="c1")
        journal.note("submitted", done, begun=at)
        made.append(done)
    return tuple(made)
