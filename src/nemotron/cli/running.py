"""What `steps run` does with a request: explain, plan, or launch and report."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from nemotron.cli import output
from nemotron.errors import UsageError
from nemotron.findings import errors_in
from nemotron.planning.build import Request, bound_config, plan_step

EXIT_INTERRUPTED = 130


def make_request(
    step: str,
    config: str | None,
    words: Sequence[str],
    inputs: Sequence[str],
    engine: str | None,
    arguments: tuple[str, ...] | None,
    waived: Sequence[str],
) -> Request:
    """The request that a command line states. Raises UsageError for a stray word or a malformed `-i`."""
    for word in words:
        if "=" not in word:
            raise UsageError(
                f"stray word {word!r}",
                where="command line",
                valid=("KEY=VALUE", "+KEY=VALUE"),
                next=f"to hand it to the trainer: -- {word}",
            )
    bound: dict[str, str] = {}
    for text in inputs:
        port, equals, reference = text.partition("=")
        if not equals or not port or not reference:
            raise UsageError(f"-i {text!r} is not PORT=REF", where="command line", next="-i policy=PATH")
        if port in bound:
            raise UsageError(f"-i {port}=... is given twice", where="command line")
        bound[port] = reference
    return Request(step, config, tuple(words), bound, engine, arguments or (), tuple(waived))


def explain(request: Request, key: str, as_json: bool) -> int:
    """Print where a key's value came from."""
    from nemotron.catalog.discover import load_catalog
    from nemotron.config.explain import explain as explain_key

    explanation = explain_key(bound_config(load_catalog(), request, os.environ, Path.cwd()), key)
    output.print_json(explanation.as_dict()) if as_json else print(explanation.render())
    return 0


def dry_run(request: Request, plan_file: Path | None, *, use_cache: bool, as_json: bool) -> int:
    """Print the plan; exit 4 when a check found an error."""
    from nemotron.planning.earlier import without_earlier
    from nemotron.planning.render import render_plan

    plan = plan_step(request, progress=output.byte_progress("reading inputs"))
    if not use_cache:
        plan = without_earlier(plan)
    if plan_file is not None:
        from nemotron.artifacts.atomic import write_text

        write_text(plan_file, plan.to_json())
    if as_json:
        sys.stdout.write(plan.to_json())
    elif plan_file is None:
        print(render_plan(plan))
    else:
        print(f"plan written to {plan_file}")
    found = [f for _, p in plan.builds for f in p.findings] + list(plan.findings)
    errors = errors_in(found)
    if errors and all(f.id == "input.not_found" for f in errors):
        return 3
    return 4 if errors else 0


def launch(request: Request, *, use_cache: bool, as_json: bool) -> int:
    """Run the plan here and print the summary."""
    from nemotron.artifacts.store import find_store
    from nemotron.cli.progress import make_watcher
    from nemotron.cli.summary import summary_text
    from nemotron.exports.watcher import WandbWatcher
    from nemotron.launch.launcher import Launcher

    store = find_store(os.environ, Path.cwd())
    plan = plan_step(request, store=store, progress=output.byte_progress("reading inputs"))
    # A polite kill is treated as Ctrl-C: the trainer saves its state before it ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            make_watcher(store, use_cache=use_cache) as shown,
            WandbWatcher(shown, store.records_dir, os.environ) as watcher,
        ):
            progress = output.byte_progress("reading")
            launched = Launcher(store, os.environ, watcher, use_cache, progress).launch(plan)
    except KeyboardInterrupt:
        print(
            "interrupted; the same command goes on, from the last checkpoint if there is one", file=sys.stderr
        )
        return EXIT_INTERRUPTED
    if as_json:
        output.print_json(
            {
                "run": launched.run.id,
                "outcome": launched.outcome,
                "directory": str(launched.run.directory),
                "outputs": launched.run.outputs,
                "summary": launched.run.summary,
            }
        )
    else:
        print(summary_text(launched.run, launched.outcome))
        if watcher.told:
            print("", *watcher.told, sep="\n")
    return 0
