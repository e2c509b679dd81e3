"""A run that ended well on a cluster becomes what a run here is: outputs identified, recipe known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_text
from nemotron.artifacts.digest import digest_path
from nemotron.artifacts.digest_cache import DigestCache
from nemotron.artifacts.records import PENDING, AttemptRecord, stat_fingerprint, write_record
from nemotron.artifacts.run_list import find_run
from nemotron.artifacts.run_state import ELSEWHERE_FILE, read_object
from nemotron.artifacts.runs import RECIPE_FILE, Run, mark_recipe
from nemotron.artifacts.settle import settle
from nemotron.artifacts.store import Store
from nemotron.errors import CheckFailed, Conflict, NemotronError, NotFound, UsageError
from nemotron.findings import Finding, errors_in
from nemotron.planning.plan import Plan, PlannedInput

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Finished:
    """What came of finishing a run.

    recipe_digest: the cache key; None while the content of an input cannot be told from here. findings: why
    it cannot, and what the checks of the outputs found.
    """

    run: Run
    recipe_digest: str | None
    findings: tuple[Finding, ...] = ()


def finish(store: Store, run: Run, environ: Mapping[str, str], progress: Progress | None = None) -> Finished:
    """Settle a run that succeeded, after the runs it read from; and pin the inputs that its job found.

    Outputs get their identity. Inputs that were not known when the run was submitted get theirs, which gives
    the recipe, so that the run is reused like any other, and the edges of its lineage. Doing it again changes
    nothing. progress: see `digest_path`.

    Raises
    ------
    Conflict: the run has not succeeded. CheckFailed: an output is not what its type says.
    Other errors: those of `write_record`.
    """
    if run.state() != "succeeded":
        raise Conflict(
            f"run {run.id} has not succeeded: {run.state()}",
            where=str(run.directory),
            next=f"nemotron runs wait {run.id}",
        )
    return _finished(store, run, environ, progress, seen={run.directory})


def finish_named(store: Store, references: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Finish the runs that `run://RUN[/PORT]` references name and that nobody has waited for.

    One that is not over, failed or is not there is left to whoever reads the reference.
    """
    for text in references.values():
        name = text.removeprefix("run://").partition("/")[0]
        if name == text:
            continue
        with suppress(NotFound, UsageError):
            run = find_run(store, name)
            if run.state() == "succeeded" and not run.is_settled:
                finish(store, run, environ)


def _finished(
    store: Store, run: Run, environ: Mapping[str, str], progress: Progress | None, seen: set[Path]
) -> Finished:
    for upstream in _upstream(run):
        if upstream.directory not in seen and upstream.state() == "succeeded":
            seen.add(upstream.directory)
            _finished(_store_of(upstream, store), upstream, environ, progress, seen)
    elsewhere = read_object(run.directory / ELSEWHERE_FILE).get("directory")
    if elsewhere:
        what = "the outputs are on storage that this machine does not see: nobody here can identify them"
        return Finished(run, None, (Finding("run.elsewhere", "note", what, str(elsewhere)),))
    findings = settle(store, run, environ, progress)
    if errors_in(findings):
        raise CheckFailed(
            f"run {run.id} left outputs that are not what they should be",
            where=str(run.directory),
            next=f"nemotron runs show {run.id}",
            findings=errors_in(findings),
        )
    if run.recipe_digest not in (None, PENDING):
        return Finished(run, run.recipe_digest, findings)
    digest, problems = _recipe_of(store, run, environ, progress)
    return Finished(run, digest, (*findings, *problems))


def _recipe_of(
    store: Store, run: Run, environ: Mapping[str, str], progress: Progress | None
) -> tuple[str | None, tuple[Finding, ...]]:
    """Pin what was late, mark the recipe, record the run as settled; the digest, or what is in the way."""
    plan = Plan.from_dict(run.plan)
    bound: dict[str, dict[str, Any]] = dict(run.record.get("inputs") or {})
    problems = []
    with DigestCache.for_user(environ) as cache:
        for each in plan.inputs:
            given = bound.get(each.port) or {}
            if plan.placement.stub and not given.get("path"):
                # Nothing was read; what would have been is known, and chains of stubs have lineage too.
                bound[each.port] = given = {**given, **_of_upstream(run, each.port)}
            if each.state != "pinned" and given.get("digest") in (None, PENDING):
                try:
                    bound[each.port] = {**given, "digest": _content(run, given, cache, progress)}
                except NemotronError as problem:
                    said = f"run {run.id}: the content of input {each.port} is not known: {problem.what}"
                    problems.append(Finding("input.not_pinned", "warning", said, problem.where))
    if problems:
        return None, tuple(problems)
    digest = plan.with_inputs(tuple(_pinned(i, bound.get(i.port) or {}) for i in plan.inputs)).recipe_digest
    ended = AttemptRecord.from_dict(run.record)
    # Not this moment: whoever finishes the same run, again or at once, writes the same record.
    settled = replace(ended, phase="settled", inputs=bound, recipe_digest=digest)
    with suppress(Conflict):  # it is recorded, by another version
        write_record(store.records_dir, settled)
    # Marked first: killed in between, this leaves a mark that counts for nothing.
    mark_recipe(store, run.id, str(digest))
    write_text(run.directory / RECIPE_FILE, f"{digest}\n")
    return digest, ()


def _content(run: Run, given: Mapping[str, Any], cache: DigestCache, progress: Progress | None) -> str:
    """The digest of an input, if what lies there is still what the job read."""
    if not given.get("path"):
        raise CheckFailed("the job recorded no path of it", where=str(run.directory))
    path = Path(str(given["path"]))
    if stat_fingerprint(path) != given.get("fingerprint"):
        raise CheckFailed("it has changed since the run read it", where=str(path))
    if given.get("made_by"):
        for upstream in _upstream(run):
            output = upstream.outputs.get(str(given.get("output"))) or {}
            if upstream.id == given["made_by"] and output.get("path") == str(path):
                return str(output["digest"])
    return digest_path(path, cache=cache, progress=progress).value


def _pinned(each: PlannedInput, given: Mapping[str, Any]) -> PlannedInput:
    if each.state == "pinned":
        return each
    return replace(
        each,
        state="pinned",
        type=given.get("type"),
        path=given.get("path"),
        digest=given.get("digest"),
        made_by=given.get("made_by"),
    )


def _of_upstream(run: Run, port: str) -> dict[str, Any]:
    """The output that an input was to be, as a record holds inputs; empty where no run makes it."""
    late = run.place.get("late")
    wanted = late.get(port) if isinstance(late, dict) else None
    if not isinstance(wanted, dict) or not wanted.get("directory"):
        return {}
    output = Run(Path(str(wanted["directory"]))).outputs.get(str(wanted.get("port"))) or {}
    told = {name: output.get(name) for name in ("type", "path", "digest", "fingerprint")}
    return {**told, "made_by": wanted.get("run"), "output": wanted.get("port")} if output else {}


def _upstream(run: Run) -> list[Run]:
    """The runs of which this one took outputs before they had ended."""
    late = run.place.get("late")
    wanted = late.values() if isinstance(late, dict) else ()
    return [Run(Path(str(w["directory"]))) for w in wanted if isinstance(w, dict) and w.get("directory")]


def _store_of(run: Run, default: Store) -> Store:
    """The store in which a run is recorded, which may be another than that of the run that reads it."""
    place = run.place.get("records_dir")
    return default if place in (None, str(default.records_dir)) else Store(Path(str(place)).parent)
