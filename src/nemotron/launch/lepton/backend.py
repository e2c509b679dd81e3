"""Lepton as a backend: carry the bundle to its storage, create the job, and what became of it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_json, write_text
from nemotron.artifacts.records import timestamp
from nemotron.artifacts.run_state import ELSEWHERE_FILE, read_object
from nemotron.artifacts.store import find_store
from nemotron.artifacts.submissions import LIVE, JobStatus, Journal, Submission
from nemotron.errors import NotFound, SchedulerError, UsageError, nearest
from nemotron.findings import Finding
from nemotron.launch.backend import After
from nemotron.launch.bundle import SECRETS_FILE, write_secrets
from nemotron.launch.lepton.api import Lepton, Silent, by_name
from nemotron.launch.lepton.checks import lepton_findings, secret_fix, secrets_without_name
from nemotron.launch.lepton.movers import carry
from nemotron.launch.lepton.names import job_id, safe_path
from nemotron.launch.lepton.node_script import NODE_SCRIPT, node_script
from nemotron.launch.lepton.options import LeptonOptions, lepton_options
from nemotron.launch.lepton.payloads import PAYLOAD, Asked, cluster_payload, job_payload, shown
from nemotron.launch.lepton.probe import LeptonProbe
from nemotron.launch.lepton.ray import cancel_ray, ray_job_status, ray_log, remove_cluster, submit_ray
from nemotron.launch.lepton.ship import Place
from nemotron.launch.lepton.states import job_status
from nemotron.launch.lepton.told import keep_told, read_told
from nemotron.launch.lepton.workspace import find_workspace
from nemotron.launch.slurm.container import is_below
from nemotron.planning.plan import Plan
from nemotron.profiles.check import SchedulerProbe

# How often a run is submitted anew at most, counted in the names of its jobs.
_MOST_TIMES = 50
# Of the log of a job that goes on: how soon it is read again, and what a megabyte of it adds to that.
_LOG_PAUSE, _LOG_PAUSE_MIB = 5.0, 5.0


@dataclass(frozen=True)
class LeptonBackend:
    """The workspace that `lep login` or LEPTON_WORKSPACE_* name. `Submission.cluster` is its id."""

    name: str = "lepton"

    def files(self, plan: Plan) -> Mapping[str, str]:
        """`lepton.sh`, and in `lepton.json` what is asked for, the run's names open. Raises UsageError."""
        options = lepton_options(plan.placement)
        script = node_script(plan, options.pre_launch_commands, options.pip_extras)
        asked = Asked("{run_id}", "{run_id}", "{run_dir}", "{mark}", options.node_group)
        if plan.placement.launch == "ray" and options.ray_version:
            return {NODE_SCRIPT: script, PAYLOAD: shown(cluster_payload(plan.placement, options, asked))}
        return {NODE_SCRIPT: script, PAYLOAD: shown(job_payload(plan.placement, options, asked))}

    def check(self, plan: Plan) -> tuple[Finding, ...]:
        """Fields, shape, storage, secrets, and paths that no mount covers."""
        return tuple(lepton_findings(plan))

    def probe(self, options: Mapping[str, Any]) -> SchedulerProbe | None:
        """What the workspace can be asked; None where none is known here."""
        try:
            return LeptonProbe(Lepton(find_workspace(os.environ)))
        except UsageError:
            return None

    def submit(self, directory: Path, plan: Plan, part: Submission, after: Sequence[After]) -> Submission:
        """Carry the bundle over and create the job.

        Raises UsageError for what Lepton cannot be told, SchedulerError as it refuses, Silent where it does
        not say whether it has the job.
        """
        waits = [job.name for each in after for job in each.jobs]
        if waits or part.parts > 1:
            what = f"on Lepton no job can wait for another: {', '.join(waits) or 'a chain'}"
            raise UsageError(what, next=f"nemotron runs wait {waits[0]}" if waits else "chain = 1")
        options = lepton_options(plan.placement)
        lepton = Lepton(find_workspace(os.environ))
        _hand_over_secrets(directory, plan, options)
        try:
            asked = self._carried(lepton, directory, plan, part, options)
        except Silent as problem:
            # No job was asked for yet: there is nothing that would have to be found out.
            raise SchedulerError(problem.what, where=problem.where, next=problem.next) from problem
        connection: dict[str, Any] = {"directory": str(directory.absolute())}
        if plan.placement.launch == "ray" and options.ray:
            cluster = submit_ray(lepton, plan.placement, options, asked)
            connection |= {"ray": cluster, "own": options.existing_ray_cluster is None}
            job = asked.job
        elif options.through_nemo_run:
            job = _created_by_nemo_run(lepton, plan, options, asked)
        else:
            job = _created(lepton, job_payload(plan.placement, options, asked), asked.job)
        now = timestamp(datetime.now(UTC))
        return replace(part, job=job, cluster=lepton.workspace.name, at=now, connection=connection)

    def _carried(
        self, lepton: Lepton, directory: Path, plan: Plan, part: Submission, options: LeptonOptions
    ) -> Asked:
        """What is asked for, when the bundle is where the nodes see it."""
        asked = replace(_asked(directory, part, options), group=_group(lepton, options.node_group))
        for name, text in self.files(plan).items():
            write_text(directory / name, text)
        if not options.launched_from_cluster:
            place = Place(asked.directory, f"{options.root}/records")
            told = {"backend": self.name, "directory": asked.directory, "mark": asked.mark}
            write_json(directory / ELSEWHERE_FILE, told)
            carry(lepton, directory, plan, place, options, asked)
        return asked

    def find(self, parts: Iterable[Submission]) -> Mapping[str, tuple[Submission, ...]]:
        """All jobs under the names of these; those of a Ray cluster are found by the cluster's."""
        lepton = Lepton(find_workspace(os.environ))
        found: dict[str, tuple[Submission, ...]] = {}
        for part in parts:
            ours = _ids(part.name)
            made = {_name_of(job) for job in lepton.jobs_like(job_id(part.name)[:20])}
            here = replace(part, cluster=lepton.workspace.name, connection=_connection(part.name))
            jobs = [replace(here, job=i) for i in ours if i in made]
            if not jobs and lepton.cluster(ours[0]) is not None:
                ray = {"ray": ours[0], "own": True}
                jobs = [replace(here, job=ours[0], connection={**here.connection, **ray})]
            if jobs:
                found[part.name] = tuple(jobs)
        return found

    def status(self, jobs: Sequence[Submission]) -> Mapping[str, JobStatus]:
        """What became of jobs; what they told on their output is put into their run directories, too."""
        lepton = Lepton(find_workspace(os.environ))
        return {job.job: self._one(lepton, job) for job in jobs}

    def cancel(self, jobs: Sequence[Submission]) -> None:
        """End jobs: their trainers are asked to save. One that has ended is left alone."""
        lepton = Lepton(find_workspace(os.environ))
        refused = []
        for job in jobs:
            try:
                if job.connection.get("ray"):
                    cancel_ray(lepton, job)
                else:
                    lepton.stop_job(job.job)
            except SchedulerError as problem:
                refused.append(f"{job.job}: {problem.what}")
        if refused:
            raise SchedulerError(f"not everything was cancelled: {'; '.join(refused)}", where="Lepton")

    def _one(self, lepton: Lepton, job: Submission) -> JobStatus:
        if job.connection.get("ray"):
            status, live = ray_job_status(lepton, job)
        else:
            said = lepton.job(job.job) or _archived(lepton, job.job)
            status = job_status(job.job, said) if said else JobStatus(job.job, "unknown")
            live = status.state in LIVE
        if status.state != "pending":
            self._keep_log(lepton, job, live=live)
        if job.connection.get("ray") and not live:
            remove_cluster(lepton, job)
        return status

    def _keep_log(self, lepton: Lepton, job: Submission, *, live: bool) -> None:
        """Read what the first node told, into the run's own files."""
        directory = Path(str(job.connection.get("directory", "")))
        mark = read_object(directory / ELSEWHERE_FILE).get("mark")
        if not mark or not _is_due(directory, live=live):
            return
        records = read_object(directory / "place.json").get("records_dir")
        if job.connection.get("ray"):
            texts = [ray_log(lepton, job)]
        else:
            # `ID-0-xxxxx` is the first node; a restarted job has several.
            firsts = [
                r for r in lepton.replicas(job.job) if r.startswith(f"{job.job}-0-") or r == f"{job.job}-0"
            ]
            texts = [lepton.log(job.job, replica) for replica in firsts]
        for text in texts:
            keep_told(read_told(text, str(mark)), directory, Path(str(records or directory / "records")))


BACKEND = LeptonBackend()


def _asked(directory: Path, part: Submission, options: LeptonOptions) -> Asked:
    """What is submitted, under an id that no job of this run had before."""
    before = len(Journal(directory).submitted())
    job = _ids(part.name)[min(before, _MOST_TIMES - 1)]
    if options.launched_from_cluster:
        place = safe_path(str(directory.resolve()), "the directory of the run")
        if not any(is_below(place, mount.mount_path) for mount in options.mounts):
            raise UsageError(
                f"{place} is below no mount: the nodes would not see it",
                where="launched_from_cluster",
                valid=tuple(mount.mount_path for mount in options.mounts),
                next=f'remote_job_dir = "{options.root}" in the profile, or NEMOTRON_HOME below a mount',
            )
    else:
        place = safe_path(f"{options.root}/{part.name}", "nemo_run_dir")
    return Asked(job, part.name, place, secrets.token_hex(8))


def _ids(run: str) -> list[str]:
    """Ids of the jobs of a run: of its first submission, its second, and so on."""
    return [job_id(run), *(job_id(f"{run}-{n}") for n in range(2, _MOST_TIMES + 1))]


def _connection(run: str) -> dict[str, Any]:
    """Where the files of a run are on this machine, for a client that was killed before it could say so."""
    try:
        return {"directory": str(find_store(os.environ, Path.cwd()).run_dir(run))}
    except NotFound:
        return {}


def _hand_over_secrets(directory: Path, plan: Plan, options: LeptonOptions) -> None:
    """See that every secret goes by its name at Lepton; the file of their values is not needed then.

    Raises UsageError for those that Lepton is told no name of: they would arrive nowhere.
    """
    try:
        text = (directory / SECRETS_FILE).read_bytes()
    except FileNotFoundError:
        return
    known = frozenset(pair.partition(b"=")[0].decode() for pair in text.split(b"\0") if pair)
    write_secrets(directory, {})
    names = secrets_without_name(plan, options, known)
    if names:
        raise UsageError(
            f"{', '.join(names)}: no secret that Lepton holds is named for it",
            where=f"profile {plan.placement.profile}: secret_vars",
            next=secret_fix(plan, names),
        )


def _group(lepton: Lepton, name: str | None) -> str | None:
    """The id of a node group. Raises UsageError where there is none of this name."""
    if name is None:
        return None
    groups = lepton.node_groups()
    group = by_name(groups, name)
    if group is None:
        known = [each.name for each in groups]
        raise UsageError(
            f"Lepton has no node group {name}", where="node_group", nearest=nearest(name, known), valid=known
        )
    return group.id


def _created(lepton: Lepton, payload: Mapping[str, Any], job: str) -> str:
    """Create a job; one that was created by a call that nobody answered counts."""
    try:
        return lepton.create_job(payload)
    except Silent:
        time.sleep(1.0)
        if lepton.job(job) is None:
            raise
        return job


def _created_by_nemo_run(lepton: Lepton, plan: Plan, options: LeptonOptions, asked: Asked) -> str:
    """As `_created`; whatever nemo-run made of a failure, Lepton is asked whether it has the job."""
    from nemotron.launch.nemo_run.backend import submit_lepton

    try:
        return submit_lepton(plan.placement, options, asked)
    except SchedulerError:
        if lepton.job(asked.job) is None:
            raise
        return asked.job


def _archived(lepton: Lepton, job: str) -> Mapping[str, Any] | None:
    """A job that ended long ago."""
    return next((each for each in lepton.jobs_like(job) if _name_of(each) == job), None)


def _name_of(job: Mapping[str, Any]) -> str:
    """The id of a listed job. Raises SchedulerError for one that has none: it might be what is looked for."""
    metadata = job.get("metadata")
    name = (metadata.get("id") or metadata.get("name")) if isinstance(metadata, Mapping) else None
    if not isinstance(name, str):
        raise SchedulerError(
            "Lepton lists a job without an id; whether it is ours cannot be told", where="GET /jobs"
        )
    return name


def _is_due(directory: Path, *, live: bool) -> bool:
    """Whether a log is read again: the longer it is the more seldom, and always at the end, once."""
    if not live:
        return not (directory / "record.json").is_file()
    try:
        seen = [log.stat() for log in (directory / "logs").glob("attempt-*.log")]
    except OSError:
        return True
    pause = _LOG_PAUSE + _LOG_PAUSE_MIB * sum(each.st_size for each in seen) / (1 << 20)
    return not seen or time.time() - max(each.st_mtime for each in seen) >= pause
