"""The job: starts the trainer of a run directory, watches it, and records how it ended.

    python start.py RUN_DIR          (start.py stands beside a copy of this package in the bundle)

On the first node of an allocation one process holds the run's lock for as long as it or its trainer lives,
so two attempts never write into one run. The trainer is a process group of its own; signals are passed on
to it. The job ends when the process that started it does (NEMOTRON_LIFELINE_FD), and so does the trainer
when the job does. On the other nodes this does what the first one says.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import threading
import time
from pathlib import Path

from nemotron.artifacts.atomic import os_error, write_json
from nemotron.errors import Conflict, NemotronError
from nemotron.job.allocation import Allocation
from nemotron.job.attempt import FAILURE_FILE, Attempt, needs_nodes
from nemotron.job.bundle_files import load_object
from nemotron.job.chain import EXIT_KILLED, account_for_lost, forget_secrets, is_over
from nemotron.job.recorder import Recorder
from nemotron.job.trainer import LIFELINE

# Which attempt the starter means to begin; without it, whichever comes next.
ATTEMPT = "NEMOTRON_ATTEMPT"
EXIT_CONFLICT = Conflict.exit_code
# Whoever asks for a run's state has its lock for an instant; what a scheduler killed may take longer to die.
_LOCK_SECONDS, _LAST_ONE_SECONDS = 0.5, 60.0


def main(arguments: list[str]) -> int:
    """Run the job of a run directory on this node; returns its exit code."""
    directory = Path(arguments[0]).resolve()
    try:
        allocation = Allocation.read(os.environ)
        if allocation.rank > 0:
            return _help(directory, allocation)
        handle = _lock(directory, allocation)
    except NemotronError as problem:
        print(problem.render(), file=sys.stderr)
        return problem.exit_code
    try:
        return _run(directory, allocation, handle)
    except NemotronError as problem:
        print(problem.render(), file=sys.stderr)
        with contextlib.suppress(NemotronError):  # on a full disk stderr has to do
            write_json(directory / FAILURE_FILE, problem.as_dict())
        return problem.exit_code


def _run(directory: Path, allocation: Allocation, lock: int) -> int:
    recorder = Recorder(
        directory,
        plan=load_object(directory / "plan.json", "recipe", "placement", "outputs"),
        place=load_object(directory / "place.json", "records_dir", "inputs"),
    )
    attempt = Attempt(recorder, allocation, lock)
    wanted = os.environ.pop(ATTEMPT, None)
    if wanted is not None and wanted != str(attempt.number):
        print(f"attempt {wanted} of {directory.name} was begun by somebody else", file=sys.stderr)
        return EXIT_CONFLICT
    if allocation.job is not None:
        account_for_lost(recorder)
        if is_over(directory, allocation):
            print(f"{directory.name} is over: part {allocation.part} has nothing to do", file=sys.stderr)
            forget_secrets(directory, allocation, 0, None)
            attempt.dismiss()
            return 0
    _die_with_starter(attempt)
    return attempt.run()


def _help(directory: Path, allocation: Allocation) -> int:
    """Do what the first node says, where it needs help."""
    placement = load_object(directory / "plan.json", "placement")["placement"]
    if not needs_nodes(placement, allocation) or is_over(directory, allocation):
        return 0
    from nemotron.job.nodes.leader import serve_node

    return serve_node(directory)


def _lock(directory: Path, allocation: Allocation) -> int:
    """The handle of the run's lock. Raises Conflict when another job has it."""
    path = directory / "lock"
    follows = allocation.job is not None and (allocation.part > 1 or allocation.restarts > 0)
    until = time.monotonic() + (_LAST_ONE_SECONDS if follows else _LOCK_SECONDS)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        while not _take(handle):
            if time.monotonic() > until:
                os.close(handle)
                raise Conflict(f"{directory.name} is running already", where=_holder(path))
            time.sleep(0.05)
        os.truncate(handle, 0)
        os.write(handle, f"{socket.gethostname()} {os.getpid()} {time.time():.0f}\n".encode())
    except OSError as problem:
        raise os_error(problem, path) from problem
    return handle


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            print("this file system has no locks: nothing keeps a second job away", file=sys.stderr)
            return True
        return False
    return True


def _holder(lock: Path) -> str | None:
    """Host and process that have a lock, as they wrote into it."""
    try:
        words = lock.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return None
    return f"process {words[1]} on {words[0]}" if len(words) > 1 else None


def _die_with_starter(attempt: Attempt) -> None:
    """Kill the trainer and end when the process that started this job is gone."""
    given = os.environ.pop(LIFELINE, None)
    if given is None:
        return
    handle = int(given)

    def watch() -> None:
        while os.read(handle, 1):
            pass
        attempt.kill()
        os._exit(EXIT_KILLED)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()
