"""What squeue and sacct say of jobs, read into `JobStatus`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from nemotron.artifacts.records import timestamp
from nemotron.artifacts.submissions import JobState, JobStatus

# Of squeue's fields; it pads each to its width, and cuts off what is longer.
_WIDTHS = (
    *(("JobID", 24), ("Name", 256), ("State", 24), ("exit_code", 16), ("Reason", 96)),
    *(("StartTime", 24), ("EndTime", 24), ("SubmitTime", 24), ("NodeList", 1024), ("Command", 4096)),
)
SQUEUE_FORMAT = ",".join(f"{name}:{width}" for name, width in _WIDTHS)
SACCT_FORMAT = "JobIDRaw,JobName,State,ExitCode,Reason,Start,End,Submit,NodeList,SubmitLine"

_PENDING = (
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
)
_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT")
_STATES: dict[str, JobState] = {
    **dict.fromkeys(_PENDING, "pending"),
    **dict.fromkeys(_RUNNING, "running"),
    "COMPLETED": "succeeded",
    "FAILED": "failed",
    "LAUNCH_FAILED": "failed",
    "RECONFIG_FAIL": "failed",
    "CANCELLED": "cancelled",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node_fail",
    "BOOT_FAIL": "node_fail",
    "OUT_OF_MEMORY": "out_of_memory",
    "PREEMPTED": "preempted",
}
_NOTHING = ("", "N/A", "NONE", "None", "Unknown", "None assigned", "(null)", "n/a")
_HOSTS = re.compile(r"([^,\[\]]*)\[([0-9,-]+)\]([^,\[\]]*)|([^,\[\]]+)", re.ASCII)
_PART = re.compile(r"submit\.sh (\d+) (\d+)(?: |$)", re.ASCII)
# More nodes than a person reads, or a range that is no range.
_MOST_NODES = 4096


@dataclass(frozen=True)
class Row:
    """One job in the words of the scheduler. part: which of a chain, None where its command does not tell."""

    job: str
    name: str
    status: JobStatus
    submitted: str | None
    part: int | None


def squeue_rows(text: str) -> Iterator[Row]:
    """The jobs of `squeue --noheader --Format=SQUEUE_FORMAT`, printed in UTC."""
    for line in text.splitlines():
        fields, at = [], 0
        for _, width in _WIDTHS:
            fields.append(line[at : at + width].strip())
            at += width
        if fields[0].isdigit():
            status = fields[3]
            yield _row([*fields[:3], _of_wait_status(status), *fields[4:]])


def sacct_rows(text: str) -> Iterator[Row]:
    """The jobs of `sacct --parsable2 --noheader --allocations --format=SACCT_FORMAT`, printed in UTC."""
    count = SACCT_FORMAT.count(",")
    for line in text.splitlines():
        fields = line.split("|", count)
        if len(fields) == count + 1 and fields[0].isdigit():
            code, _, number = fields[3].partition(":")
            yield _row([*fields[:3], _code(code, number), *fields[4:]])


def _row(fields: list[str | int | None]) -> Row:
    job, name, said, code, reason, started, ended, submitted, nodes, command = fields
    # `CANCELLED by 0`
    state = _STATES.get(str(said).partition(" ")[0], "unknown")
    live = state in ("pending", "running", "unknown")
    part = _PART.search(str(command))
    status = JobStatus(
        job=str(job),
        state=state,
        exit_code=code if isinstance(code, int) and not live else None,
        reason=None if reason in _NOTHING else str(reason),
        nodes=expanded(str(nodes)),
        started=None if state == "pending" else moment(str(started)),
        ended=None if live else moment(str(ended)),
    )
    return Row(str(job), str(name), status, moment(str(submitted)), int(part[1]) if part else None)


def moment(text: str) -> str | None:
    """A time of the scheduler as records hold it; None where it says none."""
    if text in _NOTHING:
        return None
    try:
        return timestamp(datetime.fromisoformat(text).replace(tzinfo=UTC))
    except ValueError:
        return None


def expanded(nodes: str) -> tuple[str, ...]:
    """`gpu[01-03,7],head` as names; what cannot be read so stays as it is."""
    if nodes in _NOTHING:
        return ()
    found: list[str] = []
    for prefix, ranges, suffix, plain in _HOSTS.findall(nodes):
        if plain:
            found.append(plain)
            continue
        for each in ranges.split(","):
            first, _, last = each.partition("-")
            if not first.isdigit() or not (last or first).isdigit():
                return (nodes,)
            numbers = range(int(first), int(last or first) + 1)
            if len(found) + len(numbers) > _MOST_NODES:
                return (nodes,)
            found += [f"{prefix}{number:0{len(first)}}{suffix}" for number in numbers]
    return tuple(found)


def _of_wait_status(text: str) -> int | None:
    """squeue prints what wait(2) gave."""
    return _code(str(int(text) >> 8), str(int(text) & 0x7F)) if text.isdigit() else None


def _code(code: str, number: str) -> int | None:
    if not code.isdigit():
        return None
    return int(code) if int(code) or not number.isdigit() or number == "0" else 128 + int(number)
