"""Slurm as a backend: submit, find, status and cancel, each by the commands of a login node."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_text
from nemotron.artifacts.records import timestamp
from nemotron.artifacts.run_state import ELSEWHERE_FILE, read_object
from nemotron.artifacts.submissions import JobStatus, Submission
from nemotron.errors import SchedulerError, UsageError
from nemotron.findings import Finding
from nemotron.launch.backend import After, Unanswered
from nemotron.launch.slurm.call import HERE, Transport, said
from nemotron.launch.slurm.checks import slurm_findings
from nemotron.launch.slurm.container import outermost, refuse_in_mount
from nemotron.launch.slurm.image_word import image_of
from nemotron.launch.slurm.images import import_script
from nemotron.launch.slurm.options import dependencies
from nemotron.launch.slurm.probe import SlurmProbe
from nemotron.launch.slurm.render import SUBMIT, TASK, submit_script, task_script
from nemotron.launch.slurm.states import SACCT_FORMAT, SQUEUE_FORMAT, Row, sacct_rows, squeue_rows
from nemotron.launch.ssh.login import login_of
from nemotron.launch.ssh.place import ROOT, Site, site_of
from nemotron.planning.plan import Plan
from nemotron.profiles.check import SchedulerProbe

IMPORT = "image.sh"
_SUBMIT_SECONDS, _ASK_SECONDS = 120.0, 30.0
# A command line has room for many more; a controller is held up by each query.
_AT_ONCE = 400
# What squeue, scancel and the file system take for a name or a path without reading more into it.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}", re.ASCII)
_NOT_IN_PATHS = re.compile(r"[\x00-\x1f\x7f\\]|[\ud800-\udfff]")
_JOB = re.compile(r"(\d+)(?:;(\S+))?", re.ASCII)
_GONE = re.compile(r"Invalid job id|already completing or completed")
# Clocks of a client and of a controller differ by this at most.
_CLOCKS = timedelta(minutes=2)


@dataclass(frozen=True)
class SlurmBackend:
    """The cluster that `sbatch` of this machine speaks to, or that of a login node that ssh knows."""

    name: str = "slurm"

    def files(self, plan: Plan) -> Mapping[str, str]:
        """`submit.sh` and `task.sh`, the same for every run of the plan. Raises UsageError."""
        return {SUBMIT: submit_script(plan), TASK: task_script()}

    def check(self, plan: Plan) -> tuple[Finding, ...]:
        """Shape, options, and paths that no mount covers."""
        return tuple(slurm_findings(plan))

    def probe(self, options: Mapping[str, Any]) -> SchedulerProbe | None:
        """What the cluster can be asked; None where there is no Slurm."""
        login = login_of(options)
        if login is not None:
            return SlurmProbe(login, login.user)
        return SlurmProbe() if shutil.which("sinfo") else None

    def connection(self, plan: Plan) -> Mapping[str, Any]:
        """How the login node is reached; empty where this is one. Raises UsageError."""
        options = {**plan.placement.options, ROOT: plan.placement.run_root}
        if site_of(options) is None:
            return {}
        known = ("tunnel", "host", "user", "identity", ROOT)
        return {name: str(options[name]) for name in known if options.get(name)}

    def submit(self, directory: Path, plan: Plan, part: Submission, after: Sequence[After]) -> Submission:
        """Hand one job over; its files are written into the directory where they are not there yet.

        Through a tunnel the whole directory is brought to the login node first. The first part of a run whose
        image is not imported yet waits for a job of its own that does it.
        Raises UsageError for a directory or a name that Slurm cannot be told, SchedulerError as it refuses,
        Unanswered when it is not known whether it took the job.
        """
        directory = directory.resolve()
        part = replace(part, connection=self.connection(plan))
        site = site_of(part.connection)
        there = directory if site is None else Path(site.directory(directory.name))
        submit_command(there, plan, part, after)  # raises before anything is handed over
        importing = _import_text(there, plan, part)
        texts = {**self.files(plan), **({} if importing is None else {IMPORT: importing})}
        for name, text in texts.items():
            path = directory / name
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                write_text(path, text)
        (directory / "logs").mkdir(exist_ok=True)
        if site is not None and part.part == 1:
            from nemotron.launch.ssh.ship import ship

            ship(site, directory, plan, tuple(texts))
        try:
            return self._submitted(there, plan, part, after, imports=importing is not None)
        except Unanswered:
            raise
        except SchedulerError:
            if site is not None and part.part == 1:
                _forget(site, there)
            raise

    def _submitted(
        self, there: Path, plan: Plan, part: Submission, after: Sequence[After], *, imports: bool
    ) -> Submission:
        """Call sbatch in the directory of the run, as the cluster sees it."""
        login = _login(part)
        if imports:
            after = (*after, self._import(login, there, part))
        command = submit_command(there, plan, part, after)
        try:
            done = login.call(command, seconds=_SUBMIT_SECONDS, cwd=there)
        except Unanswered:
            taken = self._taken(part)
            if taken is None:
                raise
            return taken
        found = _JOB.match(done.stdout.strip())
        if done.returncode != 0 or found is None:
            raise _refused(said(done))
        now = timestamp(datetime.now(UTC))
        return replace(part, job=found[1], cluster=found[2] or part.cluster, at=now)

    def collect(self, directory: Path, job: Submission, *, over: bool) -> None:
        """Bring back logs and records of a run on the other end of a tunnel. Errors: SchedulerError."""
        site = site_of(job.connection)
        if site is None or not (directory / ELSEWHERE_FILE).is_file():
            return
        from nemotron.launch.ssh.collect import collect

        records = read_object(directory / "place.json").get("records_dir")
        collect(site, directory, Path(str(records or directory / "records")), over=over)

    def find(self, parts: Iterable[Submission]) -> Mapping[str, tuple[Submission, ...]]:
        """All jobs under the names of these, oldest first, those that have ended included.

        `part` is that of the job's own command where Slurm tells it, else that of the submission.
        """
        found: dict[str, tuple[Submission, ...]] = {}
        for group in _by_login(part for part in parts if _NAME.fullmatch(part.name)):
            found |= self._find(_login(group[0]), {part.name: part for part in group})
        return found

    def _find(self, login: Transport, asked: Mapping[str, Submission]) -> dict[str, tuple[Submission, ...]]:
        rows: dict[str, dict[str, Row]] = {name: {} for name in asked}
        since = min((_moment(part.at) for part in asked.values()), default=datetime.now(UTC)) - _CLOCKS
        for names in _slices(list(asked)):
            joined = ",".join(names)
            by_name = [f"--name={joined}"]
            for row in [
                *_sacct(login, [*by_name, f"--starttime={since:%Y-%m-%dT%H:%M:%S}"]),
                *_squeue(login, by_name),
            ]:
                if row.name in rows:
                    rows[row.name][row.job] = row  # squeue's word counts, it comes last
        return {
            name: tuple(_submission(asked[name], row) for row in sorted(known.values(), key=_age))
            for name, known in rows.items()
            if known
        }

    def status(self, jobs: Sequence[Submission]) -> Mapping[str, JobStatus]:
        """What became of jobs: squeue is asked first, then sacct for those that it has forgotten.

        sacct trails squeue by seconds, and goes on to call a job running that was lost with its controller:
        what it says of a job counts only when the job has ended.
        """
        found: dict[str, JobStatus] = {}
        for login, cluster, several in _by_cluster(jobs):
            names = {job.job: job.name for job in several}
            for ids in _slices(list(names)):
                by_id = [*cluster_option(cluster), f"--jobs={','.join(ids)}"]
                # An id that was given out again belongs to a job of another name.
                known = {r.job: r.status for r in _squeue(login, by_id) if names.get(r.job) == r.name}
                forgotten = [i for i in ids if known.get(i) is None or known[i].state == "unknown"]
                if forgotten:
                    by_id = [*cluster_option(cluster), f"--jobs={','.join(forgotten)}"]
                    rows = _sacct(login, by_id)
                    ended = {r.job: r.status for r in rows if names.get(r.job) == r.name}
                    known |= {i: s for i, s in ended.items() if s.state not in ("pending", "running")}
                found |= known
        return {job.job: found.get(job.job, JobStatus(job.job, "unknown")) for job in jobs}

    def cancel(self, jobs: Sequence[Submission]) -> None:
        """End jobs. One that has ended, or whose id is another's by now, is left alone."""
        refused = []
        for login, cluster, several in _by_cluster(jobs):
            for name in dict.fromkeys(job.name for job in several):
                ids = [job.job for job in several if job.name == name]
                command = ["scancel", *cluster_option(cluster), f"--jobname={name}", *ids]
                done = login.call(command, seconds=_ASK_SECONDS)
                lines = [line for line in done.stderr.splitlines() if line.strip() and not _GONE.search(line)]
                if done.returncode != 0 and lines:
                    refused += lines
        if refused:
            raise SchedulerError(f"not everything was cancelled: {'; '.join(refused)}", where="scancel")

    def _import(self, login: Transport, there: Path, part: Submission) -> After:
        """Hand over the job that imports the image of a run, for its first part to wait for."""
        name = f"{part.name}.image"
        done = login.call([*_command(there, name), IMPORT], seconds=_SUBMIT_SECONDS, cwd=there)
        found = _JOB.match(done.stdout.strip())
        if done.returncode != 0 or found is None:
            raise _refused(said(done))
        return After((replace(part, job=found[1], name=name),))

    def _taken(self, part: Submission) -> Submission | None:
        """The job of a submission that nobody answered, where Slurm has it."""
        begun = _moment(part.at) - _CLOCKS
        known = self.find((part,)).get(part.name, ())
        mine = [job for job in known if job.part == part.part and _moment(job.at) >= begun]
        return mine[-1] if mine else None


BACKEND = SlurmBackend()


def _import_text(there: Path, plan: Plan, part: Submission) -> str | None:
    """The script that imports the image of a run, for its first part; None where it is there."""
    image = image_of(plan.placement)
    if image is None or not image.needs_import or part.part != 1:
        return None
    placement, options = plan.placement, plan.placement.options
    force = bool(options.get("force_squash"))
    return import_script(str(placement.image), options, there, force=force, setup=placement.setup)


def _forget(site: Site, there: Path) -> None:
    from nemotron.launch.ssh.ship import forget_secrets_there

    with suppress(SchedulerError):  # what went wrong before is what the user has to know
        forget_secrets_there(site, str(there))


def _login(job: Submission) -> Transport:
    return login_of(job.connection) or HERE


def submit_command(directory: Path, plan: Plan, part: Submission, after: Sequence[After]) -> list[str]:
    """The argument list of sbatch; the options of the plan are in the script that it ends with.

    directory: of the run, without symbolic links in it. Raises UsageError.
    """
    if not _NAME.fullmatch(part.name):
        raise UsageError(
            f"{part.name[:80]!r} cannot name a job", valid=("letters, digits, and . _ + -, a letter first",)
        )
    if _NOT_IN_PATHS.search(str(directory)):
        what = (
            "a run cannot be submitted from a directory with a control character or a backslash in its path"
        )
        where = repr(str(directory))[:200]
        raise UsageError(what, where=where, next="set NEMOTRON_HOME to another place")
    command = _command(directory, part.name)
    waits = [f"after{each.when}:{':'.join(job.job for job in each.jobs)}" for each in after if each.jobs]
    asked = dependencies(plan.placement.options)
    waits += [asked] if asked else []
    if waits:
        command.append(f"--dependency={','.join(waits)}")
        # Else a job whose input failed would wait for ever.
        command.append("--kill-on-invalid-dep=yes")
    seen = _places if not part.connection else _places_there
    places = seen(directory) if plan.placement.image is not None else ()
    return [*command, SUBMIT, str(part.part), str(part.parts), *places]


def _command(directory: Path, name: str) -> list[str]:
    # Slurm replaces %j and the like wherever in the path they are.
    log = str(directory).replace("%", "%%") + "/logs/slurm-%j.out"
    place = ("--export=ALL", f"--chdir={directory}", f"--output={log}")
    return ["sbatch", "--parsable", *place, f"--job-name={name}"]


def cluster_option(cluster: str) -> list[str]:
    """How a command is told of another cluster than this machine's own."""
    return [f"--clusters={cluster}"] if cluster else []


def _places(directory: Path) -> tuple[str, ...]:
    """What a container has to see beside the plan's mounts: records, and the directories of other runs."""
    found = {str(directory.parent)}
    try:
        place = json.loads((directory / "place.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        place = {}
    records = place.get("records_dir")
    if records:
        Path(records).mkdir(parents=True, exist_ok=True)
        # The runs of a store are beside its records, as links where they are kept elsewhere.
        found |= {records, str(Path(records).parent / "runs")}
    for late in place.get("late", {}).values():
        if "directory" in late:
            found.add(str(Path(late["directory"]).parent))
    there = [path for path in found if Path(path).is_dir()]
    for path in there:
        refuse_in_mount(path)
    return outermost(there)


def _places_there(directory: Path) -> tuple[str, ...]:
    """The same where this machine does not see them: runs and their records lie side by side there."""
    refuse_in_mount(str(directory.parent))
    return (str(directory.parent),)


def _refused(what: str) -> SchedulerError:
    hint = None
    if "generic resource" in what:
        hint = "where GPUs are no resource of the scheduler: sbatch = { gres = false } in the profile"
    elif "partition" in what:
        hint = "sinfo shows the partitions; nemotron profiles check compares them with a profile"
    elif "account" in what:
        hint = "sacctmgr show associations user=$USER shows the accounts"
    return SchedulerError(f"sbatch refused the job: {what}", where="sbatch", next=hint)


def _squeue(login: Transport, selection: Sequence[str]) -> list[Row]:
    options = ["--noheader", "--states=all", f"--Format={SQUEUE_FORMAT}"]
    done = login.call(["squeue", *options, *selection], seconds=_ASK_SECONDS, utc=True)
    if done.returncode != 0 and not _GONE.search(done.stderr):
        raise SchedulerError(f"squeue: {said(done)}", where="squeue")
    return list(squeue_rows(done.stdout))


def _sacct(login: Transport, selection: Sequence[str]) -> list[Row]:
    options = ["--noheader", "--parsable2", "--allocations", f"--format={SACCT_FORMAT}"]
    try:
        done = login.call(["sacct", *options, *selection], seconds=_ASK_SECONDS, utc=True)
    except SchedulerError:
        return []  # what squeue has forgotten stays unknown
    return list(sacct_rows(done.stdout))


def _submission(asked: Submission, row: Row) -> Submission:
    return replace(asked, job=row.job, at=row.submitted or asked.at, part=row.part or asked.part)


def _age(row: Row) -> tuple[str, int]:
    return row.submitted or "", int(row.job)


def _moment(at: str) -> datetime:
    try:
        return datetime.fromisoformat(at).astimezone(UTC)
    except ValueError:
        return datetime.now(UTC) - timedelta(days=30)


def _by_login(jobs: Iterable[Submission]) -> list[list[Submission]]:
    """Jobs that one login node knows."""
    found: dict[Transport, list[Submission]] = {}
    for job in jobs:
        found.setdefault(_login(job), []).append(job)
    return list(found.values())


def _by_cluster(jobs: Iterable[Submission]) -> list[tuple[Transport, str, list[Submission]]]:
    found: dict[tuple[Transport, str], list[Submission]] = {}
    for job in jobs:
        if job.job:
            found.setdefault((_login(job), job.cluster), []).append(job)
    return [(login, cluster, several) for (login, cluster), several in found.items()]


def _slices(items: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(items), _AT_ONCE):
        yield list(items[start : start + _AT_ONCE])
