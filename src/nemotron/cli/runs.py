"""`nemotron runs`: what ran, how it went, what it left."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemotron.cli import output, run_verbs
from nemotron.cli.run_verbs import Json, RunId

if TYPE_CHECKING:
    from nemotron.artifacts.run_list import ListedRun, RunListing
    from nemotron.artifacts.runs import Run
    from nemotron.artifacts.store import Store

app = typer.Typer(rich_markup_mode=None)

_SHOWN = ("train/reward", "train/loss", "validation/accuracy")
# What was asked for so recently needs no age beside it.
_FRESH_SECONDS = 60.0

NoRefresh = Annotated[bool, typer.Option("--no-refresh", help="Ask no scheduler; show what is known.")]


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    no_refresh: NoRefresh = False,
    as_json: Json = False,
) -> None:
    """List runs, the newest first.

    Example: nemotron runs list --limit 5
    """
    from nemotron.artifacts.index.store_index import catch_up
    from nemotron.artifacts.run_list import list_runs
    from nemotron.artifacts.store import find_store

    store = find_store(os.environ, Path.cwd())
    stale = catch_up(store)
    if stale is not None:
        output.warn(stale)
    listing = list_runs(store, limit)
    if not no_refresh and _refreshed(store, listing):
        listing = list_runs(store, limit)
    for finding in listing.findings:
        print(finding.render(), file=sys.stderr)
    runs = [_listed(run) for run in listing.runs]
    if as_json:
        output.print_json({"runs": runs})
        return
    head = ("RUN", "STEP", "ENGINE", "STATE", "JOB", "WHERE", "LAST METRICS")
    rows = [
        (r["run"], r["step"], r["engine"], _state(r), r["job"] or "-", _where(r), r["metrics"]) for r in runs
    ]
    output.print_table(head, rows)


@app.command()
def show(run_id: RunId, no_refresh: NoRefresh = False, as_json: Json = False) -> None:
    """Show a run: what went in, what came out, how it went, and its jobs.

    Example: nemotron runs show rlhf-20260101
    """
    from nemotron.artifacts.run_list import listed_run
    from nemotron.artifacts.run_state import ELSEWHERE_FILE, read_object
    from nemotron.artifacts.store import find_store

    run = run_verbs.find(run_id)
    if not no_refresh:
        run_verbs.refreshed(find_store(os.environ, Path.cwd()), [run])
    found = _listed(listed_run(run))
    record, plan = run.record, run.plan
    script = run.directory / "submit.sh"
    found |= {
        "config_file": plan.get("config_file"),
        "recipe_digest": run.recipe_digest,
        "inputs": record.get("inputs") or {},
        "outputs": run.outputs,
        "record": record,
        "summary": run.summary,
        "failure": run.failure,
        "jobs": _jobs(run),
        "script": str(script) if script.is_file() else None,
        "elsewhere": read_object(run.directory / ELSEWHERE_FILE),
    }
    if as_json:
        output.print_json(found)
        return
    print(_shown(run, found))


@app.command()
def export(
    run_id: RunId,
    format_: Annotated[
        str, typer.Option("--format", metavar="openlineage|wandb", help="What to make of it.")
    ] = "openlineage",
    file: Annotated[
        Path | None, typer.Option("-o", metavar="FILE", help="Write the events there, not to stdout.")
    ] = None,
) -> None:
    """Tell another tool of a run: print OpenLineage events, a line of JSON each, or post it to W&B.

    Example: nemotron runs export rlhf-20260101 --format openlineage
    """
    from nemotron.artifacts.store import find_store
    from nemotron.cli import exporting

    exporting.export(find_store(os.environ, Path.cwd()), run_verbs.find(run_id), format_, file)


for _verb in (run_verbs.logs, run_verbs.wait, run_verbs.cancel, run_verbs.diff):
    app.command()(_verb)


def _refreshed(store: Store, listing: RunListing) -> bool:
    """Ask what became of the runs of a list that are not over; false when there is none."""
    from nemotron.artifacts.run_state import is_unfinished
    from nemotron.artifacts.runs import Run

    ended = ("succeeded", "prepared")
    places = [Path(r.directory) for r in listing.runs if r.directory is not None and r.state not in ended]
    open_ = [Run(place) for place in places if is_unfinished(place)]
    if open_:
        run_verbs.refreshed(store, open_)
    return bool(open_)


def _listed(run: ListedRun) -> dict[str, Any]:
    # A metric that is no finite number is kept as text in records.
    shown = {k: v for k in _SHOWN if isinstance(v := run.metrics.get(k), int | float)}
    return {
        "run": run.run,
        "step": run.step or "?",
        "config": run.config,
        "engine": run.engine or "?",
        "state": run.state,
        "attempts": run.attempts,
        "ended": run.ended,
        "metrics": ", ".join(f"{k} {v:.3g}" for k, v in shown.items()),
        "directory": run.directory,
        "user": run.user,
        "backend": run.backend,
        "profile": run.profile,
        "job": run.job,
        "reason": run.reason,
        "asked": run.asked,
    }


def _state(listed: dict[str, Any]) -> str:
    """The state, with the age of the word that it rests on."""
    from nemotron.artifacts.run_state import seconds_since

    seconds = seconds_since(listed["asked"]) if listed["asked"] else None
    if seconds is None or seconds < _FRESH_SECONDS:
        return str(listed["state"])
    return f"{listed['state']} ({_duration(seconds)} ago)"


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 60:.0f} min"


def _where(listed: dict[str, Any]) -> str:
    return "/".join(filter(None, (listed["backend"], listed["profile"]))) or "-"


def _jobs(run: Run) -> list[dict[str, Any]]:
    """The jobs of a run that was handed to a scheduler, and what that last said of each."""
    from nemotron.artifacts.submissions import Journal

    journal = Journal(run.directory)
    if not journal.exists:
        return []
    words = {each.job: each for each in journal.seen()[1]}
    told = []
    for job in journal.submitted():
        word = words.get(job.job)
        told.append(
            {
                "job": job.job,
                "cluster": job.cluster,
                "part": job.part,
                "parts": job.parts,
                "submitted": job.at,
                "state": word.state if word else None,
                "reason": word.reason if word else None,
                "nodes": list(word.nodes) if word else [],
                "started": word.started if word else None,
                "ended": word.ended if word else None,
                "exit_code": word.exit_code if word else None,
            }
        )
    return told


def _why_failed(run: Run, found: dict[str, Any]) -> list[str]:
    """Why a run failed, where, and what to do; one that was cut off had no failure of its own."""
    said = found["failure"]
    if not said and found["state"] != "failed":
        return []
    if not said:
        ended = found["record"]
        said = {"what": f"{ended.get('reason') or 'it failed'} (exit code {ended.get('exit_code')})"}
        said["where"] = str(run.latest_log() or run.directory / "logs")
    rows = [f"  failure  {output.plain(str(said.get('what')))}"]
    if said.get("where"):
        rows.append(f"           at {output.plain(str(said['where']))}")
    rows += [
        f"           {key}: {', '.join(map(str, said[key]))}" for key in ("nearest", "valid") if said.get(key)
    ]
    if found["state"] == "failed":
        rows.append(
            f"           next: {output.plain(str(said.get('next') or f'nemotron runs logs {run.id}'))}"
        )
    return rows


def _shown(run: Run, found: dict[str, Any]) -> str:
    from nemotron.cli.summary import told_by_trainer

    lines = [
        f"{run.id}: {_state(found)}",
        f"  step     {found['step']} with {found['config']} on {found['engine']}",
    ]
    lines += [f"  recipe   {found['recipe_digest']}", f"  ended    {found['ended'] or '-'}"]
    lines.append(f"  at       {run.directory}")
    away = found["elsewhere"]
    host = f"{away['host']}:" if away.get("host") else ""
    if away.get("directory"):
        lines.append(f"  there    {host}{away['directory']}")
    for job in found["jobs"]:
        part = f" (part {job['part']} of {job['parts']})" if job["parts"] > 1 else ""
        words = [job["state"] or "submitted"]
        words += [f"on {', '.join(job['nodes'])}"] if job["nodes"] else []
        words += [f"({job['reason']})"] if job["reason"] else []
        lines.append(output.plain(f"  job      {job['job']}{part}: {' '.join(words)}"))
    if found["script"]:
        lines.append(f"  script   {found['script']}")
    lines += _why_failed(run, found)
    for port, each in found["inputs"].items():
        made = f", run {each['made_by']}" if each.get("made_by") else ""
        lines += [
            f"  in       {port}: {each.get('reference')} ({each.get('type')}{made})",
            f"           {each.get('digest')}",
        ]
    for port, each in found["outputs"].items():
        lines += [f"  out      {port}: {each['path']} ({each['type']})", f"           {each['digest']}"]
    if away and not found["outputs"]:
        for port, each in (found["record"].get("outputs") or {}).items():
            lines += [f"  out      {port}: {host}{each['path']} ({each['type']})", "           pending"]
    if found["state"] == "succeeded":
        lines += ["", *told_by_trainer(run)]
    return "\n".join(lines)
