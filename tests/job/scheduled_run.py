"""Runs as a scheduler starts them: `bash launch.sh` with the variables that a submitted script exports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Trains by sleeping; saves step_N directories as frameworks do, and resumes from the highest.
TRAINER = """
import json, os, signal, sys, time
from pathlib import Path

given = {"steps": 4, "every": 1, "seconds": 0.05, "term": "save", "saving": 0.0, "leaves_at": None,
         "fails_at": None, "hangs_at": None, "content": "{}", **json.loads(sys.argv[1])}
root = Path("checkpoints")
root.mkdir(exist_ok=True)
done = max((int(p.name[5:]) for p in root.glob("step_*")), default=0)
asked = []


def hear(number, _):
    asked.append(number)
    with Path("heard").open("a") as file:
        file.write(f"{number}\\n")


signal.signal(signal.SIGTERM, {"ignore": signal.SIG_IGN, "die": signal.SIG_DFL}.get(given["term"], hear))
Path("environment.json").write_text(json.dumps(dict(os.environ)))


def save(step):
    time.sleep(given["saving"])
    place = root / f"tmp_step_{step}"
    place.mkdir()
    (place / "results.json").write_text(given["content"])
    place.rename(root / f"step_{step}")


with Path("starts").open("a") as file:
    file.write(f"{os.getpid()} {done}\\n")
for step in range(done + 1, given["steps"] + 1):
    time.sleep(600 if step == given["hangs_at"] else given["seconds"])
    with Path("metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "loss": 1 / step}) + "\\n")
    if step == given["fails_at"]:
        print("Traceback (most recent call last):\\n  File \\"x.py\\", line 1, in f\\nValueError: no number")
        sys.exit(9)
    if asked:
        if given["term"] == "save":
            save(step)
        sys.exit(0)
    if step % given["every"] == 0 or step == given["steps"]:
        save(step)
    if step == given["leaves_at"] and not done:
        sys.exit(0)
"""


@dataclass
class ScheduledRun:
    """One run directory whose jobs a test starts."""

    directory: Path
    records_dir: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def change(self, file: str, **values: Any) -> None:
        """Set values of a JSON file, one level deep."""
        path = self.directory / file
        known = json.loads(path.read_text())
        for name, value in values.items():
            known[name] = {**known[name], **value} if isinstance(value, Mapping) else value
        path.write_text(json.dumps(known))

    def behave(self, **given: Any) -> None:
        """What the trainer does from now on, see TRAINER."""
        trainer = str(self.directory / "trainer.py")
        self.change("plan.json", placement={"argv": [sys.executable, trainer, json.dumps(given)]})

    def start(self, **variables: object) -> subprocess.Popen[str]:
        """Start a job: `start(JOB_ID=7, PART=2)` sets NEMOTRON_JOB_ID and NEMOTRON_PART."""
        given = {f"NEMOTRON_{name}": str(value) for name, value in {"JOB_ID": 100, **variables}.items()}
        job = subprocess.Popen(
            ["bash", "launch.sh"],
            cwd=self.directory,
            env={"PATH": os.environ["PATH"], **given},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(job)
        return job

    def run(self, **variables: object) -> tuple[int, str]:
        """Start a job and wait for its end: exit code and stderr."""
        return ended(self.start(**variables))

    def steps(self) -> list[int]:
        """The checkpoints that are there."""
        return sorted(int(p.name[5:]) for p in self.directory.glob("checkpoints/step_*"))

    def starts(self) -> list[tuple[int, int]]:
        """Process and first step of each start of the trainer."""
        try:
            lines = (self.directory / "starts").read_text().splitlines()
        except OSError:
            return []
        return [(int(pid), int(step)) for pid, step in (line.split() for line in lines)]

    def read(self, file: str) -> dict[str, Any]:
        """A JSON file of the run, empty where there is none."""
        path = self.directory / file
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def ends(self) -> list[tuple[int, int, str | None]]:
        """Attempt, exit code and reason of every ended record."""
        records = [json.loads(p.read_text()) for p in self.records_dir.rglob("*.ended.json")]
        return sorted((r["attempt"], r["exit_code"], r.get("reason")) for r in records)


def ended(job: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr of a job."""
    _, err = job.communicate(timeout=60)
    assert "Traceback" not in err, err
    return job.returncode, err
