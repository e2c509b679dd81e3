"""Follows what a framework writes while it trains: scalars into `metrics.jsonl`, checkpoints into records.

Scalars are in TensorBoard's event files alone, new ones for every start. Here they become one line a step,
whichever start it was; a step that is trained again comes again, and the later line counts. How far each
file was read is kept in `logs/followed.json`, so that the next attempt goes on there.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_json
from nemotron.artifacts.run_state import read_object
from nemotron.errors import NemotronError
from nemotron.job.following.saved_checkpoints import SavedCheckpoints
from nemotron.job.following.tensorboard_events import EventFile, Scalar

STATE_FILE = "followed.json"
_LAST_READS = 100


class Follower(ABC):
    """What one attempt of a run leaves on the disk; frameworks differ in what the class says of itself.

    directory: of the run. plan: its `plan.json`. Call `poll` every few seconds and `close` at the end.
    """

    log_key = ""
    """Dotted key of the config: the directory of logs, of this place or as written."""
    event_files = "**/events.out.tfevents.*"
    """Where the event files of a start are, below what `starts` gives."""

    @abstractmethod
    def starts(self) -> list[Path]:
        """The directories of event files, one for each start of the trainer, in their order."""

    @abstractmethod
    def counts_steps(self, tag: str) -> bool:
        """Whether a scalar's place on the axis is the training step."""

    @abstractmethod
    def left_in_time(self, seconds: float) -> bool:
        """Whether a trainer that ended well after `seconds` may have done so because its time was up."""

    def __init__(self, directory: Path, plan: Mapping[str, Any]) -> None:
        self._directory = directory
        self.plan = plan
        place = read_object(directory / "place.json")
        self.log_dir = directory / self._log_directory()
        self._state = directory / "logs" / STATE_FILE
        state = read_object(self._state)
        self._offsets: dict[str, int] = dict(state.get("offsets") or {})
        config = plan["recipe"]["config"].get("checkpointing") or {}
        self._checkpoints = SavedCheckpoints(
            directory,
            plan["outputs"],
            Path(place["records_dir"]),
            {name: config.get(name) for name in ("metric_name", "higher_is_better")},
            state.get("checkpoints") or (),
        )
        self._others: set[str] = set(state.get("others") or ())
        self._files: dict[str, EventFile] = {}
        self._row: dict[str, Any] = {}
        self._row_from: tuple[str, int] = ("", 0)
        self._last: tuple[int, float] | None = None
        self.slowest = 0.0
        self._begin(is_first=not state, total=place.get("planned_steps") or plan.get("planned_steps"))

    def poll(self) -> None:
        """Take in what is new. Never raises: a file that cannot be read now is read later."""
        self._look(is_last=False)

    def close(self) -> None:
        """Take in all that is left, the last step's too."""
        for _ in range(_LAST_READS):
            if not self._look(is_last=True):
                return

    def _log_directory(self) -> str:
        placed = self.plan["placement"].get("config", {}).get(self.log_key)
        section, _, name = self.log_key.rpartition(".")
        written = placed or (self.plan["recipe"]["config"].get(section) or {}).get(name) or "logs"
        return str(written).replace("{run_dir}", str(self._directory))

    def _begin(self, *, is_first: bool, total: object) -> None:
        # Directories that the config names may hold what others left.
        if is_first:
            if not self.log_dir.is_relative_to(self._directory):
                self._others = {path.name for path in self.starts()}
            self._checkpoints.pass_over_others(self._directory)
        if isinstance(total, int):
            begun = self._checkpoints.highest_step()
            self._time({"event": "start", "step": begun, "total_steps": total})
        self._save()

    def _look(self, *, is_last: bool) -> bool:
        """Read every file on; whether there was anything."""
        anything = False
        for start in self.starts():
            if start.name not in self._others:
                for path in self._event_files(start):
                    anything |= self._read(path)
        if self._row and (is_last or not anything):
            self._write_row()
            self._save()
        elif anything:
            self._save()
        if self._checkpoints.record():
            self._save()
        return anything

    def _event_files(self, start: Path) -> list[Path]:
        try:
            return sorted(start.glob(self.event_files))
        except OSError:
            return []

    def _read(self, path: Path) -> bool:
        name = str(path.relative_to(self.log_dir))
        file = self._files.setdefault(name, EventFile(path, self._offsets.get(name, 0)))
        before = file.offset
        try:
            scalars = file.read()
        except OSError:
            return False
        for scalar in scalars:
            if self.counts_steps(scalar.tag):
                self._take(name, scalar)
        # Up to here everything is written, but for the row that is being gathered.
        self._offsets[name] = self._row_from[1] if self._row and self._row_from[0] == name else file.offset
        return file.offset > before

    def _take(self, name: str, scalar: Scalar) -> None:
        if self._row and (self._row["step"] != scalar.step or self._row_from[0] != name):
            self._write_row()
        if not self._row:
            self._row = {"step": scalar.step}
            self._row_from = (name, scalar.at)
        self._row["time"] = round(scalar.time, 3)
        # JSON has no word for what is no number.
        self._row[scalar.tag] = scalar.value if math.isfinite(scalar.value) else None

    def _write_row(self) -> None:
        row, self._row = self._row, {}
        name, _ = self._row_from
        self._offsets[name] = self._files[name].offset
        _append(self._directory / "metrics.jsonl", row)
        step, now = row["step"], row["time"]
        if self._last is not None and step == self._last[0] + 1 and now >= self._last[1]:
            seconds = now - self._last[1]
            self.slowest = max(self.slowest, seconds)
            self._time({"event": "step", "step": step, "seconds": round(seconds, 3), "at": now})
        if self._last is None or step != self._last[0]:
            self._last = (step, now)

    def _time(self, row: Mapping[str, Any]) -> None:
        _append(self._directory / "timings.jsonl", row)

    def _save(self) -> None:
        state = {
            "offsets": self._offsets,
            "others": sorted(self._others),
            "checkpoints": sorted(self._checkpoints.known),
        }
        try:
            write_json(self._state, state)
        except NemotronError:
            return  # a full disk: what was read is read again by the next attempt, and counts once


def _append(path: Path, row: Mapping[str, Any]) -> None:
    line = json.dumps(row, ensure_ascii=False) + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError:
        return  # a full disk is the trainer's to report
