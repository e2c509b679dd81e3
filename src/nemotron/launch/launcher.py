"""From a plan to its run: what it needs is built first, what is done is reused, what was cut off resumes."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from nemotron.artifacts.atomic import os_error
from nemotron.artifacts.index.store_index import catch_up, store_index
from nemotron.artifacts.naming import note_digest
from nemotron.artifacts.run_state import UNFINISHED
from nemotron.artifacts.runs import LOCK_FILE, Run, is_locked
from nemotron.artifacts.settle import settle
from nemotron.artifacts.store import Store
from nemotron.errors import (
    EXIT_INTERRUPTED,
    CheckFailed,
    Conflict,
    NemotronError,
    NotFound,
    UsageError,
    WorkFailed,
)
from nemotron.findings import Finding, errors_in
from nemotron.launch.bundle import new_run_directory, write_bundle, write_secrets
from nemotron.launch.fetching import can_fetch, fetch_input
from nemotron.launch.local import run_attached
from nemotron.launch.secret_values import secret_values
from nemotron.planning.earlier import find_earlier, without_earlier
from nemotron.planning.model_identity import recheck
from nemotron.planning.named import refuse_tainted_inputs
from nemotron.planning.pinning import input_of_run
from nemotron.planning.plan import Plan, PlannedInput
from nemotron.planning.preflight import blocking

# A killed client's job notices within this time that nobody waits for it any more.
_ORPHAN_SECONDS = 5.0
# Less than this is full: a page of the log may still fit.
_FULL_BYTES = 64 << 10

Outcome = Literal["ran", "resumed", "reused"]


@dataclass(frozen=True)
class Launched:
    """A run that ended well, and how it came about."""

    run: Run
    outcome: Outcome
    seconds: float


class Watcher(Protocol):
    """What is told of a launch while it goes on."""

    def begin(self, plan: Plan, run: Run, outcome: Outcome, position: tuple[int, int]) -> None:
        """A run starts, resumes or is reused; position: which of how many."""

    def waiting(self, run: Run) -> None:
        """Another process is running what this launch needs; it is waited for."""

    def notice(self, text: str) -> None:
        """Something a person should know that stops nothing."""

    def tick(self, run: Run) -> None:
        """Called a few times a second while a run is going on."""

    def end(self, launched: Launched) -> None:
        """A run has ended well."""

    def failed(self, run: Run) -> None:
        """A run has failed; the error follows."""


class SilentWatcher:
    """Hears everything and says nothing."""

    def begin(self, plan: Plan, run: Run, outcome: Outcome, position: tuple[int, int]) -> None:
        """Nothing."""

    def waiting(self, run: Run) -> None:
        """Nothing."""

    def notice(self, text: str) -> None:
        """Nothing."""

    def tick(self, run: Run) -> None:
        """Nothing."""

    def end(self, launched: Launched) -> None:
        """Nothing."""

    def failed(self, run: Run) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Launcher:
    """Runs plans of one store here, attached.

    use_cache: take a finished or interrupted run of the same recipe for the last plan instead of starting
    a new one; what it builds on is reused either way. progress: called with the bytes fetched or read, and
    to be fetched or read; the latter is 0 where nothing is.
    """

    store: Store
    environ: Mapping[str, str]
    watcher: Watcher
    use_cache: bool = True
    progress: Callable[[int, int], None] | None = None

    def launch(self, plan: Plan) -> Launched:
        """Run a plan after the plans it builds on.

        Raises
        ------
        CheckFailed, NotFound: a finding stops the launch, or an output is not what its type says.
        Conflict: another process is running the same recipe.
        WorkFailed: the trainer failed. KeyboardInterrupt: after the run was asked to stop.
        """
        _refuse(plan)
        # Before anything is built: a model that cannot be had should not cost the time of a build.
        plan = self._fetched(plan)
        built: dict[str, Launched] = {}
        total = len(plan.builds) + 1
        for number, (key, each) in enumerate(plan.builds, 1):
            built[key] = self._run(self._ready(each, built), (number, total), is_input=True)
        return self._run(self._ready(plan, built), (total, total), is_input=False)

    def _ready(self, plan: Plan, built: Mapping[str, Launched]) -> Plan:
        """The plan with every input that was to be built pinned."""
        inputs = tuple(self._pin(i, built) for i in plan.inputs)
        ready = replace(plan, builds=(), done_by=None, resumes=None).with_inputs(inputs)
        return self._checked(plan, ready)

    def _fetched(self, plan: Plan) -> Plan:
        """The plan, and those it builds on, with every input of a hub brought here."""
        builds = tuple((key, self._fetched(each)) for key, each in plan.builds)
        unread = plan.placement.stub
        inputs = tuple(self._fetch(i) if i.state == "late" and not unread else i for i in plan.inputs)
        return self._checked(plan, replace(plan, builds=builds).with_inputs(inputs))

    def _checked(self, before: Plan, plan: Plan) -> Plan:
        """The plan, checked for what could not be known before its inputs were there."""
        refuse_tainted_inputs(before, plan, self.store, self.environ)
        return recheck(before, plan, self.environ)

    def _fetch(self, each: PlannedInput) -> PlannedInput:
        return fetch_input(each, self.environ, self.store, self.progress)

    def _pin(self, each: PlannedInput, built: Mapping[str, Launched]) -> PlannedInput:
        if each.build is None or each.build not in built:
            return each
        return input_of_run(each, built[each.build].run)

    def _run(self, plan: Plan, position: tuple[int, int], *, is_input: bool) -> Launched:
        """Reuse, resume or start a run of the plan's recipe, and see it to its end."""
        reuses = self.use_cache or is_input
        while True:
            begun = time.monotonic()
            with recipe_claim(self.store, plan) as refused:
                found = find_earlier(plan, self.store, self.environ) if reuses else without_earlier(plan)
                if found.done_at is not None:
                    return self._reused(found, Run(Path(found.done_at)), position)
                if refused is not None:
                    raise refused
                outcome: Outcome = "ran" if found.resumes is None else "resumed"
                self._refuse_elsewhere(found)
                run = self._prepared(found)
            if outcome == "resumed":
                self._await_unlocked(run, forever=is_input)
            # Counted before the state is asked for: an attempt that begins in between is not overlooked.
            attempt = run.attempts + 1
            state = run.state() if outcome == "resumed" else "prepared"
            if state == "running":
                continue  # somebody began after the wait was over, and before the count
            if state == "succeeded":
                self._settle(run)
                return self._reused(found, run, position)
            self.watcher.begin(found, run, outcome, position)
            watch = functools.partial(self.watcher.tick, run)
            code = run_attached(run.directory, watch, self.environ, attempt)
            watch()
            if code == Conflict.exit_code and code not in _told(run):
                continue  # another process took the run a moment earlier: wait for it, or use what it left
            return self._ended(run, code, Launched(run, outcome, time.monotonic() - begun))

    def _refuse_elsewhere(self, plan: Plan) -> None:
        """Raise Conflict for a run that a scheduler holds, or that goes on where its lock is not seen."""
        if plan.resumes is None:
            return
        run = Run(self.store.runs_dir / plan.resumes)
        now = run.standing()
        if now.state in UNFINISHED and not is_locked(run.directory / LOCK_FILE):
            job = f" as job {now.job.job}" if now.job is not None and now.job.job else ""
            raise Conflict(
                f"run {run.id} of the same recipe is {now.state}{job}",
                where=str(run.directory),
                next=f"nemotron runs wait {run.id}, or --no-cache for another run of the same",
            )

    def _prepared(self, plan: Plan) -> Run:
        secrets = secret_values(plan, self.environ, Path.cwd()) if plan.placement.profile else {}
        if plan.resumes is not None:
            run = Run(self.store.runs_dir / plan.resumes)
            write_secrets(run.directory, secrets)
            return run
        run = Run(new_run_directory(plan, self.store))
        write_bundle(run.directory, plan, self.store, secrets=secrets)
        self._note_checkpoints(plan)
        return run

    def _note_checkpoints(self, plan: Plan) -> None:
        """Record the content of checkpoints of earlier runs that this run is the first to read."""
        runs = self.store.runs_dir
        unread = [i for i in plan.inputs if not i.made_by and i.path and Path(i.path).is_relative_to(runs)]
        if unread:
            index = store_index(self.store, self.environ)
            for each in unread:
                note_digest(self.store, index, Path(str(each.path)), str(each.digest))

    def _ended(self, run: Run, code: int, launched: Launched) -> Launched:
        if code == EXIT_INTERRUPTED and run.state() == "interrupted":
            raise KeyboardInterrupt
        if code != 0:
            self.watcher.failed(run)
            raise failure_of(run, code)
        self._settle(run)
        self.watcher.end(launched)
        return launched

    def _reused(self, plan: Plan, run: Run, position: tuple[int, int]) -> Launched:
        launched = Launched(run, "reused", 0.0)
        self.watcher.begin(plan, run, "reused", position)
        self.watcher.end(launched)
        return launched

    def _await_unlocked(self, run: Run, *, forever: bool) -> None:
        """Wait until nobody runs `run`: as long as it takes, or until an orphan noticed that it is one."""
        deadline = time.monotonic() + _ORPHAN_SECONDS
        told = False
        while is_locked(run.directory / LOCK_FILE):
            if not forever and time.monotonic() > deadline:
                raise _going_on(run)
            if not told:
                self.watcher.waiting(run)
                told = True
            time.sleep(0.1)

    def _settle(self, run: Run) -> None:
        findings = errors_in(settle(self.store, run, self.environ, self.progress))
        if findings:
            raise CheckFailed(
                f"run {run.id} left outputs that are not what they should be",
                where=str(run.directory),
                next="mend the step, or try once more with --no-cache",
                findings=findings,
            )
        problem = catch_up(self.store)
        if problem is not None:
            self.watcher.notice(problem)


def _refuse(plan: Plan) -> None:
    """Raise for everything that stops a launch, all at once."""
    stops = blocking(plan)
    for _, each in [*plan.builds, ("", plan)]:
        if each.engine_problem is not None:
            said = f"{each.recipe.engine} cannot run here: {each.engine_problem}"
            stops = (*stops, Finding("engine.not_here", "error", said))
    unread = plan.placement.stub
    late = [i for i in plan.inputs if i.state == "late" and not unread and not can_fetch(i)]
    stops = (
        *stops,
        *(Finding("input.late", "error", f"input {i.port}: {i.reference} cannot be fetched") for i in late),
    )
    if not stops:
        return
    kind = NotFound if all(f.id == "input.not_found" for f in stops) else CheckFailed
    count = "1 finding stops" if len(stops) == 1 else f"{len(stops)} findings stop"
    raise kind(f"{count} the launch", where=plan.recipe.step, findings=stops)


@contextlib.contextmanager
def recipe_claim(store: Store, plan: Plan) -> Iterator[NemotronError | None]:
    """Only one process at a time makes a new run of a recipe; the others then find it.

    Yields what keeps us from claiming it: what is finished can be used where nothing can be written.
    """
    place = store.root / "claims"
    name = str(plan.recipe_digest).rpartition(":")[2][:32]
    try:
        place.mkdir(parents=True, exist_ok=True)
        # Whoever may write in the store may claim what a colleague claimed before: the umask decides.
        handle = os.open(place / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileExistsError as problem:
        what = "a file stands where the store's directory should be"
        raise UsageError(what, where=str(place), next="move that file away") from problem
    except OSError as problem:
        yield os_error(problem, place)
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield None
    finally:
        os.close(handle)


def _told(run: Run) -> tuple[object, object]:
    """The exit codes that a run itself tells of; a job that found it taken leaves no word in it."""
    return run.record.get("exit_code"), run.failure.get("exit_code")


def _going_on(run: Run) -> Conflict:
    return Conflict(
        f"run {run.id} of the same recipe is going on",
        where=str(run.directory),
        next=f"nemotron runs logs {run.id} -f, or --no-cache for another run of the same",
    )


def failure_of(run: Run, code: int) -> NemotronError:
    """What a failed run says of itself, with the exit code of its kind."""
    said = run.failure
    what = str(said.get("what") or _silent_failure(run, code))
    # A program of the user's may end with any number; only what is told is a kind of error of ours.
    told = said.get("exit_code") == code
    kinds: dict[int, type[NemotronError]] = {2: UsageError, 3: NotFound, 4: CheckFailed, 5: Conflict}
    kind = kinds.get(code, WorkFailed) if told else WorkFailed
    where = str(said["where"]) if said.get("where") else str(run.latest_log() or run.directory / "logs")
    return kind(
        f"run {run.id} failed: {what}",
        where=where,
        nearest=_words(said.get("nearest")),
        valid=_words(said.get("valid")),
        next=str(said["next"]) if said.get("next") else f"nemotron runs logs {run.id}",
    )


def _words(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _silent_failure(run: Run, code: int) -> str:
    """For a run that left no word: a full disk keeps it from doing so."""
    if shutil.disk_usage(run.directory).free < _FULL_BYTES:
        return "no space left on device; free some and type the same command, it resumes"
    return f"the trainer ended with exit code {code}"
