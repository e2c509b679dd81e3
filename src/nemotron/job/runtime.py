"""The job: starts the trainer of a run directory, watches it, and records how it ended.

    python start.py RUN_DIR          (start.py stands beside a copy of this package in the bundle)

One process holds the run's lock for as long as it or its trainer lives, so two attempts never write into
one run. The trainer is a process group of its own; signals are passed on to it. The job ends when the
process that started it does (NEMOTRON_LIFELINE_FD), and so does the trainer when the job does.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any

from nemotron.artifacts.atomic import write_json
from nemotron.artifacts.records import AttemptRecord, Phase, stat_fingerprint, timestamp, write_record
from nemotron.errors import CheckFailed, NemotronError
from nemotron.job.outputs import find_outputs

LIFELINE = "NEMOTRON_LIFELINE_FD"
# Which attempt the starter means to begin; without it, whichever comes next.
ATTEMPT = "NEMOTRON_ATTEMPT"
EXIT_CONTRACT, EXIT_CONFLICT, EXIT_INTERRUPTED = 4, 5, 130
# How long a trainer may take to save its state after it was asked to stop.
GRACE_SECONDS = 60.0
_LOCK_TRIALS = 10


class Job:
    """One attempt of one run. `lock` is the handle of the run's lock, which the trainer inherits."""

    def __init__(self, directory: Path, lock: int) -> None:
        self.directory = directory
        self._lock = lock
        self.plan = _load(directory / "plan.json", "recipe", "placement", "outputs")
        self.place = _load(directory / "place.json", "records_dir", "inputs")
        self.logs = directory / "logs"
        self.logs.mkdir(exist_ok=True)
        self.attempt = 1 + sum(1 for _ in self.logs.glob("attempt-*.log"))
        self.log = self.logs / f"attempt-{self.attempt}.log"
        self.stopped_by: str | None = None
        self._trainer: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """The whole attempt; returns the exit code."""
        for stale in ("record.json", "failure.json"):
            (self.directory / stale).unlink(missing_ok=True)
        # The log comes first: it is what counts attempts, and no two attempts may have one number.
        with self.log.open("ab") as log:
            self._record("started")
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, self._on_signal)
            code = self._train(log)
        return self._finish(code)

    def _train(self, log: IO[bytes]) -> int:
        argv = self._argv()
        read_end, write_end = os.pipe()
        environment = {**os.environ, **self.plan["placement"]["environment"], LIFELINE: str(read_end)}
        environment["NEMOTRON_RUN_DIR"] = str(self.directory)
        try:
            self._trainer = subprocess.Popen(
                argv,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(read_end, self._lock),
            )
        except OSError as problem:
            log.write(f"{argv[0]} cannot be started: {problem}\n".encode())
            write_json(
                self.directory / "failure.json", {"what": f"{argv[0]} cannot be started: {problem.strerror}"}
            )
            return 127
        finally:
            os.close(read_end)
        if self.stopped_by:  # asked to stop between the handlers and the start
            self._pass_on(signal.SIGTERM)
        code = self._trainer.wait()
        os.close(write_end)
        return code

    def _argv(self) -> list[str]:
        """The plan's command; the user's own arguments at its end are not touched."""
        words: list[str] = self.plan["placement"]["argv"]
        ours = len(words) - len(self.plan["recipe"]["arguments"])
        return [word.replace("{run_dir}", str(self.directory)) for word in words[:ours]] + words[ours:]

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        first = self.stopped_by is None
        self.stopped_by = signal.Signals(number).name
        self._pass_on(signal.SIGTERM if first else signal.SIGKILL)
        if first:
            killer = threading.Timer(GRACE_SECONDS, self._pass_on, (signal.SIGKILL,))
            killer.daemon = True
            killer.start()

    def _pass_on(self, number: int) -> None:
        if self._trainer is not None and self._trainer.poll() is None:
            try:
                os.killpg(self._trainer.pid, number)
            except ProcessLookupError:
                return

    def _finish(self, code: int) -> int:
        outputs: dict[str, dict[str, Any]] = {}
        reason = None
        if self.stopped_by is not None:  # with exit code 0 too: it may have saved and stopped half-way
            reason, code = "interrupted", EXIT_INTERRUPTED
        elif code != 0:
            reason = f"signal {signal.Signals(-code).name}" if code < 0 else "trainer failed"
            code = 128 - code if code < 0 else code
        else:
            outputs, missing = find_outputs(self.directory, self.plan["outputs"])
            if missing:
                reason, code = missing, EXIT_CONTRACT
                write_json(self.directory / "failure.json", {"what": missing, "exit_code": code})
        for output in outputs.values():
            output["fingerprint"] = stat_fingerprint(Path(output["path"]))
        self._record("ended", exit_code=code, reason=reason, outputs=outputs)
        return code

    def _record(self, phase: Phase, **more: Any) -> None:
        recipe, place = self.plan["recipe"], self.place
        record = AttemptRecord(
            run_id=self.directory.name,
            attempt=self.attempt,
            phase=phase,
            at=timestamp(datetime.now(UTC)),
            step=recipe["step"],
            root=self.plan["placement"]["root"],
            engine=recipe["engine"],
            engine_version=recipe["engine_version"],
            plan_digest=place["plan_digest"],
            recipe_digest=self.plan["recipe_digest"],
            inputs=place["inputs"],
            host=socket.gethostname(),
            pid=os.getpid(),
            user=_user(),
            metrics=_last_metrics(self.directory) if phase == "ended" else None,
            code=recipe["code"],
            backend=self.plan["placement"]["backend"],
            profile=self.plan["placement"]["profile"],
            scheduler_id=os.environ.get("SLURM_JOB_ID"),
            nemotron_version=place["nemotron_version"],
            directory=str(self.directory),
            config_name=self.plan.get("config_name"),
            **more,
        )
        write_record(Path(place["records_dir"]), record)
        if phase == "ended":
            write_json(self.directory / "record.json", record.as_dict())


def _load(path: Path, *needed: str) -> dict[str, Any]:
    """A file of the bundle. Raises CheckFailed when it is not what was written there."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise CheckFailed(f"{path.name} cannot be read: {problem}", where=str(path)) from problem
    if not isinstance(loaded, dict) or any(key not in loaded for key in needed):
        raise CheckFailed(f"{path.name} does not hold {', '.join(needed)}", where=str(path))
    return loaded


def main(arguments: list[str]) -> int:
    """Run the job of a run directory; returns its exit code."""
    directory = Path(arguments[0]).resolve()
    handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    if not _take_lock(handle):
        print(f"{directory.name} is running already", file=sys.stderr)
        return EXIT_CONFLICT
    os.truncate(handle, 0)
    os.write(handle, f"{socket.gethostname()} {os.getpid()} {time.time():.0f}\n".encode())
    try:
        job = Job(directory, handle)
        wanted = os.environ.pop(ATTEMPT, None)
        if wanted is not None and wanted != str(job.attempt):
            print(f"attempt {wanted} of {directory.name} was begun by somebody else", file=sys.stderr)
            return EXIT_CONFLICT
        _die_with_starter(job)
        return job.run()
    except NemotronError as problem:
        print(problem.render(), file=sys.stderr)
        with contextlib.suppress(NemotronError):  # on a full disk stderr has to do
            write_json(directory / "failure.json", problem.as_dict())
        return problem.exit_code


def _take_lock(handle: int) -> bool:
    """Lock the run, False when another job has it. Whoever asks for its state has it for an instant too."""
    for _ in range(_LOCK_TRIALS):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def _die_with_starter(job: Job) -> None:
    """Kill the trainer and end when the process that started this job is gone."""
    given = os.environ.pop(LIFELINE, None)
    if given is None:
        return
    handle = int(given)

    def watch() -> None:
        while os.read(handle, 1):
            pass
        job._pass_on(signal.SIGKILL)
        os._exit(137)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()


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
