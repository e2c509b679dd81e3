"""Slurm's commands: argument lists with a time limit, in an environment that changes nothing they do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nemotron.errors import SchedulerError
from nemotron.launch.backend import Unanswered

# What they need to find their cluster and the user. SBATCH_*, SQUEUE_* and the like would silently change
# what a command says or does; a job's own environment is set by its script.
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "SLURM_CONF", "KRB5CCNAME")


class Transport(Protocol):
    """How the commands of a login node are run: on this machine, or through ssh."""

    def call(
        self, argv: Sequence[str], *, seconds: float, cwd: Path | None = None, utc: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """As `call` below; Unanswered where the connection broke, too."""


class Here:
    """This machine is the login node."""

    def call(
        self, argv: Sequence[str], *, seconds: float, cwd: Path | None = None, utc: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """See `call`."""
        return call(argv, seconds=seconds, cwd=cwd, utc=utc)


HERE = Here()


def call(
    argv: Sequence[str], *, seconds: float, cwd: Path | None = None, utc: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever its exit code. utc: times in what it prints are in UTC.

    Raises SchedulerError where there is no such command, Unanswered when it takes more than `seconds`.
    """
    environ = {name: os.environ[name] for name in _KEPT if name in os.environ}
    if utc:
        environ["TZ"] = "UTC"
    try:
        return subprocess.run(
            list(argv),
            env=environ,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except FileNotFoundError as problem:
        # The directory of the run may be what is not there.
        if shutil.which(argv[0]):
            raise SchedulerError(f"cannot run {argv[0]}: {problem}") from problem
        raise SchedulerError(
            f"{argv[0]} is not on PATH", where=argv[0], next="do this on a login node of the cluster"
        ) from problem
    except subprocess.TimeoutExpired as problem:
        raise Unanswered(f"{argv[0]} did not answer within {seconds:.0f} s", where=argv[0]) from problem
    except OSError as problem:
        raise SchedulerError(f"cannot run {argv[0]}: {problem}", where=argv[0]) from problem


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said of its failure, on one line."""
    name = Path(done.args[0]).name
    lines = [line.removeprefix(f"{name}: ").removeprefix("error: ") for line in done.stderr.splitlines()]
    told = "; ".join(line.strip() for line in lines if line.strip())
    return told or f"{name} ended with exit code {done.returncode}"
