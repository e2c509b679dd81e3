"""Small jobs that carry the files of a run to the storage, one after another."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from nemotron.errors import SchedulerError
from nemotron.launch.lepton.api import Lepton
from nemotron.launch.lepton.names import job_id
from nemotron.launch.lepton.options import LeptonOptions
from nemotron.launch.lepton.payloads import Asked, mover_payload
from nemotron.launch.lepton.ship import Place, archive, mover_commands
from nemotron.launch.lepton.states import job_status
from nemotron.planning.plan import Plan

# An image that is small, on a node that is free: what takes longer waits for something else.
_SECONDS = 900.0
_LOOK_SECONDS, _LOOK_SELDOM_SECONDS = 0.25, 5.0


def carry(
    lepton: Lepton, directory: Path, plan: Plan, place: Place, options: LeptonOptions, asked: Asked
) -> None:
    """Bring the bundle in `directory` to `place`. Raises SchedulerError, CheckFailed for too much of it."""
    commands = mover_commands(archive(directory, plan, place), place.directory)
    for number, command in enumerate(commands, 1):
        name = job_id(f"{asked.job}-m{number}")
        _run(lepton, mover_payload(name, command, options, asked.group), name)


def _run(lepton: Lepton, payload: dict[str, Any], name: str) -> None:
    """Run one of them to its end, and remove it."""
    job = lepton.create_job(payload)
    try:
        _wait(lepton, job)
    finally:
        # What is left of it is removed by the service; the first problem is what counts.
        with suppress(SchedulerError):
            lepton.delete_job(job)


def _wait(lepton: Lepton, job: str) -> None:
    until, pause = time.monotonic() + _SECONDS, _LOOK_SECONDS
    state = "pending"
    while time.monotonic() < until:
        said = lepton.job(job)
        status = job_status(job, said) if said else None
        state = status.state if status else "gone"
        if state == "succeeded":
            return
        if state in ("failed", "cancelled", "gone"):
            told = _last_words(lepton, job)
            raise SchedulerError(
                f"the files of the run did not arrive: job {job} is {state}{told}",
                where="nemo_run_dir",
                next="see whether nemo_run_dir is below a mount that can be written to",
            )
        time.sleep(pause)
        pause = min(pause * 1.5, _LOOK_SELDOM_SECONDS)
    raise SchedulerError(
        f"job {job}, which carries the files of the run, is still {state} after {_SECONDS:.0f} s",
        where="node_group",
        next="see whether the node group has room for a job of the shape cpu.small",
    )


def _last_words(lepton: Lepton, job: str) -> str:
    with suppress(SchedulerError):
        for replica in lepton.replicas(job):
            lines = lepton.log(job, replica).decode("utf-8", "replace").strip().splitlines()
            if lines:
                return f": {lines[-1][:200]}"
    return ""
