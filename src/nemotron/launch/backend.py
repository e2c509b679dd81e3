"""What a launch asks of a scheduler, and where to find one by name.

A backend is an object that the entry point group `nemotron.backends` names: another package adds one by
declaring it there. It hands one fixed command to its scheduler, `bash launch.sh` in the run directory;
what a person typed is in files of that directory, quoted once.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from nemotron.artifacts.submissions import JobStatus, Submission
from nemotron.errors import SchedulerError, UsageError, nearest
from nemotron.findings import Finding
from nemotron.planning.plan import Plan
from nemotron.profiles.check import SchedulerProbe

GROUP = "nemotron.backends"
# Ours are found without a look at every installed package, which takes 20 ms.
_OURS: Mapping[str, str] = {
    "slurm": "nemotron.launch.slurm.backend",
    "local": "nemotron.launch.detached.backend",
    "lepton": "nemotron.launch.lepton.backend",
    "dgxcloud": "nemotron.launch.nemo_run.backend:DGXCLOUD",
    "skypilot": "nemotron.launch.nemo_run.backend:SKYPILOT",
    "kuberay": "nemotron.launch.nemo_run.backend:KUBERAY",
    "ray": "nemotron.launch.ray_jobs.backend",
}


@dataclass(frozen=True)
class After:
    """Jobs that have to end first: `ok` when all must have succeeded, `any` when their end alone counts."""

    jobs: tuple[Submission, ...]
    when: Literal["ok", "any"] = "ok"


class Unanswered(SchedulerError):
    """Nobody knows whether the scheduler did what it was asked to: it did not answer, or nobody heard it."""


class Backend(Protocol):
    """One kind of scheduler. Errors of all but `files`: SchedulerError, with what the scheduler said."""

    name: str

    def files(self, plan: Plan) -> Mapping[str, str]:
        """The files it adds to the run directory, name to text.

        What a dry run shows is this. Raises UsageError for values that cannot be handed to the scheduler.
        """

    def check(self, plan: Plan) -> tuple[Finding, ...]:
        """What can be told wrong without asking the scheduler: shape, mounts, names."""

    def probe(self, options: Mapping[str, Any]) -> SchedulerProbe | None:
        """What the scheduler can be asked before anything is submitted; None where it is not in reach."""

    def submit(self, directory: Path, plan: Plan, part: Submission, after: Sequence[After]) -> Submission:
        """Hand one job over; `part` says which, and comes back with `job`, `cluster` and `at` filled in."""

    def find(self, parts: Iterable[Submission]) -> Mapping[str, tuple[Submission, ...]]:
        """All jobs the scheduler knows under the names of these, by name: for a client that was killed."""

    def status(self, jobs: Sequence[Submission]) -> Mapping[str, JobStatus]:
        """What became of jobs, by id, in one call; one that the scheduler does not know is `unknown`."""

    def cancel(self, jobs: Sequence[Submission]) -> None:
        """End jobs, whether they wait or run; one that has ended is no error."""


@runtime_checkable
class Addressed(Protocol):
    """A backend that has more than one scheduler to speak to: which one is noted before it is spoken to."""

    def connection(self, plan: Plan) -> Mapping[str, Any]:
        """What `find`, `status` and `cancel` need to reach it; nothing secret in it. Raises UsageError."""


@runtime_checkable
class Distant(Protocol):
    """A backend whose jobs may write to storage that nobody here sees."""

    def collect(self, directory: Path, job: Submission, *, over: bool) -> None:
        """Bring back what the run in `directory` has written since; over: all its jobs have ended.

        Does nothing for a run whose directory its jobs see. Errors: SchedulerError.
        """


def find_backend(name: str) -> Backend:
    """The backend of this name. Raises UsageError where there is none."""
    if name in _OURS:
        module, _, attribute = _OURS[name].partition(":")
        found: Backend = getattr(importlib.import_module(module), attribute or "BACKEND")
        return found
    from importlib.metadata import entry_points

    others = {point.name: point for point in entry_points(group=GROUP)}
    if name not in others:
        known = (*_OURS, *others)
        raise UsageError(f"there is no backend {name!r}", nearest=nearest(name, known), valid=known)
    loaded: Backend = others[name].load()
    return loaded
