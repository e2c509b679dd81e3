"""Runs on a Ray cluster of Lepton's: one of their own, or one that is there already.

The cluster's Jobs API is reached through the workspace, by the same token. A cluster that was made for a run
is removed when its job is over, by whoever asks for it then.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from nemotron.artifacts.submissions import LIVE, JobStatus, Journal, Submission
from nemotron.errors import NotFound, SchedulerError
from nemotron.launch.lepton.api import Lepton
from nemotron.launch.lepton.options import LeptonOptions
from nemotron.launch.lepton.payloads import Asked, cluster_payload, ray_job_payload
from nemotron.launch.lepton.states import ray_status
from nemotron.planning.plan import Placement

# Large images are fetched on every node first.
_READY_SECONDS = 3600.0
_LOOK_SECONDS, _LOOK_SELDOM_SECONDS = 0.5, 10.0


def submit_ray(lepton: Lepton, placement: Placement, options: LeptonOptions, asked: Asked) -> str:
    """Have a cluster, and start the run in it; returns the cluster's name.

    One that was made for the run is removed where that fails. Raises SchedulerError, NotFound for a cluster
    that is not there.
    """
    name = options.existing_ray_cluster
    if name is not None:
        if lepton.cluster(name) is None:
            raise NotFound(f"Lepton has no Ray cluster {name}", where="existing_ray_cluster")
        _start(lepton, name, asked)
        return name
    lepton.create_cluster(cluster_payload(placement, options, asked))
    try:
        _until_ready(lepton, asked.job)
        _start(lepton, asked.job, asked)
    except BaseException:  # Ctrl-C too: it costs as long as it is there
        with suppress(SchedulerError):
            lepton.delete_cluster(asked.job)
        raise
    return asked.job


def ray_job_status(lepton: Lepton, job: Submission) -> tuple[JobStatus, bool]:
    """What became of it, and whether it goes on; the cluster of its own is removed when it does not."""
    cluster = str(job.connection["ray"])
    said = lepton.ray(cluster, "GET", job.job)
    if said is not None:
        status = ray_status(job.job, said)
        return status, status.state in LIVE
    if lepton.cluster(cluster) is not None:
        return JobStatus(job.job, "unknown"), False
    # What was last said of its end stays true; a job that went on has gone with its cluster.
    seen = {each.job: each for each in Journal(Path(str(job.connection.get("directory", "")))).seen()[1]}
    last = seen.get(job.job)
    if last is not None and last.state not in (*LIVE, "unknown"):
        return last, False
    return JobStatus(job.job, "cancelled", reason="its Ray cluster is gone"), False


def ray_log(lepton: Lepton, job: Submission) -> bytes:
    """What the job has written until now."""
    said = lepton.ray(str(job.connection["ray"]), "GET", f"{job.job}/logs")
    return str((said or {}).get("logs") or "").encode("utf-8", "surrogateescape")


def remove_cluster(lepton: Lepton, job: Submission) -> None:
    """Remove the cluster that was made for a run."""
    if job.connection.get("own"):
        lepton.delete_cluster(str(job.connection["ray"]))


def cancel_ray(lepton: Lepton, job: Submission) -> None:
    """Stop the job; where it never began, the cluster of its own goes at once."""
    cluster = str(job.connection["ray"])
    if lepton.ray(cluster, "POST", f"{job.job}/stop") is None:
        remove_cluster(lepton, job)


def _start(lepton: Lepton, cluster: str, asked: Asked) -> None:
    made = lepton.ray(cluster, "POST", "", ray_job_payload(asked))
    if made is None:
        raise SchedulerError(f"the Ray cluster {cluster} takes no jobs", where="existing_ray_cluster")


def _until_ready(lepton: Lepton, name: str) -> None:
    until, pause = time.monotonic() + _READY_SECONDS, _LOOK_SECONDS
    state: Any = None
    while time.monotonic() < until:
        cluster = lepton.cluster(name)
        status = (cluster or {}).get("status")
        state = status.get("state") if isinstance(status, dict) else None
        if state == "Ready":
            return
        if cluster is None:
            raise SchedulerError(f"the Ray cluster {name} is gone", where="Lepton")
        time.sleep(pause)
        pause = min(pause * 1.5, _LOOK_SELDOM_SECONDS)
    raise SchedulerError(
        f"the Ray cluster {name} is not ready after {_READY_SECONDS:.0f} s: it is {state}",
        where="node_group",
        next="nemotron profiles check says whether the node group has enough nodes",
    )
