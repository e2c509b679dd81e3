"""The verbs of `nemotron runs` that follow a run, end it, or hold it against another."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemotron.cli import output
from nemotron.errors import UsageError

if TYPE_CHECKING:
    from nemotron.artifacts.runs import Run
    from nemotron.artifacts.store import Store
    from nemotron.launch.waiting import Teller

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or an unambiguous beginning of it.")]
RunIds = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Ids of runs, or unambiguous beginnings of them.")
]
CANCEL_SECONDS = 180.0


def logs(
    run_id: RunId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
    node: Annotated[int | None, typer.Option(min=0, help="Of this node of the run; 0 is the first.")] = None,
    as_json: Json = False,
) -> None:
    """Print the log of a run's latest attempt; with -f of all that follow, too.

    Example: nemotron runs logs rlhf-20260101 -f
    """
    from nemotron.errors import NotFound
    from nemotron.launch.log_text import follow_log, log_of

    if follow and as_json:
        raise UsageError("--follow and --json exclude each other", next="leave one of them out")
    run = find(run_id)
    if follow:
        store = _store()
        texts = follow_log(
            run, node, ask=lambda: refreshed(store, [run]), tell=lambda text: print(text, file=sys.stderr)
        )
        for text in texts:
            sys.stdout.write(text)
            sys.stdout.flush()
        return
    log = log_of(run, node)
    if log is None:
        which = "" if node is None else f" of node {node}"
        now = run.standing()
        waits = f" ({now.reason})" if now.reason else ""
        said = f"run {run.id} has no log yet{which}: it is {now.state}{waits}"
        raise NotFound(said, where=str(run.directory / "logs"))
    text = log.read_bytes().decode("utf-8", errors="replace")
    if as_json:
        output.print_json({"run": run.id, "log": str(log), "lines": text.splitlines()})
        return
    sys.stdout.write(text)


def wait(
    run_ids: RunIds,
    timeout: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Give up after so long.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Wait until runs are over; exits with the result of the first one that did not succeed.

    Example: nemotron runs wait rlhf-20260101 --timeout 3600
    """
    from nemotron.launch.finish import finish
    from nemotron.launch.launcher import failure_of
    from nemotron.launch.waiting import wait_for_end

    store, runs = _store(), [find(each) for each in run_ids]
    ended = wait_for_end(store, runs, teller(), timeout)
    for each in ended:
        if each.exit_code == 0:
            told = finish(store, each.run, os.environ, output.byte_progress("reading outputs"))
            for finding in told.findings:
                print(finding.render(), file=sys.stderr)
        elif each.state == "failed":
            print(failure_of(each.run, each.exit_code).render(), file=sys.stderr)
    if as_json:
        rows = [
            {"run": e.run.id, "state": e.state, "exit_code": e.exit_code, "reason": e.reason} for e in ended
        ]
        output.print_json({"runs": rows})
    else:
        for each in ended:
            print(f"{each.run.id} {each.state}" + (f": {output.plain(each.reason)}" if each.reason else ""))
    return next((each.exit_code for each in ended if each.exit_code != 0), 0)


def cancel(
    run_ids: RunIds,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait until they are over.")
    ] = CANCEL_SECONDS,
    as_json: Json = False,
) -> None:
    """End runs, those that wait and those that go on; a trainer is asked to save first.

    Example: nemotron runs cancel rlhf-20260101
    """
    from nemotron.launch.waiting import cancel_runs

    runs = [find(each) for each in run_ids]
    was_going_on = cancel_runs(_store(), runs, teller(), timeout)
    rows = [{"run": r.id, "state": r.state(), "was_over": not was_going_on[r.id]} for r in runs]
    if as_json:
        output.print_json({"runs": rows})
        return
    for row in rows:
        print(f"{row['run']} {row['state']}" + (", was over already" if row["was_over"] else ""))


def diff(
    first: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's id or its beginning, or a checkpoint's reference.")
    ],
    second: Annotated[str, typer.Argument(metavar="OTHER", help="What to hold against it.")],
    as_json: Json = False,
) -> None:
    """Show how two runs differ, what matters most first; or two checkpoints, tensor by tensor.

    A checkpoint is run://RUN/PORT, art://NAME or a path with a slash in it.

    Example: nemotron runs diff rlhf-20260101 rlhf-20260102
    """
    from nemotron.cli import comparing

    kinds = {comparing.is_checkpoint(text) for text in (first, second)}
    if len(kinds) == 2:
        raise UsageError(
            "a run and a checkpoint cannot be compared", next="name two runs, or two run://RUN/PORT"
        )
    if kinds == {True}:
        comparing.diff_checkpoints(_store(), first, second, as_json=as_json)
    else:
        comparing.diff_runs(find(first), find(second), as_json=as_json)


def find(run_id: str) -> Run:
    """The run that is meant. Errors: those of `find_run`."""
    from nemotron.artifacts.run_list import find_run

    return find_run(_store(), run_id)


def refreshed(store: Store, runs: Sequence[Run]) -> None:
    """Ask the schedulers of runs that are not over; what does not answer is told on stderr."""
    from nemotron.artifacts.run_state import is_unfinished

    if not any(is_unfinished(run.directory) for run in runs):
        return
    from nemotron.launch.refresh import refresh

    for finding in refresh(store, runs).findings:
        print(finding.render(), file=sys.stderr)


def _store() -> Store:
    from nemotron.artifacts.store import find_store

    return find_store(os.environ, Path.cwd())


def teller() -> Teller:
    from nemotron.findings import Finding
    from nemotron.launch.refresh import Change
    from nemotron.launch.waiting import Teller

    class Stderr(Teller):
        """Says it on stderr."""

        def change(self, change: Change) -> None:
            """A line for each change."""
            why = f" ({output.plain(change.reason)})" if change.reason else ""
            print(f"{change.run} is {change.now}{why}", file=sys.stderr, flush=True)

        def finding(self, finding: Finding) -> None:
            """As findings are printed everywhere."""
            print(finding.render(), file=sys.stderr, flush=True)

    return Stderr()
