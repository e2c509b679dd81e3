"""`nemotron steps`: the catalog and what it runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from nemotron.cli import output
from nemotron.errors import UsageError

app = typer.Typer(rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Waive = Annotated[
    list[str] | None, typer.Option("--waive", metavar="ID", help="Launch in spite of this finding.")
]


@app.command("list")
def list_(
    text: Annotated[str | None, typer.Argument(help="Only steps that mention this.")] = None,
    category: Annotated[str | None, typer.Option(help="Only this category.")] = None,
    consumes: Annotated[str | None, typer.Option(help="Only steps that take this artifact type.")] = None,
    produces: Annotated[str | None, typer.Option(help="Only steps that make this artifact type.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only steps with this tag.")] = None,
    as_json: Json = False,
) -> None:
    """List the steps of all catalogs, broken ones included.

    Example: nemotron steps list --produces checkpoint_hf
    """
    from nemotron.catalog.discover import load_catalog

    catalog = load_catalog()
    found = catalog.select(category=category, consumes=consumes, produces=produces, text=text, tags=tag or ())
    filtered = any((text, category, consumes, produces, tag))
    broken = () if filtered else catalog.broken
    shadowed = () if filtered else catalog.shadowed
    if as_json:
        output.print_json(
            {
                "steps": [output.listed_step(s) for s in found],
                "broken": [b.as_dict() for b in broken],
                "shadowed": [f"{s.root}:{s.id}" for s in shadowed],
            }
        )
        return
    output.print_table(
        ("STEP", "TAKES", "MAKES", "ENGINES", "WHAT IT DOES"),
        [
            (s.id, output.types_of(s.consumes), output.types_of(s.produces), ", ".join(s.engines), s.name)
            for s in found
        ],
    )
    for hidden in shadowed:
        print(f"shadowed: {hidden.root}:{hidden.id}")
    for problem in broken:
        print(f"broken: {problem.id}: {problem.problem} ({problem.where})")


@app.command()
def show(
    step_id: Annotated[str, typer.Argument(metavar="STEP", help="A step id, or ROOT:ID.")],
    config: Annotated[
        str | None, typer.Option("-c", "--config", help="Print the keys of this config instead.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show all that is known of a step: ports, parameters, configs, advice, known errors.

    Example: nemotron steps show rl/nemo_rl/rlhf --config tiny
    """
    from nemotron.catalog.discover import load_catalog

    catalog = load_catalog()
    step = catalog.get(step_id)
    if config is None:
        output.print_json(step.as_dict()) if as_json else print(output.step_text(step))
        return
    from nemotron.planning.request import Request, composed

    _, path, made = composed(catalog, Request(step_id, config), Path.cwd())
    rows = [(key, made.get(key), made.place(key)) for key in list(made.keys())]
    if as_json:
        output.print_json({"config": str(path), "keys": {k: {"value": v, "from": p} for k, v, p in rows}})
        return
    for key, value, place in rows:
        print(f"{key} = {output.as_text(value)}    # {_short(place)}")


@app.command()
def check(
    step_id: Annotated[str | None, typer.Argument(metavar="[STEP]", help="Only this step.")] = None,
    as_json: Json = False,
) -> int:
    """Check manifests, types and configs against each other; exit 4 when an error is found.

    Example: nemotron steps check rl/nemo_rl/rlhf
    """
    from nemotron.catalog.discover import load_catalog
    from nemotron.catalog.lint import check_catalog
    from nemotron.findings import errors_in

    catalog = load_catalog()
    findings = check_catalog(catalog, step_id)
    if as_json:
        output.print_json({"steps": len(catalog.steps), "findings": [f.as_dict() for f in findings]})
    else:
        for finding in findings:
            print(finding.render())
        what = step_id or f"{len(catalog.steps)} steps"
        print(f"{what}: {len(errors_in(findings))} errors, {len(findings) - len(errors_in(findings))} others")
    return 4 if errors_in(findings) else 0


@app.command()
def path(
    have: Annotated[str, typer.Argument(metavar="FROM", help="An artifact type, or a path.")],
    want: Annotated[str, typer.Argument(metavar="TO", help="The artifact type that is wanted.")],
    as_json: Json = False,
) -> None:
    """Print the way from one artifact type to another: conversions, which a plan puts in by itself, or steps.

    Example: nemotron steps path checkpoint_hf checkpoint_megatron
    """
    from nemotron.cli import routes

    routes.show(have, want, as_json=as_json)


@app.command()
def run(
    context: typer.Context,
    step_id: Annotated[str, typer.Argument(metavar="STEP", help="A step id, or a plan that -o wrote.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Config keys; +KEY=VALUE adds a new one."),
    ] = None,
    config: Annotated[str | None, typer.Option("-c", "--config", help="A config's name or path.")] = None,
    run_profile: Annotated[
        str | None, typer.Option("-r", "--run", metavar="PROFILE", help="Attached, on this profile.")
    ] = None,
    batch_profile: Annotated[
        str | None, typer.Option("-b", "--batch", metavar="PROFILE", help="Detached, on this profile.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("-d", "--dry-run", help="Show the plan, run nothing.")] = False,
    force_squash: Annotated[
        bool, typer.Option("--force-squash", help="Import the container image again.")
    ] = False,
    inputs: Annotated[
        list[str] | None, typer.Option("-i", "--input", metavar="PORT=REF", help="Bind an input.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="The engine to run on.")] = None,
    chain: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most N allocations after one another.")
    ] = None,
    stub: Annotated[bool, typer.Option("--stub", help="Write minimal valid outputs, train nothing.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run again even if nothing changed.")] = False,
    waive: Waive = None,
    explain: Annotated[
        str | None, typer.Option(metavar="KEY", help="With -d: where this key's value came from.")
    ] = None,
    plan_file: Annotated[
        Path | None, typer.Option("-o", metavar="FILE", help="With -d: write the plan as JSON.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Run a step, after whatever it needs: here, or on a profile; the same command again resumes or reuses.

    What follows `--` goes to the trainer untouched. STEP may be the file of a saved plan (-d -o FILE): just
    that is run.

    Example: nemotron steps run rl/nemo_rl/rlhf -c tiny grpo.max_num_steps=10
    """
    from nemotron.cli import running

    if run_profile is not None and batch_profile is not None:
        raise UsageError("-r and -b exclude each other: attached or detached", next="give one of them")
    if not dry_run and (explain is not None or plan_file is not None):
        raise UsageError("--explain and -o go with --dry-run", next="add -d")
    if explain is not None and plan_file is not None:
        raise UsageError("--explain and -o exclude each other: one shows a key, the other a plan")
    asked = running.Asked(
        step_id,
        config,
        tuple(overrides or ()),
        tuple(inputs or ()),
        engine,
        context.obj,
        tuple(waive or ()),
        profile=run_profile if run_profile is not None else batch_profile,
        attached=batch_profile is None,
        chain=chain,
        stub=stub,
        force_squash=force_squash,
    )
    if explain is not None:
        return running.explain(asked.request(), explain, as_json)
    if dry_run:
        return running.dry_run(asked, plan_file, use_cache=not no_cache, as_json=as_json)
    return running.launch(asked, use_cache=not no_cache, as_json=as_json)


def _short(place: str) -> str:
    """A place below the working directory without the way there."""
    try:
        short = os.path.relpath(place) if place.startswith("/") else place
    except ValueError:
        return place
    return place if short.startswith("..") else short
