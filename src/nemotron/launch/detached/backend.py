"""The backend of this machine: a run that goes on when whoever started it has gone.

A job is a process in a session of its own, known as `PID:STARTTIME`, which names no other process of this
host until it boots again. It becomes `bash launch.sh`, once the runs that it waits for have ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import os_error
from nemotron.artifacts.records import timestamp
from nemotron.artifacts.run_state import BEAT_FILE, LOCAL, RECORD_FILE, process_lives, read_object, start_time
from nemotron.artifacts.submissions import JobState, JobStatus, Submission
from nemotron.errors import SchedulerError
from nemotron.findings import Finding
from nemotron.job.allocation import NAMES
from nemotron.launch.backend import After
from nemotron.launch.detached import start
from nemotron.launch.local import ATTEMPT, LIFELINE
from nemotron.planning.plan import Plan
from nemotron.profiles.check import SchedulerProbe

_START = Path(start.__file__)
_DIRECTORY = "directory"
# What an attached run, or an allocation that this is typed in, says to its own job.
_NOT_OURS = (LIFELINE, ATTEMPT, *NAMES)


class Detached:
    """Jobs as processes of this host; `Submission.cluster` is the host's name."""

    name = LOCAL

    def files(self, plan: Plan) -> Mapping[str, str]:
        """None: `launch.sh` is all that it takes."""
        return {}

    def check(self, plan: Plan) -> tuple[Finding, ...]:
        """Nothing that a plan for this machine does not check anyway."""
        return ()

    def probe(self, options: Mapping[str, Any]) -> SchedulerProbe | None:
        """None: there is nothing to ask."""
        return None

    def submit(self, directory: Path, plan: Plan, part: Submission, after: Sequence[After]) -> Submission:
        """Start the process. It waits for the jobs in `after` by itself."""
        wanted = {
            "directory": str(directory.absolute()),
            "part": part.part,
            "parts": part.parts,
            "after": [
                {"job": job.job, "record": str(_directory(job, directory) / RECORD_FILE), "when": each.when}
                for each in after
                for job in each.jobs
            ],
        }
        here = (LOCAL, _host())
        elsewhere = [j.name for each in after for j in each.jobs if (j.backend, j.cluster) != here]
        if elsewhere:
            raise SchedulerError(
                f"a run on this machine cannot wait for {', '.join(elsewhere)}, which goes on elsewhere",
                where=str(directory),
                next=f"nemotron runs wait {elsewhere[0]}, and then the same command",
            )
        pid = _start(directory, json.dumps(wanted))
        return replace(
            part,
            job=f"{pid}:{start_time(pid) or 0}",
            cluster=_host(),
            at=timestamp(datetime.now(UTC)),
            connection={**part.connection, _DIRECTORY: str(directory.absolute())},
        )

    def find(self, parts: Iterable[Submission]) -> Mapping[str, tuple[Submission, ...]]:
        """The processes of this host that were started for runs of these names."""
        wanted = {part.name: part for part in parts}
        found: dict[str, tuple[Submission, ...]] = {}
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):  # noqa: PTH208
            directory = _started_for(pid)
            part = wanted.get(directory.name) if directory else None
            if part is None or directory is None:
                continue
            job = replace(
                part,
                job=f"{pid}:{start_time(pid) or 0}",
                cluster=_host(),
                connection={**part.connection, _DIRECTORY: str(directory)},
            )
            found[part.name] = (*found.get(part.name, ()), job)
        return found

    def status(self, jobs: Sequence[Submission]) -> Mapping[str, JobStatus]:
        """What the processes do; how one ended tells the record of its run."""
        return {job.job: _status(job) for job in jobs}

    def cancel(self, jobs: Sequence[Submission]) -> None:
        """Ask the jobs to end, which lets their trainers save."""
        for job in jobs:
            if job.cluster != _host():
                raise SchedulerError(
                    f"{job.name} runs on {job.cluster}, and only there it can be cancelled",
                    next=f"on {job.cluster}: nemotron runs cancel {job.name}",
                )
            with suppress(ProcessLookupError):
                _signal(job.job)


BACKEND = Detached()


def _start(directory: Path, wanted: str) -> int:
    """Start the process, its words in the run's log; returns its number."""
    log = directory / "logs" / "job.log"
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    try:
        log.parent.mkdir(exist_ok=True)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            return os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", str(_START), str(directory.absolute()), wanted],
                environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1),
            )
        finally:
            os.close(output)
    except OSError as problem:
        raise os_error(problem, log) from problem


def _started_for(pid: int) -> Path | None:
    """The run directory that a process was started for; None for other processes, and those of others."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if len(words) > 3 and words[1:3] == [b"-I", os.fsencode(_START)]:
            return Path(os.fsdecode(words[3]))
        if b"launch.sh" in words[:2] or b"runtime/start.py" in words[:3]:
            # A run attached to another client has a lifeline; its end is not ours to tell.
            held = Path(f"/proc/{pid}/environ").read_bytes()
            return Path(f"/proc/{pid}/cwd").readlink() if b"NEMOTRON_JOB_ID=" in held else None
    except OSError:
        return None
    return None


def _status(job: Submission) -> JobStatus:
    directory = _directory(job, Path())
    if job.cluster == _host() and process_lives(job.job):
        began = read_object(directory / BEAT_FILE).get("job") == job.job
        return JobStatus(job.job, "running" if began else "pending", nodes=(job.cluster,))
    record = read_object(directory / RECORD_FILE)
    if record.get("scheduler_id") == job.job:
        code = record.get("exit_code")
        state: JobState = "succeeded" if code == 0 else "failed"
        return JobStatus(job.job, state, code if isinstance(code, int) else None, ended=record.get("at"))
    if job.cluster != _host():
        return JobStatus(job.job, "unknown", reason=f"only {job.cluster} can tell")
    failure = read_object(directory / "failure.json")
    if failure.get("upstream"):
        return JobStatus(job.job, "cancelled", reason=str(failure.get("what")))
    began = any((directory / "logs").glob("attempt-*.log"))
    return JobStatus(
        job.job, "node_fail" if began and not record else "cancelled", reason="its process is gone"
    )


def _directory(job: Submission, sibling: Path) -> Path:
    """The run directory of a job, as it was noted when it was submitted."""
    known = job.connection.get(_DIRECTORY)
    return Path(str(known)) if known else sibling.parent / job.name


def _signal(job: str) -> None:
    """SIGTERM for a process, and for no other that has its number by now."""
    handle = os.pidfd_open(int(job.partition(":")[0]))
    try:
        if process_lives(job):
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    finally:
        os.close(handle)


def _host() -> str:
    return os.uname().nodename
