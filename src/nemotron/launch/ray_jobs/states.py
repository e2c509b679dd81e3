"""What a Jobs API says of jobs, read into `JobStatus`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from nemotron.artifacts.records import timestamp
from nemotron.artifacts.submissions import JobState, JobStatus
from nemotron.launch.ray_jobs.waiter import ENDED

_STATES: dict[str, JobState] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "cancelled",
}
# The node of the job died, and with it the process that watched it.
_LOST = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE")


def job_status(job: str, info: Mapping[str, Any]) -> JobStatus:
    """The status of a job that was handed over."""
    state = _STATES.get(str(info.get("status")), "unknown")
    if state == "failed" and info.get("error_type") in _LOST:
        state = "node_fail"
    code = info.get("driver_exit_code")
    driver = info.get("driver_info")
    node = driver.get("node_ip_address") if isinstance(driver, Mapping) else None
    over = state not in ("pending", "running", "unknown")
    return JobStatus(
        job,
        state,
        exit_code=_code(code) if over and isinstance(code, int) else None,
        reason=None if state in ("running", "succeeded") else _reason(info),
        nodes=(str(node),) if node else (),
        started=None if state == "pending" else _moment(info.get("start_time")),
        ended=_moment(info.get("end_time")) if over else None,
    )


def waiting_status(job: str, info: Mapping[str, Any]) -> JobStatus:
    """The status of a job that another one waits to hand over, from what is said of that one."""
    state = str(info.get("status"))
    if state not in ENDED:
        return JobStatus(job, "pending", reason="waits for the runs that make its inputs")
    if state == "SUCCEEDED":
        return JobStatus(job, "node_fail", reason="it was handed over, and Ray has forgotten it")
    return JobStatus(job, "cancelled", reason=_reason(info), ended=_moment(info.get("end_time")))


def _reason(info: Mapping[str, Any]) -> str | None:
    lines = [line.strip() for line in str(info.get("message") or "").splitlines() if line.strip()]
    return lines[-1][:500] if lines else None


def _code(code: int) -> int:
    """A shell's: 128 + n after signal n."""
    return code if code >= 0 else 128 - code


def _moment(milliseconds: object) -> str | None:
    if not isinstance(milliseconds, int) or milliseconds <= 0:
        return None
    return timestamp(datetime.fromtimestamp(milliseconds / 1000, UTC))
