"""What one command costs, every process it starts included."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NEMOTRON = str(Path(sys.executable).with_name("nemotron"))


@dataclass(frozen=True)
class Cost:
    """cpu and wall in seconds; peak: resident bytes of the largest single process; output: its stdout."""

    cpu: float
    wall: float
    peak: int
    output: str


def cost_of(command: Sequence[str], environ: Mapping[str, str], *, show: bool = False) -> Cost:
    """Run `command` to its end; with `show` what it says on stderr is seen. Ends the program if it fails."""
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if show else subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    # The usage of this child and of all that it waited for; RUSAGE_CHILDREN could not tell two runs apart.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"exit code {process.returncode}: {' '.join(command)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(
        usage.ru_utime + usage.ru_stime, time.monotonic() - begun, int(usage.ru_maxrss) * unit, output
    )
