"""The library's verbs with their defaults filled in; the command line calls the same."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemotron.artifacts.run_list import ListedRun
from nemotron.artifacts.run_list import find_run as _find
from nemotron.artifacts.run_list import list_runs as _listed
from nemotron.artifacts.runs import Run
from nemotron.artifacts.store import Store, find_store
from nemotron.exports.watcher import WandbWatcher
from nemotron.launch.launcher import Launched, Launcher, SilentWatcher, Watcher
from nemotron.planning.build import plan_step as _plan
from nemotron.planning.plan import Plan
from nemotron.planning.request import Request


def plan_step(
    step: str,
    *,
    config: str | None = None,
    overrides: Sequence[str] = (),
    inputs: Mapping[str, str] | None = None,
    engine: str | None = None,
    arguments: Sequence[str] = (),
    waived: Sequence[str] = (),
    store: Store | None = None,
) -> Plan:
    """The plan of one step, as `nemotron steps run STEP -d` shows it; nothing is launched.

    config: name or path. overrides: `key=value`, `+key=value`. inputs: port to reference, as `-i`.
    arguments: handed to the trainer. store: where earlier runs are looked for.
    Raises NotFound, UsageError or CheckFailed; what checks find is in `Plan.findings`.
    """
    request = Request(step, config, tuple(overrides), inputs, engine, tuple(arguments), tuple(waived))
    return _plan(request, store=store)


def launch_plan(
    plan: Plan,
    *,
    store: Store | None = None,
    environ: Mapping[str, str] | None = None,
    watcher: Watcher | None = None,
    use_cache: bool = True,
) -> Launched:
    """Run a plan on this machine, after what it builds on; returns when it has ended well.

    watcher: told what goes on; silent without one. use_cache: reuse or resume a run of the same recipe.
    Raises CheckFailed or NotFound before anything runs, WorkFailed when the trainer fails, Conflict when
    another process runs the same recipe.
    """
    environ = os.environ if environ is None else environ
    place = store or find_store(environ, Path.cwd())
    with WandbWatcher(watcher or SilentWatcher(), place.records_dir, environ) as told:
        return Launcher(place, environ, told, use_cache).launch(plan)


def list_runs(limit: int = 20, *, store: Store | None = None) -> tuple[ListedRun, ...]:
    """The newest runs that the store's records and directories tell of, newest first."""
    return _listed(store or find_store(os.environ, Path.cwd()), limit).runs


def find_run(run_id: str, *, store: Store | None = None) -> Run:
    """The run whose id begins with `run_id`, wherever its directory is.

    Raises NotFound, UsageError when several do.
    """
    return _find(store or find_store(os.environ, Path.cwd()), run_id)
