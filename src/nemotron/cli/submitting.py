"""What `steps run` does on a profile: submit, and with `-r` follow the run to its end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nemotron.artifacts.store import Store
from nemotron.cli import output
from nemotron.errors import EXIT_INTERRUPTED
from nemotron.launch.submit import Submitted, Submitter
from nemotron.planning.plan import Plan


def submit(plan: Plan, store: Store, *, use_cache: bool, as_json: bool) -> int:
    """Submit a plan; print the run's id, or follow it."""
    submitter = Submitter(store, os.environ, Path.cwd(), use_cache, output.byte_progress("reading"))
    submitted = submitter.submit(plan)
    for each in (*submitted.before, submitted):
        print(_told(each), file=sys.stderr)
    if plan.placement.attached and submitted.outcome != "reused":
        return _follow(submitted, store, as_json=as_json)
    if as_json:
        output.print_json(_as_dict(submitted))
    else:
        print(submitted.run.id)
    return 0


def _follow(submitted: Submitted, store: Store, *, as_json: bool) -> int:
    """Stream the log until the run is over; its result is ours. Ctrl-C cancels it."""
    from nemotron.cli.run_verbs import CANCEL_SECONDS, refreshed, teller
    from nemotron.cli.summary import summary_text
    from nemotron.launch.finish import finish
    from nemotron.launch.launcher import failure_of
    from nemotron.launch.log_text import follow_log
    from nemotron.launch.waiting import cancel_runs, wait_for_end

    run, to = submitted.run, sys.stderr if as_json else sys.stdout
    try:
        for text in follow_log(run, None, ask=lambda: refreshed(store, [run]), tell=_say):
            to.write(text)
            to.flush()
        (ended,) = wait_for_end(store, [run], teller(), None)
    except KeyboardInterrupt:
        waits = [each.run for each in submitted.before if each.outcome != "reused"]
        cancel_runs(store, [run, *waits], teller(), CANCEL_SECONDS)
        _say(f"interrupted: {run.id} is cancelled; the same command goes on from its last checkpoint")
        return EXIT_INTERRUPTED
    if ended.state != "succeeded":
        problem = failure_of(run, ended.exit_code)
        # As if the job had run in this terminal.
        problem.exit_code = ended.exit_code
        raise problem
    finish(store, run, os.environ, output.byte_progress("reading"))
    if as_json:
        output.print_json(_as_dict(submitted) | {"outputs": run.outputs, "summary": run.summary})
    else:
        print(summary_text(run, submitted.outcome))
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _told(submitted: Submitted) -> str:
    run, jobs = submitted.run, submitted.jobs
    if submitted.outcome == "reused" and not jobs:
        return f"reuse   {run.id}"
    numbers = ", ".join(job.job for job in jobs)
    more = f" (job{'s' if len(jobs) > 1 else ''} {numbers})"
    return f"{submitted.outcome:<9} {run.id}{more}"


def _as_dict(submitted: Submitted) -> dict[str, object]:
    return {
        "run": submitted.run.id,
        "outcome": submitted.outcome,
        "directory": str(submitted.run.directory),
        "jobs": [job.job for job in submitted.jobs],
        "before": [each.run.id for each in submitted.before],
    }
