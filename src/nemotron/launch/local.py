"""Runs a bundle on this machine, attached: the job lives no longer than the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from nemotron.artifacts.atomic import os_error
from nemotron.errors import EXIT_INTERRUPTED

LIFELINE = "NEMOTRON_LIFELINE_FD"
ATTEMPT = "NEMOTRON_ATTEMPT"
_POLL_SECONDS = 0.2


def run_attached(directory: Path, watch: Callable[[], None], environ: Mapping[str, str], attempt: int) -> int:
    """Start the bundle, call `watch` again and again while it runs, and return its exit code.

    attempt: which attempt of the run this is to be. The job refuses to be another one with exit code 5:
    somebody else began that attempt since.
    On KeyboardInterrupt the job is asked to stop, which lets the trainer save; a second one kills it.
    """
    read_end, write_end = os.pipe()
    launcher = directory / "logs"
    try:
        launcher.mkdir(exist_ok=True)
        with (launcher / "job.log").open("ab") as log:
            job = subprocess.Popen(
                ["bash", "launch.sh"],
                cwd=directory,
                env={**environ, LIFELINE: str(read_end), ATTEMPT: str(attempt)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(read_end,),
            )
    except OSError as problem:
        os.close(write_end)
        raise os_error(problem, launcher) from problem
    finally:
        os.close(read_end)
    try:
        return _wait(job, watch)
    finally:
        os.close(write_end)


def _wait(job: subprocess.Popen[bytes], watch: Callable[[], None]) -> int:
    asked = 0
    while True:
        try:
            watch()
            code = job.wait(_POLL_SECONDS)
            # A job that was asked before it could listen ends by the signal itself.
            return EXIT_INTERRUPTED if asked and code != 0 else code
        except subprocess.TimeoutExpired:
            continue
        except KeyboardInterrupt:
            asked += 1
            job.send_signal(signal.SIGINT if asked == 1 else signal.SIGTERM)
