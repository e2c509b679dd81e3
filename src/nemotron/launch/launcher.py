"""From a plan to its run: what it needs is built first, what is done is reused, what was cut off resumes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from nemotron.artifacts.runs import LOCK_FILE, Run, is_locked, settle
from nemotron.artifacts.store import Store
from nemotron.errors import CheckFailed, Conflict, NemotronError, NotFound, WorkFailed
from nemotron.findings import Finding, errors_in
from nemotron.launch.bundle import write_bundle
from nemotron.launch.local import run_attached
from nemotron.planning.build import blocking, find_earlier
from nemotron.planning.plan import Plan, PlannedInput

EXIT_INTERRUPTED = 130
# A killed client's job notices within this time that nobody waits for it any more.
_ORPHAN_SECONDS = 5.0

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

    def tick(self, run: Run) -> None:
        """Called a few times a second while a run is going on."""

    def end(self, launched: Launched) -> None:
        """A run has ended well."""


def launch(
    plan: Plan, store: Store, environ: Mapping[str, str], watcher: Watcher, *, use_cache: bool = True
) -> Launched:
    """Run a plan here, attached, after the plans it builds on.

    use_cache: take a finished or interrupted run of the same recipe instead of starting a new one; inputs
    are reused either way.

    Raises
    ------
    CheckFailed, NotFound: a finding stops the launch, or an output is not what its type says.
    Conflict: another process is running the same recipe.
    WorkFailed: the trainer failed. KeyboardInterrupt: after the run was asked to stop.
    """
    _refuse(plan)
    built: dict[str, Launched] = {}
    total = len(plan.builds) + 1
    for number, (key, each) in enumerate(plan.builds, 1):
        built[key] = _run_one(
            find_earlier(_pinned(each, built), store), store, environ, watcher, (number, total), wait=True
        )
    final = _pinned(plan, built)
    final = find_earlier(final, store) if use_cache else replace(final, done_by=None, resumes=None)
    return _run_one(final, store, environ, watcher, (total, total), wait=False)


def _refuse(plan: Plan) -> None:
    """Raise for everything that stops a launch, all at once."""
    stops = blocking(plan)
    for _, each in [*plan.builds, ("", plan)]:
        if each.engine_problem is not None:
            problem = each.engine_problem
            stops = (
                *stops,
                Finding("engine.not_here", "error", f"{each.recipe.engine} cannot run here: {problem}"),
            )
    late = [i for i in plan.inputs if i.state == "late"]
    stops = (
        *stops,
        *(
            Finding("input.late", "error", f"input {i.port}: {i.reference} cannot be fetched here yet")
            for i in late
        ),
    )
    if not stops:
        return
    kind = NotFound if all(f.id == "input.not_found" for f in stops) else CheckFailed
    count = "1 finding stops" if len(stops) == 1 else f"{len(stops)} findings stop"
    raise kind(f"{count} the launch", where=plan.recipe.step, findings=stops)


def _pinned(plan: Plan, built: Mapping[str, Launched]) -> Plan:
    """The plan with every input that was to be built pinned to what the build left."""

    def pin(each: PlannedInput) -> PlannedInput:
        if each.build is None or each.build not in built:
            return each
        run = built[each.build].run
        output = run.outputs[str(each.output)]
        return replace(
            each,
            state="pinned",
            type=str(output["type"]),
            path=str(output["path"]),
            digest=str(output["digest"]),
            made_by=run.id,
        )

    return replace(plan, builds=()).with_inputs(tuple(pin(i) for i in plan.inputs))


def _run_one(
    plan: Plan,
    store: Store,
    environ: Mapping[str, str],
    watcher: Watcher,
    position: tuple[int, int],
    *,
    wait: bool,
) -> Launched:
    begun = time.monotonic()
    if plan.done_by is not None:
        return _reused(plan, Run(store.runs_dir / plan.done_by), watcher, position)
    if plan.resumes is not None:
        run = Run(store.runs_dir / plan.resumes)
        _await_unlocked(run, forever=wait)
        if run.state() == "succeeded":
            _settle_or_fail(store, run, environ)
            return _reused(plan, run, watcher, position)
        outcome: Outcome = "resumed"
    else:
        with recipe_claim(store, plan):
            again = find_earlier(plan, store)
            if wait and (again.done_by or again.resumes):
                return _run_one(again, store, environ, watcher, position, wait=wait)
            run = Run(store.new_run_dir(plan.recipe.step, datetime.now(UTC)))
            write_bundle(run.directory, plan, store)
        outcome = "ran"
    watcher.begin(plan, run, outcome, position)
    code = run_attached(run.directory, lambda: watcher.tick(run))
    watcher.tick(run)
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code != 0:
        raise _failure(run, code)
    _settle_or_fail(store, run, environ)
    launched = Launched(run, outcome, time.monotonic() - begun)
    watcher.end(launched)
    return launched


@contextlib.contextmanager
def recipe_claim(store: Store, plan: Plan) -> Iterator[None]:
    """Only one process at a time makes a new run of a recipe; the others then find it."""
    import fcntl
    import os

    from nemotron.artifacts.atomic import os_error

    place = store.root / "claims"
    name = str(plan.recipe_digest).rpartition(":")[2][:32]
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle = os.open(place / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise os_error(problem, place) from problem
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _reused(plan: Plan, run: Run, watcher: Watcher, position: tuple[int, int]) -> Launched:
    launched = Launched(run, "reused", 0.0)
    watcher.begin(plan, run, "reused", position)
    watcher.end(launched)
    return launched


def _await_unlocked(run: Run, *, forever: bool) -> None:
    """Wait until nobody runs `run`: for as long as it takes, or for an orphan to notice that it is one."""
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while is_locked(run.directory / LOCK_FILE):
        if not forever and time.monotonic() > deadline:
            raise Conflict(
                f"run {run.id} of the same recipe is going on",
                where=str(run.directory),
                next=f"nemotron runs logs {run.id}, or --no-cache for another run of the same",
            )
        time.sleep(0.1)


def _settle_or_fail(store: Store, run: Run, environ: Mapping[str, str]) -> None:
    findings = errors_in(settle(store, run, environ))
    if findings:
        raise CheckFailed(
            f"run {run.id} left outputs that are not what they should be",
            where=str(run.directory),
            findings=findings,
        )


def _failure(run: Run, code: int) -> NemotronError:
    """What a failed run says of itself, with the exit code of its kind."""
    said = run.failure
    what = str(said.get("what") or f"the trainer ended with exit code {code}")
    kind: type[NemotronError] = {3: NotFound, 4: CheckFailed, 5: Conflict}.get(code, WorkFailed)
    where = str(said["where"]) if said.get("where") else str(_newest_log(run.directory))
    return kind(
        f"run {run.id} failed: {what}",
        where=where,
        next=str(said["next"]) if said.get("next") else f"nemotron runs logs {run.id}",
    )


def _newest_log(directory: Path) -> Path:
    logs = sorted((directory / "logs").glob("attempt-*.log"), key=lambda p: p.stat().st_mtime)
    return logs[-1] if logs else directory / "logs"
