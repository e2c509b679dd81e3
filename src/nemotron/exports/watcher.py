"""The launcher's side of W&B: starts a mirror beside a run, hears what becomes of it, never waits for it.

Whatever goes wrong with W&B is told, once, and changes nothing: no exit code, no run. A run is not waited
for either; at the very end of a command W&B has `NEMOTRON_WANDB_SECONDS` to take what is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nemotron.artifacts.runs import Run
from nemotron.errors import UsageError
from nemotron.exports.wandb import wants_wandb

if TYPE_CHECKING:
    from nemotron.launch.launcher import Launched, Outcome, Watcher
    from nemotron.planning.plan import Plan

SECONDS = "NEMOTRON_WANDB_SECONDS"
INSTALL = "pip install 'nemotron[wandb]'"
_DEFAULT_SECONDS = 30.0
_LONGEST = 3600.0


def patience(environ: Mapping[str, str]) -> float:
    """How many seconds W&B may take to open a run, and to close it. Raises UsageError for no number."""
    given = environ.get(SECONDS)
    try:
        seconds = float(given) if given else _DEFAULT_SECONDS
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= _LONGEST:
        what = f"{given!r} is no number of seconds"
        raise UsageError(what, where=SECONDS, valid=(f"more than 0, up to {_LONGEST:.0f}",))
    return seconds


class Mirror:
    """The process that tells W&B of one run."""

    def __init__(
        self, run: Run, records_dir: Path, environ: Mapping[str, str], opening: float, ending: float
    ):
        """Start it. opening, ending: seconds that W&B may take for each."""
        self.run = run
        self.where: str | None = None
        self.mode: str | None = None
        self.problem: str | None = None
        self.is_missing = False
        self._heard, self._is_done = b"", False
        self._begun, self._opening = time.monotonic(), opening
        self._process: subprocess.Popen[bytes] | None = None
        # Not the working directory: a wandb.py or a json.py in it would be taken for the real one.
        words = [sys.executable, "-P", "-m", "nemotron.exports.mirror", str(run.directory), str(records_dir)]
        with contextlib.ExitStack() as stack:
            try:
                _log(run).parent.mkdir(exist_ok=True)
                log = stack.enter_context(_log(run).open("ab"))
            except OSError:
                log = stack.enter_context(Path(os.devnull).open("ab"))
            try:
                self._process = subprocess.Popen(
                    [*words, str(opening), str(ending)],
                    env=dict(environ),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    # Ctrl-C is for the run; what W&B has of it is still to be closed then.
                    start_new_session=True,
                )
            except OSError as problem:
                self.problem = f"its process cannot be started: {problem.strerror}"
                return
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    @property
    def is_offline(self) -> bool:
        """Whether what it tells stays here until it is synced."""
        return self.mode in ("offline", "dryrun")

    def look(self) -> None:
        """Hear what it has told since; ends it when it took too long to open. Never waits."""
        if self._process is None:
            return
        assert self._process.stdout is not None
        over = self._process.poll() is not None
        try:
            self._heard += self._process.stdout.read() or b""
        except OSError as problem:
            self.problem = f"its process cannot be heard: {problem.strerror}"
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            self._take(line)
        if over:
            code = self._process.returncode
            if not self._is_done and self.problem is None:
                self.problem = f"its process ended with exit code {code}, see {_log(self.run)}"
            self._let_go()
        elif self.where is None and time.monotonic() - self._begun > self._opening:
            self.kill(f"no answer within {self._opening:.0f} s ({SECONDS})")

    def close(self, state: str) -> None:
        """Say how the run ended: succeeded, failed or interrupted. Never waits."""
        if self._process is None or self._process.stdin is None or self._process.stdin.closed:
            return
        with contextlib.suppress(OSError):  # it is gone; `look` tells why
            self._process.stdin.write(f"{state}\n".encode())
            self._process.stdin.close()

    def wait(self, deadline: float) -> None:
        """Until it is over; it is ended at `deadline` (of the monotonic clock)."""
        while self._process is not None:
            self.look()
            if self._process is not None and time.monotonic() > deadline:
                self.kill(f"not done in time ({SECONDS})")
            time.sleep(0.02)

    def kill(self, problem: str) -> None:
        """End it, and what it started."""
        if self._process is None:
            return
        self.problem = self.problem or problem
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in a file system; so be it
            self._process.wait(1.0)
        self._let_go()

    def told(self) -> str:
        """What became of it, for a person."""
        if self.problem is not None:
            then = INSTALL if self.is_missing else f"nemotron runs export {self.run.id} --format wandb"
            lacks = f"W&B has not all of {self.run.id}, which changes nothing for the run"
            return f"{lacks}: {self.problem}\n  next: {then}"
        if self.is_offline:
            return (
                f"W&B is offline, what it would get of {self.run.id} is kept\n  next: wandb sync {self.where}"
            )
        return f"W&B: {self.where}"

    def _take(self, line: bytes) -> None:
        """One line it told. What W&B prints is no line of ours."""
        try:
            said = json.loads(line)
        except ValueError:
            return
        match said:
            case {"where": str(where), "mode": str(mode)}:
                self.where, self.mode = where, mode
            case {"problem": str(problem), "is_missing": bool(missing)}:
                self.problem, self.is_missing = problem, missing
            case {"done": True}:
                self._is_done = True

    def _let_go(self) -> None:
        if self._process is None:
            return
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process = None


class WandbWatcher:
    """Hands on to another watcher what it is told, and mirrors the runs whose config asks for W&B."""

    def __init__(self, shown: Watcher, records_dir: Path, environ: Mapping[str, str]) -> None:
        self._shown = shown
        self._records_dir = records_dir
        self._environ = environ
        self._seconds = patience(environ)
        self._open: Mirror | None = None
        self._closing: list[Mirror] = []
        self._has_failed = False
        self._lines: dict[str, str] = {}

    @property
    def told(self) -> tuple[str, ...]:
        """What became of it, for every run that W&B was to be told of; of what went wrong, the first."""
        return tuple(self._lines.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close("interrupted" if kind is not None and issubclass(kind, KeyboardInterrupt) else "failed")
        deadline = time.monotonic() + self._seconds
        try:
            for mirror in self._closing:
                mirror.wait(deadline)
        except KeyboardInterrupt:
            # Only W&B is waited for here; the run has its result.
            for mirror in self._closing:
                mirror.kill("interrupted")
        self._hear()

    def begin(self, plan: Plan, run: Run, outcome: Outcome, position: tuple[int, int]) -> None:
        """Start a mirror of a run that asks for it; one that is reused has nothing new to tell."""
        self._shown.begin(plan, run, outcome, position)
        self._close("failed")
        wanted = outcome != "reused" and wants_wandb(plan.recipe.config, plan.recipe.engine)
        # What failed once would fail for every run of a chain, each after its own time.
        if wanted and not self._has_failed:
            self._open = Mirror(run, self._records_dir, self._environ, self._seconds, self._seconds)

    def waiting(self, run: Run) -> None:
        """Nothing of ours."""
        self._shown.waiting(run)

    def notice(self, text: str) -> None:
        """Nothing of ours."""
        self._shown.notice(text)

    def tick(self, run: Run) -> None:
        """Hear the mirrors."""
        self._shown.tick(run)
        if self._open is not None:
            self._open.look()
            self._tell(self._open)
        self._hear()

    def end(self, launched: Launched) -> None:
        """The run ended well."""
        self._shown.end(launched)
        self._close("succeeded")

    def failed(self, run: Run) -> None:
        """The run failed."""
        self._shown.failed(run)
        self._close("failed")

    def _close(self, state: str) -> None:
        if self._open is not None:
            self._open.close(state)
            self._closing.append(self._open)
            self._open = None

    def _hear(self) -> None:
        for mirror in self._closing:
            mirror.look()
            self._tell(mirror)

    def _tell(self, mirror: Mirror) -> None:
        """Say once where it is, or what went wrong; the latter takes the place of the former."""
        if mirror.where is None and mirror.problem is None:
            return
        line = mirror.told()
        if mirror.problem is not None:
            if self._has_failed:
                return
            self._has_failed = True
        if self._lines.get(mirror.run.id) != line:
            self._lines[mirror.run.id] = line
            print(line, file=sys.stderr, flush=True)


def _log(run: Run) -> Path:
    return run.directory / "logs" / "wandb.log"
