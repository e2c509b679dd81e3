"""What `runs export` does: OpenLineage events as text, or a run posted to W&B."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from nemotron.artifacts.runs import Run
from nemotron.artifacts.store import Store
from nemotron.errors import Conflict, NemotronError, NotFound, SchedulerError, UsageError, nearest
from nemotron.exports.history import History, history_of

FORMATS = ("openlineage", "wandb")
# A long history over a slow network; whoever types the command may stop it.
_POST_SECONDS = 1800.0


def export(store: Store, run: Run, format_: str, file: Path | None) -> None:
    """Export a run.

    Raises UsageError (no such format, a package is missing), NotFound (the run never started), Conflict (it
    is going on, for W&B), SchedulerError (W&B did not take it).
    """
    if format_ not in FORMATS:
        raise UsageError(
            f"there is no format {format_!r}",
            where="--format",
            nearest=nearest(format_, FORMATS),
            valid=FORMATS,
        )
    history = history_of(run, store.records_dir)
    for finding in history.findings:
        print(finding.render(), file=sys.stderr)
    if not history.attempts:
        raise NotFound(f"run {run.id} has no record of an attempt", where=str(store.records_dir))
    if format_ == "wandb":
        if file is not None:
            raise UsageError(
                "-o writes events, and W&B gets none", next="leave out -o, or --format openlineage"
            )
        _post(store, run)
    else:
        _write("".join(f"{line}\n" for line in _events(history)), file)


def _events(history: History) -> list[str]:
    try:
        from nemotron.exports.openlineage import events_of
    except ImportError as problem:
        raise UsageError(
            f"OpenLineage's client cannot be imported: {problem}", next="pip install 'nemotron[openlineage]'"
        ) from problem
    return events_of(history, _description(history))


def _description(history: History) -> str | None:
    """What the step says of itself; None when it is not in the catalog any more."""
    from nemotron.catalog.discover import load_catalog

    record = history.attempts[-1].record
    try:
        return load_catalog().get(f"{record.root}:{record.step}").description.strip() or None
    except NemotronError:
        return None


def _write(text: str, file: Path | None) -> None:
    if file is None:
        sys.stdout.write(text)
        return
    from nemotron.artifacts.atomic import write_text

    write_text(file, text)
    print(f"{text.count(chr(10))} events written to {file}", file=sys.stderr)


def _post(store: Store, run: Run) -> None:
    from nemotron.exports.watcher import INSTALL, Mirror, patience

    state = run.state()
    if state == "running":
        raise Conflict(
            f"run {run.id} is going on", where=str(run.directory), next=f"nemotron runs logs {run.id} -f"
        )
    mirror = Mirror(run, store.records_dir, os.environ, patience(os.environ), _POST_SECONDS)
    try:
        mirror.close(state)
        mirror.wait(time.monotonic() + _POST_SECONDS)
    finally:
        mirror.kill("interrupted")
    if mirror.is_missing:
        raise UsageError(f"W&B cannot be imported: {mirror.problem}", next=INSTALL)
    if mirror.problem is not None:
        raise SchedulerError(f"W&B did not take run {run.id}: {mirror.problem}", where=str(run.directory))
    if mirror.is_offline:
        print(f"W&B is offline; next: wandb sync {mirror.where}", file=sys.stderr)
    print(mirror.where)
