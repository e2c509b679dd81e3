"""Tells W&B of a run while it goes on, in a process of its own: `python -m nemotron.exports.mirror DIR ...`.

A process, not a thread: whatever W&B does (import slowly, hang, exit, take signals over) stays in it, and
whoever started it can end it. It reads the run directory once a second. On stdin comes one word at the end:
succeeded, failed or interrupted; the end of stdin means that the launcher is gone. On stdout it tells what
became of it, a line of JSON each: {"where": ..., "mode": ...}, {"done": true} or {"problem": ...}.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from nemotron.artifacts.runs import Run
from nemotron.exports.wandb import EXIT_CODES, WandbRun

_LOOK_SECONDS = 1.0
_GRACE_SECONDS = 5.0


class MetricsTail:
    """Reads what was appended to a run's metrics since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0
        self.rows = 0

    def new_rows(self) -> list[tuple[int, Any]]:
        """New whole lines with their numbers from 1; of a file that was written anew, all of them."""
        try:
            with self._path.open("rb") as handle:
                status = os.fstat(handle.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset, self.rows = status.st_ino, 0, 0
                handle.seek(self._offset)
                data = handle.read()
        except OSError:
            return []
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        first = self.rows + 1
        lines = data[:whole].splitlines()
        self.rows += len(lines)
        return [(number, _parsed(line)) for number, line in enumerate(lines, first)]


def main(arguments: list[str]) -> int:
    """Mirror the run in a directory. Arguments: it, its records, seconds to open and seconds to end."""
    directory, records_dir = Path(arguments[0]), Path(arguments[1])
    opening, ending = float(arguments[2]), float(arguments[3])
    try:
        _mirror(Run(directory), records_dir, opening, ending)
    except Exception as problem:  # noqa: BLE001 - W&B raises what it likes, and none of it may matter to a run
        traceback.print_exc()
        missing = isinstance(problem, ImportError) and (problem.name or "").partition(".")[0] == "wandb"
        first = (str(problem).strip().splitlines() or [""])[0]
        _tell(problem=f"{type(problem).__name__}: {first}", is_missing=missing)
        return 1
    _tell(done=True)
    return 0


def _mirror(run: Run, records_dir: Path, opening: float, ending: float) -> None:
    link = WandbRun(run, opening)
    _tell(where=link.where, mode=link.mode)
    tail = MetricsTail(run.directory / "metrics.jsonl")
    told, state = link.told_rows, None
    while True:
        # The state before the rows: what was written before the word is seen after it.
        state = _state()
        for number, row in tail.new_rows():
            if number > told:
                told = number
                if isinstance(row, dict):
                    link.log(row)
        if state is not None:
            break
    _end_within(ending)
    link.close(state, told, records_dir)


def _state() -> str | None:
    """The word on stdin, None while there is none."""
    ready, _, _ = select.select([sys.stdin], [], [], _LOOK_SECONDS)
    if not ready:
        return None
    word = sys.stdin.readline().strip()
    return word if word in EXIT_CODES else "interrupted"


def _end_within(seconds: float) -> None:
    """The launcher may be gone: nobody else would end a process that waits for a network.

    A launcher that is there comes first, and tells why.
    """
    timer = threading.Timer(seconds + _GRACE_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _tell(**what: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more; W&B is still told
        print(json.dumps(what), flush=True)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
