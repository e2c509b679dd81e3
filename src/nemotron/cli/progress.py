"""Shows a launch as it goes on: a bar on a terminal, plain lines elsewhere. All of it goes to stderr."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from nemotron.artifacts.runs import Run
from nemotron.artifacts.store import Store
from nemotron.errors import NemotronError
from nemotron.launch.launcher import Launched, Outcome
from nemotron.planning.plan import Plan

# A plain line at most this often, so that a log file stays readable.
LINE_SECONDS = 5.0
_SHOWN = (
    ("train/reward", "reward"),
    ("train/loss", "loss"),
    ("train/kl", "kl"),
    ("judge/fallback_rate", "unread verdicts"),
    ("validation/accuracy", "right"),
)
_WORDS = {"ran": "run", "resumed": "resume", "reused": "reuse"}


@dataclass
class Progress:
    """What the files of a running run say about it."""

    step: int = 0
    total: int = 0
    started_at: int = 0
    phase: str = "starting"
    metrics: dict[str, float] | None = None
    seconds_left: float | None = None


class Tail:
    """Reads what was appended to a run's metrics and timings since the last look."""

    def __init__(self, directory: Path) -> None:
        self._offsets = {directory / "timings.jsonl": 0, directory / "metrics.jsonl": 0}
        self.progress = Progress(metrics={})
        self._durations: list[float] = []

    def look(self) -> Progress:
        """The progress as of now."""
        for path in self._offsets:
            for row in self._new_rows(path):
                self._take(row, is_timing=path.name == "timings.jsonl")
        done = self.progress.total and self._durations
        if done:
            recent = self._durations[-20:]
            left = self.progress.total - self.progress.step
            self.progress.seconds_left = left * sum(recent) / len(recent)
        return self.progress

    def _take(self, row: object, *, is_timing: bool) -> None:
        """A row of ours; a step's own program may keep other things in files of these names."""
        progress = self.progress
        if not is_timing:
            assert progress.metrics is not None
            known = row if isinstance(row, dict) else {}
            progress.metrics |= {k: v for k, v in known.items() if k != "step" and isinstance(v, int | float)}
            return
        match row:
            case {"event": "start", "total_steps": int(total), "step": int(step)}:
                progress.total, progress.step, progress.started_at = total, step, step
            case {"event": "step", "step": int(step), "seconds": int() | float() as seconds}:
                progress.step = step
                # The first step of an attempt holds its start-up too.
                if step > progress.started_at + 1:
                    self._durations.append(seconds)
            case {"event": "phase", "name": str(name)}:
                progress.phase = name

    def _new_rows(self, path: Path) -> list[object]:
        try:
            with path.open("rb") as handle:
                size = handle.seek(0, 2)
                # A resumed run rewrites its metrics; what was read before is read again.
                start = self._offsets[path] if self._offsets[path] <= size else 0
                handle.seek(start)
                data = handle.read()
        except OSError:
            return []
        whole = data.rfind(b"\n") + 1
        self._offsets[path] = start + whole
        return [_parsed(line) for line in data[:whole].splitlines()]


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


class WatcherContext(Protocol):
    """A watcher that is closed at the end."""

    def begin(self, plan: Plan, run: Run, outcome: Outcome, position: tuple[int, int]) -> None: ...

    def waiting(self, run: Run) -> None: ...

    def notice(self, text: str) -> None: ...

    def tick(self, run: Run) -> None: ...

    def end(self, launched: Launched) -> None: ...

    def failed(self, run: Run) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PlainWatcher:
    """A line when something starts or ends, and one every few seconds between."""

    def __init__(self, *, use_cache: bool) -> None:
        self._use_cache = use_cache
        self._tail: Tail | None = None
        self._label = ""
        self._said = (0.0, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def begin(self, plan: Plan, run: Run, outcome: Outcome, position: tuple[int, int]) -> None:
        """Say what starts, from where it resumes, and why."""
        self._label = f"[{position[0]}/{position[1]}] {plan.recipe.step}"
        self._tail = Tail(run.directory)
        if outcome == "resumed":
            self._tail.look()
        self._said = (time.monotonic(), "")
        self._say(f"{self._label}: {_WORDS[outcome]} {run.id}{_from_where(run, outcome)}")
        if plan.because and outcome != "reused":
            more = f" (and {len(plan.because) - 1} more)" if len(plan.because) > 1 else ""
            self._say(f"{self._label}: why: {plan.because[0]}{more}")

    def waiting(self, run: Run) -> None:
        """Say whose work is waited for."""
        self._say(f"waiting for run {run.id}, which another process is running")

    def notice(self, text: str) -> None:
        """Say it."""
        self._say(f"warning: {text}")

    def tick(self, run: Run) -> None:
        """A line of progress, when enough time has passed and there is something new."""
        assert self._tail is not None
        progress = self._tail.look()
        text = progress_text(progress)
        if time.monotonic() - self._said[0] >= LINE_SECONDS and text != self._said[1]:
            self._say(f"{self._label}: {text}")
            self._said = (time.monotonic(), text)

    def end(self, launched: Launched) -> None:
        """Say that it is done."""
        if launched.outcome != "reused":
            self._say(f"{self._label}: done in {launched.seconds:.0f} s")

    def failed(self, run: Run) -> None:
        """What the step's manifest knows of the failure, told from the run's log."""
        from nemotron.catalog.advice import matching_errors
        from nemotron.catalog.discover import load_catalog

        recipe, root = run.plan["recipe"], run.plan["placement"]["root"]
        log = run.latest_log()
        if log is None:
            return
        try:
            errors = load_catalog().get(f"{root}:{recipe['step']}").errors
        except NemotronError:
            return  # the step is gone or broken meanwhile; the failure itself is what has to be read
        for known in matching_errors(errors, log.read_text(encoding="utf-8", errors="replace")):
            self._say(f"known error: {known.name}\n  {known.recovery}")

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class BarWatcher(PlainWatcher):
    """One rich progress bar for the run that is going on."""

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, text="")
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def tick(self, run: Run) -> None:
        """Move the bar."""
        assert self._tail is not None
        progress = self._tail.look()
        self._bar.update(
            self._task,
            description=self._label,
            total=progress.total or None,
            completed=progress.step,
            text=progress_text(progress),
        )

    def _say(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False)


def make_watcher(store: Store, *, use_cache: bool) -> WatcherContext:
    """A bar on a terminal, lines elsewhere."""
    return BarWatcher(use_cache=use_cache) if sys.stderr.isatty() else PlainWatcher(use_cache=use_cache)


def progress_text(progress: Progress) -> str:
    """`step 12/30, reward 3.21, kl 0.042, 14 s left`."""
    if not progress.total or progress.step >= progress.total or progress.step == progress.started_at:
        where = f"step {progress.step}/{progress.total}, " if progress.total else ""
        return where + progress.phase
    parts = [f"step {progress.step}/{progress.total}"]
    metrics = progress.metrics or {}
    parts += [f"{word} {metrics[name]:.3g}" for name, word in _SHOWN if name in metrics][:4]
    if progress.seconds_left is not None:
        parts.append(f"{progress.seconds_left:.0f} s left")
    return ", ".join(parts)


def _from_where(run: Run, outcome: Outcome) -> str:
    if outcome != "resumed":
        return ""
    places = [run.directory / str(o["path"]) for o in run.plan.get("outputs", []) if o.get("select")]
    steps = [
        int(p.name.removeprefix("step_"))
        for place in places
        if place.is_dir()
        for p in place.iterdir()
        if p.name.removeprefix("step_").isdigit()
    ]
    return (
        f" from its checkpoint of step {max(steps)}" if steps else " from the start, it had no checkpoint yet"
    )
