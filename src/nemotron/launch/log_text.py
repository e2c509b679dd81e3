"""The log of a run, over its attempts and allocations."""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nemotron.artifacts.run_state import ELSEWHERE_FILE, UNFINISHED
from nemotron.artifacts.runs import Run

_LOOK_SECONDS = 0.3
# A job that was killed leaves no word: its scheduler is asked now and then.
_ASK_SECONDS = 10.0
# Asking brings the log itself, where the run writes it on another machine.
_FETCH_SECONDS = 2.0
_ATTEMPT = re.compile(r"attempt-(\d+)(?:\.node-(\d+))?\.log")


def log_of(run: Run, node: int | None = None) -> Path | None:
    """The newest log: of a node where one is named (0 is the first); without any, what the scheduler kept."""
    logs = _logs(run, node)
    if logs:
        return logs[max(logs)]
    if node:
        return None
    kept = [p for p in (run.directory / "logs").glob("slurm-*.out") if p.stat().st_size]
    job = run.directory / "logs" / "job.log"
    if kept:
        return max(kept, key=lambda path: path.stat().st_mtime_ns)
    return job if job.is_file() and job.stat().st_size else None


def follow_log(
    run: Run,
    node: int | None,
    ask: Callable[[], None],
    tell: Callable[[str], None],
) -> Iterator[str]:
    """The text of the newest log and of all that follow it, as it is written, until the run is over.

    ask: called now and then while it is not, to have the run's state found out. tell: is told of what is
    not in the log: that the run waits, and that another attempt begins.
    """
    number, position, asked, said = 0, 0, time.monotonic(), ""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a look may end within a character
    shown: Path | None = None
    while True:
        now = run.standing()
        over = now.state not in UNFINISHED
        logs = _logs(run, node)
        if shown is None:
            number = max(logs, default=0)
            shown = logs.get(number) or (log_of(run, node) if over else None)
        data = _read(shown, position) if shown else b""
        if data:
            position += len(data)
            yield decoder.decode(data)
            continue
        later = [n for n in logs if n > number]
        if later:
            yield decoder.decode(b"", final=True)
            decoder.reset()
            number, position = min(later), 0
            if shown is not None:
                tell(f"attempt {number} of {run.id}")
            shown = logs[number]
            continue
        if over:
            yield decoder.decode(b"", final=True)
            return
        waits = f"{run.id} is {now.state}" + (f": {now.reason}" if now.reason else "")
        if now.state != "running" and waits != said:
            said = waits
            tell(waits)
        away = (run.directory / ELSEWHERE_FILE).is_file()
        if time.monotonic() - asked >= (_FETCH_SECONDS if away else _ASK_SECONDS):
            ask()
            asked = time.monotonic()
        time.sleep(_LOOK_SECONDS)


def _logs(run: Run, node: int | None) -> dict[int, Path]:
    """Logs by attempt: of the first node, or of another."""
    where = run.directory / "logs" / "nodes" if node else run.directory / "logs"
    found = {}
    for path in where.glob("attempt-*.log"):
        match = _ATTEMPT.fullmatch(path.name)
        if match and int(match[2] or 0) == (node or 0):
            found[int(match[1])] = path
    return found


def _read(path: Path, position: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read(1 << 20)
    except OSError:
        return b""
