"""What Lepton says of jobs and Ray jobs, read into `JobStatus`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from nemotron.artifacts.records import timestamp
from nemotron.artifacts.submissions import LIVE, JobState, JobStatus

_JOBS: Mapping[str, JobState] = {
    **dict.fromkeys(("Starting", "Queueing", "Awaiting", "PendingRetry", "Restarting"), "pending"),
    **dict.fromkeys(("Running", "Stopping", "Deleting"), "running"),
    "Completed": "succeeded",
    "Failed": "failed",
    **dict.fromkeys(("Stopped", "Deleted"), "cancelled"),
}
_RAY: Mapping[str, JobState] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "cancelled",
}


def job_status(job: str, said: Mapping[str, Any]) -> JobStatus:
    """The status in a job's own words; a state that is not known here stays `unknown`, with its name."""
    status = said.get("status")
    status = status if isinstance(status, Mapping) else {}
    word = str(status.get("state") or "")
    state = _JOBS.get(word, "unknown")
    if word == "Archived":
        state = "failed" if _count(status, "failed") and not _count(status, "succeeded") else "succeeded"
    waits = state == "pending" and word not in ("Starting",)
    live = state in (*LIVE, "unknown")
    return JobStatus(
        job=job,
        state=state,
        exit_code=0 if state == "succeeded" else None,
        reason=f"Lepton says {word}" if waits or (state == "unknown" and word) else None,
        started=None if state == "pending" else _moment(status.get("creation_time")),
        ended=None if live else _moment(status.get("completion_time")),
    )


def ray_status(job: str, said: Mapping[str, Any]) -> JobStatus:
    """The status of a job of a Ray cluster, as its Jobs API tells it; times are milliseconds there."""
    state = _RAY.get(str(said.get("status")), "unknown")
    code = said.get("driver_exit_code")
    live = state in (*LIVE, "unknown")
    message = said.get("message")
    return JobStatus(
        job=job,
        state=state,
        exit_code=code if isinstance(code, int) and not live else (0 if state == "succeeded" else None),
        reason=str(message)[:300] if message and state in ("pending", "failed") else None,
        started=None if state == "pending" else _moment(said.get("start_time"), 1000),
        ended=None if live else _moment(said.get("end_time"), 1000),
    )


def _count(status: Mapping[str, Any], name: str) -> int:
    value = status.get(name)
    return value if isinstance(value, int) else 0


def _moment(value: object, scale: int = 1) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return None
    seconds = value / scale
    # Some replies tell milliseconds: no job of ours ended after the year 5000.
    seconds = seconds / 1000 if seconds > 1e11 else seconds
    return timestamp(datetime.fromtimestamp(seconds, UTC))
