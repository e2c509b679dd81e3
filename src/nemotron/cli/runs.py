"""`nemotron runs`: what ran, how it went, what it left."""

from __future__ import annotations

import codecs
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemotron.cli import output

if TYPE_CHECKING:
    from nemotron.artifacts.run_list import ListedRun
    from nemotron.artifacts.runs import Run

app = typer.Typer(rich_markup_mode=None)

_SHOWN = ("train/reward", "train/loss", "validation/accuracy")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or an unambiguous beginning of it.")]


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
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
    for finding in listing.findings:
        print(finding.render(), file=sys.stderr)
    runs = [_listed(run) for run in listing.runs]
    if as_json:
        output.print_json({"runs": runs})
        return
    rows = [(r["run"], r["step"], r["engine"], r["state"], r["metrics"]) for r in runs]
    output.print_table(("RUN", "STEP", "ENGINE", "STATE", "LAST METRICS"), rows)


@app.command()
def show(run_id: RunId, as_json: Json = False) -> None:
    """Show a run: what went in, what came out, how it went.

    Example: nemotron runs show rlhf-20260101
    """
    from nemotron.artifacts.run_list import listed_run

    run = _find(run_id)
    found = _listed(listed_run(run))
    record, plan = run.record, run.plan
    found |= {
        "config_file": plan.get("config_file"),
        "recipe_digest": run.recipe_digest,
        "inputs": record.get("inputs") or {},
        "outputs": run.outputs,
        "record": record,
        "summary": run.summary,
        "failure": run.failure,
    }
    if as_json:
        output.print_json(found)
        return
    print(_shown(run, found))


@app.command()
def logs(
    run_id: RunId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """Print the log of a run's latest attempt.

    Example: nemotron runs logs rlhf-20260101 -f
    """
    from nemotron.errors import NotFound, UsageError

    if follow and as_json:
        raise UsageError("--follow and --json exclude each other", next="leave one of them out")
    run = _find(run_id)
    log = run.latest_log()
    if log is None:
        raise NotFound(f"run {run.id} has no log yet: it {run.state()}", where=str(run.directory / "logs"))
    if as_json:
        text = log.read_text(encoding="utf-8", errors="replace")
        output.print_json({"run": run.id, "log": str(log), "lines": text.splitlines()})
        return
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a look may end within a character
    with log.open("rb") as handle:
        while True:
            ended = run.state() != "running"
            data = handle.read()
            last = not follow or (ended and not data)
            sys.stdout.write(decoder.decode(data, final=last))
            sys.stdout.flush()
            if last:
                return
            time.sleep(0.3)


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

    exporting.export(find_store(os.environ, Path.cwd()), _find(run_id), format_, file)


def _find(run_id: str) -> Run:
    from nemotron.artifacts.run_list import find_run
    from nemotron.artifacts.store import find_store

    return find_run(find_store(os.environ, Path.cwd()), run_id)


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
    }


def _shown(run: Run, found: dict[str, Any]) -> str:
    from nemotron.cli.summary import told_by_trainer

    lines = [
        f"{run.id}: {found['state']}",
        f"  step     {found['step']} with {found['config']} on {found['engine']}",
    ]
    lines += [f"  recipe   {found['recipe_digest']}", f"  ended    {found['ended'] or '-'}"]
    lines.append(f"  at       {run.directory}")
    if found["failure"]:
        lines.append(f"  failure  {found['failure'].get('what')}")
    for port, each in found["inputs"].items():
        made = f", run {each['made_by']}" if each.get("made_by") else ""
        lines += [
            f"  in       {port}: {each.get('reference')} ({each.get('type')}{made})",
            f"           {each.get('digest')}",
        ]
    for port, each in found["outputs"].items():
        lines += [f"  out      {port}: {each['path']} ({each['type']})", f"           {each['digest']}"]
    if found["state"] == "succeeded":
        lines += ["", *told_by_trainer(run)]
    return "\n".join(lines)
