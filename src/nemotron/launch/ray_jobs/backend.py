"""A running Ray cluster as a backend: submit, find, status and cancel through its Jobs API.

The nodes of the cluster have to see the directory of the run: where the store is not on a file system of the
cluster, the profile's `remote_job_dir` is. All that Ray is told is one fixed command; no value that a person
typed, and no secret, is in what its API and its dashboard show.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_json, write_text
from nemotron.artifacts.records import timestamp
from nemotron.artifacts.submissions import JobStatus, Submission
from nemotron.errors import SchedulerError, UsageError
from nemotron.findings import Finding
from nemotron.launch.backend import After, Unanswered
from nemotron.launch.ray_jobs import waiter
from nemotron.launch.ray_jobs.api import Jobs, api_address
from nemotron.launch.ray_jobs.checks import ray_findings
from nemotron.launch.ray_jobs.probe import RayProbe
from nemotron.launch.ray_jobs.states import job_status, waiting_status
from nemotron.launch.ray_jobs.waiter import WAITING
from nemotron.planning.plan import Placement, Plan
from nemotron.planning.words import shell_words
from nemotron.profiles.check import SchedulerProbe

RAY_DATA = "NEMOTRON_RAY_DATA"
"""Set for jobs whose data steps are to use Ray Data: see `nemotron.data.stream`."""
SUBMIT, WAIT, WANTED = "submit.sh", "wait.py", "wait.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}", re.ASCII)
_NOT_IN_PATHS = re.compile(r"[\x00-\x1f\x7f]|[\ud800-\udfff]")
# How often the same run can be handed over.
_MOST = 1000
# What a trainer gets to save (60 s) and its runtime to write that down, before Ray kills them.
_STOP, _STOP_SECONDS = "RAY_JOB_STOP_WAIT_TIME_S", "90"

# Ray tells the driver of the job's environment, and a trainer that hands its own environment to its workers
# would be refused for a variable that stands in both.
_SCRIPT = """\
#!/usr/bin/env bash
# Runs {what} on a Ray cluster: bash submit.sh JOB
set +ex -u
cd -- "$(dirname -- "${{BASH_SOURCE[0]}}")" || exit 1
unset {stop}
export NEMOTRON_JOB_ID=$1 NEMOTRON_PART=1 NEMOTRON_PARTS=1 NEMOTRON_RESTARTS=0
export NEMOTRON_NODES=1 NEMOTRON_NODE_RANK=0 NEMOTRON_RAY=external
mkdir -p -- logs
echo "the logs of this run are in $PWD/logs"
{setup}exec bash launch.sh >> logs/job.log 2>&1
"""


@dataclass(frozen=True)
class RayBackend:
    """The cluster that the profile's `address` names; `Submission.connection` holds it."""

    name: str = "ray"

    def files(self, plan: Plan) -> Mapping[str, str]:
        """`submit.sh`, the same for every run of the plan. Raises UsageError."""
        setup = "".join(f"{line}\n" for line in plan.placement.setup)
        setup = f"# The profile's own lines.\n{setup}" if setup else ""
        if plan.placement.options.get("ray_data"):
            setup = f"export {RAY_DATA}=1\n{setup}"
        what = shell_words([plan.recipe.step])
        return {SUBMIT: _SCRIPT.format(what=what, stop=_STOP, setup=setup)}

    def check(self, plan: Plan) -> tuple[Finding, ...]:
        """Address and shape."""
        return tuple(ray_findings(plan))

    def probe(self, options: Mapping[str, Any]) -> SchedulerProbe | None:
        """What the cluster can be asked; None where nothing says which one is meant."""
        try:
            return RayProbe(Jobs(api_address(options.get("address"))))
        except UsageError:
            return None  # `check` says so

    def connection(self, plan: Plan) -> Mapping[str, Any]:
        """The address. Raises UsageError for what is none."""
        return {"address": api_address(plan.placement.options.get("address"))}

    def submit(self, directory: Path, plan: Plan, part: Submission, after: Sequence[After]) -> Submission:
        """Hand a run over, or first the job that waits for the runs it is based on.

        Raises UsageError for a name that no job can have, SchedulerError as Ray refuses it, Unanswered.
        """
        directory = directory.resolve()
        if not _NAME.fullmatch(part.name):
            raise UsageError(f"{part.name[:80]!r} cannot name a job")
        if _NOT_IN_PATHS.search(str(directory)):
            what = "a run cannot be handed to Ray from a directory whose path is no text"
            raise UsageError(
                what, where=repr(str(directory))[:200], next="set NEMOTRON_HOME to another place"
            )
        part = replace(part, connection=self.connection(plan))
        jobs = _jobs(part)
        texts = dict(self.files(plan))
        waits = [each for each in after if each.jobs]
        if waits:
            texts[WAIT] = Path(waiter.__file__).read_text(encoding="utf-8")
        for name, text in texts.items():
            write_text(directory / name, text)
        try:
            number = _free_id(jobs, part.name)
        except Unanswered as problem:
            # Nothing was asked for yet: there is nothing that would have to be found out.
            raise SchedulerError(problem.what, where=problem.where, next=problem.next) from problem
        payload = job_payload(directory, plan.placement, part.name, number)
        if waits:
            told = [
                {"when": each.when, "jobs": [{"job": j.job, "name": j.name} for j in each.jobs]}
                for each in waits
            ]
            write_json(directory / WANTED, {"address": jobs.address, "job": payload, "after": told})
            payload = _waiting_payload(directory, payload, _python(plan))
        try:
            jobs.submit(payload)
        except Unanswered:
            if jobs.job(str(payload["submission_id"])) is None:
                raise
        return replace(part, job=number, at=timestamp(datetime.now(UTC)))

    def find(self, parts: Iterable[Submission]) -> Mapping[str, tuple[Submission, ...]]:
        """All jobs under the names of these, those that wait to be handed over included."""
        found: dict[str, tuple[Submission, ...]] = {}
        for jobs, several in _by_address(parts).items():
            known: dict[str, int] = {}
            for each in jobs.jobs():
                number = str(each["submission_id"]).removesuffix(WAITING)
                known.setdefault(number, int(each.get("start_time") or 0))
            for part in several:
                mine = [i for i in known if i == part.name or _is_later(i, part.name)]
                if mine:
                    mine.sort(key=lambda each: (known[each], len(each), each))
                    found[part.name] = tuple(replace(part, job=each) for each in mine)
        return found

    def status(self, jobs: Sequence[Submission]) -> Mapping[str, JobStatus]:
        """What became of jobs: one call for those of a cluster.

        A cluster keeps what it knows of its jobs for as long as its head lives: one that it does not know was
        another's, which is gone and its jobs with it.
        """
        found: dict[str, JobStatus] = {}
        for api, several in _by_address(jobs).items():
            known = {str(each["submission_id"]): each for each in api.jobs()}
            for job in several:
                if job.job in known:
                    found[job.job] = job_status(job.job, known[job.job])
                elif job.job + WAITING in known:
                    found[job.job] = waiting_status(job.job, known[job.job + WAITING])
                else:
                    what = f"the Ray cluster at {api.address} is another than the one that took it"
                    found[job.job] = JobStatus(job.job, "node_fail", reason=what)
        return found

    def cancel(self, jobs: Sequence[Submission]) -> None:
        """End jobs: their trainers are asked to save. One that has ended is left alone."""
        refused = []
        for api, several in _by_address(jobs).items():
            for job in several:
                # First the one that would hand it over.
                for number in (job.job + WAITING, job.job):
                    try:
                        if api.job(number) is not None:
                            api.stop(number)
                    except SchedulerError as problem:
                        refused.append(problem.what)
        if refused:
            raise SchedulerError(f"not everything was cancelled: {'; '.join(refused)}", where="Ray")


BACKEND = RayBackend()


def job_payload(directory: Path, placement: Placement, name: str, job: str) -> dict[str, Any]:
    """The body of the request that hands a run over.

    A step that is launched by Ray asks for what it needs itself; any other has it from the start.
    """
    own = placement.gpus_per_node if placement.launch != "ray" else 0
    return {
        "submission_id": job,
        "entrypoint": f"bash {shell_words([str(directory / SUBMIT), job])}",
        "runtime_env": {"env_vars": {_STOP: _STOP_SECONDS}},
        "metadata": {"nemotron_run": name},
        **({"entrypoint_num_gpus": own} if own else {}),
    }


def _waiting_payload(directory: Path, payload: Mapping[str, Any], python: str) -> dict[str, Any]:
    words = [python, "-I", str(directory / WAIT), str(directory / WANTED)]
    more = {"submission_id": f"{payload['submission_id']}{WAITING}", "entrypoint": shell_words(words)}
    return {**{k: v for k, v in payload.items() if k in ("metadata",)}, **more}


def _python(plan: Plan) -> str:
    return "python3" if plan.placement.image else sys.executable


def _jobs(job: Submission) -> Jobs:
    return Jobs(api_address(job.connection.get("address")))


def _by_address(jobs: Iterable[Submission]) -> dict[Jobs, list[Submission]]:
    found: dict[Jobs, list[Submission]] = {}
    for job in jobs:
        found.setdefault(_jobs(job), []).append(job)
    return found


def _free_id(jobs: Jobs, name: str) -> str:
    """An id that no job had: a run that is handed over again is another job."""
    for number in range(1, _MOST):
        job = name if number == 1 else f"{name}.{number}"
        if jobs.job(job) is None and jobs.job(job + WAITING) is None:
            return job
    raise SchedulerError(f"{name} was handed over {_MOST} times", where=jobs.address)


def _is_later(job: str, name: str) -> bool:
    return job.startswith(f"{name}.") and job.removeprefix(f"{name}.").isdigit()
