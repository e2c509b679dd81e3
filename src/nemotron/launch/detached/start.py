"""Waits for the runs that a detached run is based on, and becomes its job then.

    python -I start.py RUN_DIR WANTED

WANTED is what `backend.py` makes. Standard library only: this file runs by its path. The process keeps its
number while it becomes `launch.sh` and that becomes the job, so that it is known by it from first to last.
"""

import json
import os
import sys
import time
from pathlib import Path

POLL_SECONDS = 0.5
# What a job wrote at its end may be seen a moment later than that it has ended.
VISIBLE_SECONDS = 5.0


def start_time(pid: str) -> str | None:
    """When a living process began, in the kernel's ticks; None where there is none of this number."""
    try:
        text = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None
    values = text.rpartition(")")[2].split()
    return None if values[0] in "ZX" else values[19]


def wait_for(job: str, record: str, when: str) -> str | None:
    """Wait until a job has ended; what is wrong with its end, None when this run may begin."""
    pid, _, started = job.partition(":")
    while start_time(pid) == started:
        time.sleep(POLL_SECONDS)
    if when == "any":
        return None
    deadline = time.monotonic() + VISIBLE_SECONDS
    name = Path(record).parent.name
    while True:
        try:
            told = json.loads(Path(record).read_text(encoding="utf-8"))
            code = told.get("exit_code")
            return None if code == 0 else f"run {name} did not succeed: {told.get('reason') or code}"
        except (OSError, ValueError, AttributeError):
            if time.monotonic() > deadline:
                return f"run {name} left no record of its end"
            time.sleep(POLL_SECONDS)


def main(directory: str, wanted: str) -> None:
    """Wait, and become the job; where that cannot be, say why in `failure.json` and end with 1."""
    given = json.loads(wanted)
    os.chdir(directory)
    pid = str(os.getpid())
    for each in given["after"]:
        problem = wait_for(each["job"], each["record"], each["when"])
        if problem is not None:
            print(problem, file=sys.stderr)
            failure = {"what": problem, "upstream": each["record"], "exit_code": 1}
            Path("failure.json").write_text(json.dumps(failure, indent=2) + "\n", encoding="utf-8")
            sys.exit(1)
    os.environ["NEMOTRON_JOB_ID"] = f"{pid}:{start_time(pid)}"
    os.environ["NEMOTRON_PART"] = str(given["part"])
    os.environ["NEMOTRON_PARTS"] = str(given["parts"])
    os.execvp("bash", ["bash", "launch.sh"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
