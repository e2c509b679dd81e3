"""What `steps run` does with a request: explain, plan, or launch and report."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from nemotron.artifacts.store import Store, find_store
from nemotron.cli import output
from nemotron.errors import EXIT_INTERRUPTED, UsageError
from nemotron.findings import errors_in
from nemotron.planning.build import bound_config, plan_step
from nemotron.planning.place import Place
from nemotron.planning.plan import Plan
from nemotron.planning.request import Request


@dataclass(frozen=True)
class Asked:
    """What a command line states: a step and its options, or the file of a saved plan and nothing else."""

    step: str
    config: str | None
    words: tuple[str, ...]
    inputs: tuple[str, ...]
    engine: str | None
    arguments: tuple[str, ...] | None
    waived: tuple[str, ...]
    profile: str | None = None
    attached: bool = True
    chain: int | None = None
    stub: bool = False
    force_squash: bool = False

    @property
    def plan_file(self) -> Path | None:
        """The file of a saved plan; None for a step."""
        return Path(self.step) if self.step.endswith(".json") else None

    def request(self) -> Request:
        """The request. Raises UsageError for a stray word, a bad `-i`, an option without its profile."""
        for word in self.words:
            if "=" not in word:
                raise UsageError(
                    f"stray word {word!r}",
                    where="command line",
                    valid=("KEY=VALUE", "+KEY=VALUE"),
                    next=f"to hand it to the trainer: -- {word}",
                )
        if self.profile is None:
            for given, option, why in (
                (self.force_squash, "--force-squash", "imports a container image, and nothing here uses one"),
                (self.chain is not None, "--chain", "is for allocations, and this machine has no end"),
            ):
                if given:
                    raise UsageError(f"{option} {why}", next="leave it out, or add -r PROFILE or -b PROFILE")
        place = Place(self.attached, self.chain, self.stub, self.force_squash)
        return Request(
            self.step,
            self.config,
            self.words,
            self._bound(),
            self.engine,
            self.arguments or (),
            self.waived,
            self.profile,
            place,
        )

    def refuse_options(self) -> None:
        """Raise UsageError for whatever would make the run another than the one that was saved."""
        given = {
            "-c": self.config,
            "KEY=VALUE": self.words,
            "-i": self.inputs,
            "--engine": self.engine,
            "--": self.arguments,
            "--waive": self.waived,
            "-r or -b": self.profile,
            "--chain": self.chain,
            "--stub": self.stub,
            "--force-squash": self.force_squash,
        }
        named = [name for name, value in given.items() if value]
        if named:
            raise UsageError(
                f"a saved plan is run as it is: {', '.join(named)} would change it",
                where=self.step,
                next="make another plan: steps run STEP ... -d -o FILE",
            )

    def _bound(self) -> dict[str, str]:
        bound: dict[str, str] = {}
        for text in self.inputs:
            port, equals, reference = text.partition("=")
            if not equals or not port or not reference:
                raise UsageError(f"-i {text!r} is not PORT=REF", where="command line", next="-i policy=PATH")
            if port in bound:
                raise UsageError(f"-i {port}=... is given twice", where="command line")
            bound[port] = reference
        return bound


def explain(request: Request, key: str, as_json: bool) -> int:
    """Print where a key's value came from."""
    from nemotron.catalog.discover import load_catalog
    from nemotron.config.explain import explain as explain_key

    explanation = explain_key(bound_config(load_catalog(), request, os.environ, Path.cwd()), key)
    output.print_json(explanation.as_dict()) if as_json else print(explanation.render())
    return 0


def dry_run(asked: Asked, plan_file: Path | None, *, use_cache: bool, as_json: bool) -> int:
    """Print the plan; exit 4 when a check found an error."""
    from nemotron.planning.earlier import without_earlier

    plan = make_plan(asked, find_store(os.environ, Path.cwd()))
    if not use_cache:
        plan = without_earlier(plan)
    if plan_file is not None:
        from nemotron.artifacts.atomic import write_text

        write_text(plan_file, plan.to_json())
    if as_json:
        sys.stdout.write(plan.to_json())
    elif plan_file is None:
        print(shown_plan(plan))
    else:
        print(f"plan written to {plan_file}")
    found = [f for _, p in plan.builds for f in p.findings] + list(plan.findings)
    errors = errors_in(found)
    if errors and all(f.id == "input.not_found" for f in errors):
        return 3
    return 4 if errors else 0


def make_plan(asked: Asked, store: Store) -> Plan:
    """The plan of a command line, with what its place finds; or the one that was saved, if it still holds."""
    if asked.plan_file is not None:
        from nemotron.catalog.discover import load_catalog
        from nemotron.planning.saved import load_plan, refuse_changed

        asked.refuse_options()
        plan = load_plan(asked.plan_file)
        refuse_changed(plan, load_catalog(), os.environ)
        return plan
    request = asked.request()
    if any("=run://" in text for text in asked.inputs):
        from nemotron.launch.finish import finish_named

        finish_named(store, request.inputs or {}, os.environ)
    plan = plan_step(request, store=store, progress=output.byte_progress("reading inputs"))
    if plan.placement.backend == "local":
        return plan
    from nemotron.launch.prepare import with_place_findings

    return with_place_findings(plan)


def shown_plan(plan: Plan) -> str:
    """The plan for a person; for another machine with the very files that would be handed over."""
    from nemotron.planning.render import render_plan

    text = render_plan(plan)
    if plan.placement.backend == "local" and plan.placement.profile is None:
        return text
    from nemotron.launch.prepare import shown_files

    for name, written in shown_files(plan).items():
        text += f"\n\n{name}\n" + "\n".join(f"  {line}".rstrip() for line in written.splitlines())
    return text


def launch(asked: Asked, *, use_cache: bool, as_json: bool) -> int:
    """Run or submit the plan, and print the summary."""
    store = find_store(os.environ, Path.cwd())
    plan = make_plan(asked, store)
    # A polite kill is treated as Ctrl-C: the trainer saves its state before it ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if plan.placement.backend != "local" or not plan.placement.attached:
        from nemotron.cli import submitting

        return submitting.submit(plan, store, use_cache=use_cache, as_json=as_json)
    return _launch_here(plan, store, use_cache=use_cache, as_json=as_json)


def _launch_here(plan: Plan, store: Store, *, use_cache: bool, as_json: bool) -> int:
    from nemotron.cli.progress import make_watcher
    from nemotron.cli.summary import summary_text
    from nemotron.exports.watcher import WandbWatcher
    from nemotron.launch.launcher import Launcher

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
