"""Whether a trainer still makes progress: steps in its metrics, and files that change in its outputs."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any

# A step that takes five times as long as they used to is no slow step any more.
_TIMES = 5
_KNOWN = 3
_REMEMBERED = 25
FLOOR, FLOOR_SECONDS = "NEMOTRON_HANG_FLOOR", 600.0
START, START_SECONDS = "NEMOTRON_HANG_START", 7200.0
# What of the outputs is looked at; a checkpoint has some thousand files at most.
_FILES = 20000
# A longer gap between two polls means that this process was stopped, and the trainer with it.
_STOPPED_SECONDS = 60.0
_LONGEST_READ = 16 << 20


class Watch:
    """Watches the trainer of a run directory that was started at `since` (epoch seconds).

    Limits, in seconds: between two steps five times their median and at least NEMOTRON_HANG_FLOOR (600);
    before the first, NEMOTRON_HANG_START (7200), and none for a run whose outputs are no checkpoints of a
    training, since nothing says that it has steps.
    """

    def __init__(self, directory: Path, since: float) -> None:
        self._directory = directory
        self._floor = float(os.environ.get(FLOOR) or FLOOR_SECONDS)
        self._start = float(os.environ.get(START) or START_SECONDS)
        plan = json.loads((directory / "plan.json").read_text(encoding="utf-8"))
        self._outputs = [directory / each["path"] for each in plan["outputs"]]
        self._has_steps = any(each.get("select") is not None for each in plan["outputs"])
        # Lines of earlier attempts are no progress of this one.
        self._read_to = self._metrics_size()
        self._rest = b""
        self._step: float | None = None
        begun = time.monotonic() - max(0.0, time.time() - since)
        self._moved, self._polled = begun, time.monotonic()
        self._stepped: float | None = None
        self._durations: deque[float] = deque(maxlen=_REMEMBERED)
        self._seen: tuple[int, int, int] | None = None

    def poll(self) -> str | None:
        """Why the trainer is to be taken for hanging, None while it is not. Call it every few seconds."""
        now = time.monotonic()
        self._forgive(now)
        self._read_steps(now)
        limit = self._limit()
        quiet = now - self._moved
        # Thousands of files need not be looked at while steps come.
        if limit is None or quiet < limit / 2:
            self._seen = None
            return None
        before, self._seen = self._seen, self._files()
        if before is not None and self._seen != before:
            self._moved, self._seen = now, None
            return None
        return self._verdict(quiet, limit) if before is not None and quiet >= limit else None

    def dump(self, group: int, log: Path) -> None:
        """Append to `log` where the processes of the trainer's group stand; see `stacks`."""
        from nemotron.job.stacks import dump_group

        dump_group(group, log)

    def _forgive(self, now: float) -> None:
        gap, self._polled = now - self._polled, now
        if gap > _STOPPED_SECONDS:
            self._moved += gap
            self._stepped = None if self._stepped is None else self._stepped + gap

    def _limit(self) -> float | None:
        if self._step is None:
            return self._start if self._has_steps else None
        if len(self._durations) < _KNOWN:
            return max(self._start, self._floor)
        return max(self._floor, _TIMES * statistics.median(self._durations))

    def _verdict(self, quiet: float, limit: float) -> str:
        if self._step is None:
            return f"no first step and no new file in the outputs for {quiet:.0f} s (limit {limit:.0f} s)"
        known = ""
        if len(self._durations) >= _KNOWN:
            known = f"a step takes {statistics.median(self._durations):.1f} s; "
        return (
            f"no step since step {self._step:g} and no new file in the outputs for {quiet:.0f} s"
            f" ({known}limit {limit:.0f} s)"
        )

    def _read_steps(self, now: float) -> None:
        """Take note of new lines; several that come at once share the time since those before."""
        steps = 0
        for row in self._new_rows():
            step = row.get("step")
            if isinstance(step, int | float) and not isinstance(step, bool):
                if self._step is None or step > self._step:
                    steps += 1
                    self._step = step
                self._moved = now
        if steps and self._stepped is not None:  # the way to the first step is no step
            self._durations.extend([(now - self._stepped) / steps] * steps)
        if steps:
            self._stepped = now

    def _new_rows(self) -> list[dict[str, Any]]:
        size = self._metrics_size()
        if size < self._read_to:  # written anew
            self._read_to, self._rest = 0, b""
        if size == self._read_to:
            return []
        try:
            with (self._directory / "metrics.jsonl").open("rb") as file:
                file.seek(self._read_to)
                got = file.read(_LONGEST_READ)
        except OSError:
            return []
        self._read_to += len(got)
        *lines, self._rest = (self._rest + got).split(b"\n")
        rows = []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the line a kill cut off
            if isinstance(row, dict):
                rows.append(row)
        return rows

    def _metrics_size(self) -> int:
        try:
            return (self._directory / "metrics.jsonl").stat().st_size
        except OSError:
            return 0

    def _files(self) -> tuple[int, int, int]:
        """Number, size and newest time of the files in the outputs."""
        count = size = newest = 0
        places = list(dict.fromkeys(self._outputs))
        for place in places:
            try:
                status = place.lstat()
                if place.is_dir() and not place.is_symlink():
                    places += [Path(entry.path) for entry in os.scandir(place)]
            except OSError:
                continue  # renamed while we look
            count, size = count + 1, size + status.st_size
            newest = max(newest, status.st_mtime_ns)
            if count >= _FILES:
                break
        return count, size, newest
