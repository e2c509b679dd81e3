"""The records of one run's attempts, as its job writes them."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_json
from nemotron.artifacts.records import AttemptRecord, Phase, timestamp, write_record
from nemotron.artifacts.run_state import RECORD_FILE


@dataclass(frozen=True)
class Recorder:
    """Writes records of a run. plan, place: its `plan.json` and `place.json`."""

    directory: Path
    plan: Mapping[str, Any]
    place: Mapping[str, Any]

    @property
    def records_dir(self) -> Path:
        """Where the records of the run's store are."""
        return Path(self.place["records_dir"])

    def write(self, attempt: int, phase: Phase, **more: Any) -> None:
        """Write a record; what is known of every attempt need not be given. Errors: see `write_record`.

        The record of an end is the run's `record.json` too.
        """
        recipe, placement = self.plan["recipe"], self.plan["placement"]
        known = {
            "at": timestamp(datetime.now(UTC)),
            "inputs": self.place["inputs"],
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "user": _user(),
            "metrics": _last_metrics(self.directory) if phase == "ended" else None,
        }
        record = AttemptRecord(
            run_id=self.directory.name,
            attempt=attempt,
            phase=phase,
            step=recipe["step"],
            root=placement["root"],
            engine=recipe["engine"],
            engine_version=recipe["engine_version"],
            plan_digest=self.place["plan_digest"],
            recipe_digest=self.plan["recipe_digest"],
            code={**recipe["code"], **(self.place.get("code") or {})},
            backend=placement["backend"],
            profile=placement["profile"],
            nemotron_version=self.place["nemotron_version"],
            directory=str(self.directory),
            config_name=self.plan.get("config_name"),
            **{**known, **more},
        )
        write_record(self.records_dir, record)
        if phase == "ended":
            write_json(self.directory / RECORD_FILE, record.as_dict())


def _last_metrics(directory: Path) -> Mapping[str, Any] | None:
    """The last value of every metric the trainer wrote."""
    try:
        text = (directory / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found: dict[str, Any] = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the line a kill cut off
        if isinstance(row, dict):
            found.update(row)
    return found or None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
