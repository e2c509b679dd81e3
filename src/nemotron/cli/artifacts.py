"""`nemotron artifacts`: what was made, what it is, what it came from and where it went."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemotron.cli import output

if TYPE_CHECKING:
    from nemotron.artifacts.collection import Artifacts

app = typer.Typer(rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Ref = Annotated[
    str,
    typer.Argument(metavar="REF", help="A reference, a digest or its beginning, an id, a path or a name."),
]
Waive = Annotated[
    list[str] | None, typer.Option("--waive", metavar="ID", help="Set a finding aside by its id.")
]
Reason = Annotated[str | None, typer.Option("--reason", "-m", metavar="TEXT", help="Why; it is recorded.")]


def _artifacts() -> Artifacts:
    from nemotron.artifacts.collection import Artifacts

    return Artifacts(progress=output.counter("records read"), warn=output.warn)


def _known_type(name: str | None) -> None:
    """Raises UsageError for a type that neither a check nor a catalog knows."""
    from nemotron.artifacts.checks import known_types

    if name is None or name in known_types():
        return
    from nemotron.catalog.discover import load_catalog
    from nemotron.errors import UsageError, nearest

    names = sorted({*known_types(), *load_catalog(os.environ).type_names()})
    if name not in names:
        raise UsageError(
            f"{output.plain(name)!r} is no type", where="--type", nearest=nearest(name, names), valid=names
        )


@app.command("list")
def list_(
    type_: Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Of this type only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000_000, help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """List artifacts, the latest first.

    Example: nemotron artifacts list --type checkpoint_hf
    """
    artifacts = _artifacts()
    nodes = artifacts.recent(type_=type_, limit=limit)
    makers = artifacts.makers(nodes)
    if as_json:
        output.print_json({"artifacts": [{**asdict(n), "made_by": makers.get(n.id)} for n in nodes.values()]})
        return
    rows = [
        (
            output.short(n.id),
            n.type or "?",
            (n.at or "")[:16].replace("T", " "),
            output.size(n.bytes),
            ", ".join(n.names) + (" TAINTED" if n.tainted else ""),
            output.plain(makers.get(n.id) or (n.paths[0] if n.paths else "")),
        )
        for n in nodes.values()
    ]
    output.print_table(("ARTIFACT", "TYPE", "SINCE", "SIZE", "NAMES", "MADE BY, OR AT"), rows)


@app.command()
def show(ref: Ref, as_json: Json = False) -> None:
    """Show an artifact: what it is, where it lies, what its check told.

    Example: nemotron artifacts show art://judges/warm
    """
    from nemotron.artifacts.verify import place_state
    from nemotron.cli.checkpoint_facts import facts_of, facts_of_places, model_directory
    from nemotron.cli.meant import selected

    artifacts = _artifacts()
    path = selected(ref) or ref
    # Its headers first: a large one that nobody recorded would be read whole to be told that.
    root = model_directory(path)
    if root is not None and not artifacts.index.idents_at(str(root)):
        unrecorded = facts_of(root)
        if as_json:
            output.print_json({"artifacts": [], "checkpoint": unrecorded.as_dict()})
        else:
            print(f"not recorded at this place\n{unrecorded.text()}")
        return
    shown = artifacts.show(path)
    found = []
    texts = []
    for each in shown:
        places = [{**place._asdict(), "state": place_state(place)} for place in each.locations]
        above = each.tainted_above
        facts = facts_of_places(each.node.type, places)
        found.append(
            {
                **asdict(each.node),
                "places": places,
                "made_by": [asdict(e) for e in each.made_by],
                "used_by": [asdict(e) for e in each.used_by],
                "tainted_through": above._asdict() if above else None,
                "checkpoint": facts.as_dict() if facts else None,
            }
        )
        more = ["as its headers say now", *facts.text().splitlines()] if facts else []
        texts.append("\n".join([_shown(found[-1]), *(f"  {line}" for line in more)]))
    if as_json:
        output.print_json({"artifacts": found})
        return
    print("\n\n".join(texts))


def _shown(found: dict[str, Any]) -> str:
    lines = [output.plain(found["id"]), f"  type     {output.plain(found['type'] or 'unknown')}"]
    lines += [f"  name     {output.plain(name)}" for name in found["names"]]
    if found["bytes"] is not None:
        lines.append(f"  size     {output.size(found['bytes'])}")
    if found["tainted_through"]:
        taint = found["tainted_through"]
        through = "" if taint["subject"] == found["id"] else f" (through {output.short(taint['subject'])})"
        lines.append(f"  TAINTED  {output.plain(taint['reason'])}{through}")
    for place in found["places"]:
        lines.append(f"  at       {output.plain(place['path'])} ({place['state']}, since {place['at'][:19]})")
    lines += [f"  made by  run {output.plain(e['run'])}, {output.plain(e['port'])}" for e in found["made_by"]]
    lines += [f"  used by  run {output.plain(e['run'])}, {output.plain(e['port'])}" for e in found["used_by"]]
    for key, value in sorted(found["facts"].items()):
        lines.append(f"  {output.plain(key):<22} {output.fact(value)}")
    return "\n".join(lines)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or directory.")],
    type_: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Its type; guessed when not given.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Findings of each severity shown in full.")] = 20,
    as_json: Json = False,
) -> None:
    """Check what a path holds, without recording it.

    Example: nemotron artifacts check chats.jsonl --type training_jsonl
    """
    from nemotron.artifacts.adopt import guessed_type
    from nemotron.artifacts.checks import check_artifact
    from nemotron.cli.meant import selected
    from nemotron.errors import CheckFailed

    path = Path(selected(str(path)) or path)
    checked = check_artifact(path, type_ or guessed_type(path), limit=limit)
    if as_json:
        found = {"path": str(path), "type": checked.type, "ok": checked.ok, "facts": dict(checked.facts)}
        output.print_json(found | {"findings": [f.as_dict() for f in checked.findings]})
        if not checked.ok:
            raise typer.Exit(CheckFailed.exit_code)
        return
    for finding in checked.findings:
        print(finding.render())
    for key, value in sorted(checked.facts.items()):
        print(f"{key:<22} {output.fact(value)}")
    print(f"{output.plain(str(path))}: {'a' if checked.ok else 'not a'} {checked.type}")
    if not checked.ok:
        raise typer.Exit(CheckFailed.exit_code)


@app.command()
def add(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or directory; it stays where it is.")],
    type_: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Its type; guessed when not given.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make it the next version of a name.")
    ] = None,
    level: Annotated[
        str,
        typer.Option(
            metavar="auto|full|sampled", help="Read all of it, or samples; auto: all up to 256 GiB."
        ),
    ] = "auto",
    waive: Waive = None,
    as_json: Json = False,
) -> None:
    """Take in what was made before or elsewhere, with the history it tells of itself.

    Example: nemotron artifacts add models/base --name base
    """
    from nemotron.cli.meant import selected

    _known_type(type_)
    added, version = _artifacts().add(
        Path(selected(str(path)) or path),
        type_=type_,
        name=name,
        level=level,
        waived=tuple(waive or ()),
        progress=output.byte_progress("reading"),
    )
    if as_json:
        found = asdict(added) | {"name": name, "version": version}
        output.print_json(found | {"findings": [f.as_dict() for f in added.findings]})
        return
    for finding in added.findings:
        print(finding.render())
    known = "known already" if added.known else "added"
    print(f"{known}: {added.type} {added.digest}")
    print(f"  record   {added.record}")
    if version is not None:
        print(f"  name     {name}:v{version}")
    for parent in (added.history or {}).get("parents", ()):
        print(f"  {parent['role']:<8} {output.plain(parent['reference'])}")


@app.command()
def lineage(
    ref: Ref,
    up: Annotated[bool, typer.Option("--up", help="Only what it was made from.")] = False,
    down: Annotated[bool, typer.Option("--down", help="Only what came of it.")] = False,
    depth: Annotated[int, typer.Option(min=1, help="So many runs each way.")] = 6,
    limit: Annotated[int, typer.Option(min=1, help="Stop at about so many artifacts.")] = 300,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flowchart.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page that needs no network.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what made an artifact, from what, and who used it since.

    Example: nemotron artifacts lineage art://policies/warm --up
    """
    from nemotron.errors import UsageError

    if sum((as_json, mermaid, html is not None)) > 1:
        raise UsageError("--json, --mermaid and --html exclude each other", next="name one of them")
    both = up == down
    from nemotron.cli.meant import meant

    artifacts = _artifacts()
    found = artifacts.lineage(
        meant(ref, artifacts), up=depth if up or both else 0, down=depth if down or both else 0, limit=limit
    )
    if any(each.limited for each in found):
        print(f"cut at about {limit} artifacts: --limit {10 * limit} shows more", file=sys.stderr)
    if as_json:
        output.print_json({"lineages": [each.as_dict() for each in found]})
    elif mermaid:
        from nemotron.artifacts.views.mermaid import mermaid_text

        print("\n".join(mermaid_text(each) for each in found))
    elif html is not None:
        from nemotron.artifacts.atomic import write_text
        from nemotron.artifacts.views.page import page_html

        if html.suffix not in (".html", ".htm"):
            raise UsageError(f"{html} is no name of a page", valid=("FILE.html",))

        if len(found) > 1:
            raise UsageError("a page shows one artifact", valid=[each.focus for each in found])
        write_text(html, page_html(found[0], f"Lineage of {ref}"))
        print(html)
    else:
        from nemotron.artifacts.views.tree import tree_text

        width, color = output.terminal()
        for each in found:
            print(tree_text(each, up=up or both, down=down or both, width=width, color=color))


@app.command()
def verify(
    refs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REF]...", help="Artifacts; see `lineage` for what can be typed."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every artifact of the store.")] = False,
    as_json: Json = False,
) -> None:
    """Read artifacts again: are they still the same bytes?

    Example: nemotron artifacts verify art://judges/warm
    """
    from nemotron.errors import CheckFailed, UsageError

    if bool(refs) == all_:
        raise UsageError("name artifacts, or --all", next="nemotron artifacts list")
    from nemotron.cli.meant import meant

    artifacts = _artifacts()
    asked = [meant(ref, artifacts) for ref in refs or ()]
    found = artifacts.verify(asked, progress=output.byte_progress("reading"))
    if as_json:
        output.print_json({"verified": [asdict(each) for each in found]})
    else:
        rows = [(output.short(v.ident), v.state, output.plain(v.path)) for v in found]
        output.print_table(("ARTIFACT", "STATE", "PATH"), rows)
    if any(each.state in ("changed", "missing", "unreadable") for each in found):
        raise typer.Exit(CheckFailed.exit_code)


@app.command()
def alias(
    ref: Ref,
    label: Annotated[
        str | None, typer.Argument(metavar="NAME[:ALIAS]", help="A name, and a word for one of its versions.")
    ] = None,
    reason: Reason = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take an alias away: alias NAME:ALIAS --remove.")
    ] = False,
    waive: Waive = None,
    as_json: Json = False,
) -> None:
    """Name an artifact, or promote it: let an alias mean it from now on.

    Example: nemotron artifacts alias 3f9ac1 policies/warm:production -m reviewed
    """
    from nemotron.artifacts.collection import split_label
    from nemotron.errors import UsageError

    if remove == (label is not None):
        raise UsageError(
            "give REF NAME[:ALIAS], or NAME:ALIAS --remove", next="nemotron artifacts alias --help"
        )
    from nemotron.cli.meant import meant

    name, word = split_label(ref if label is None else label)
    artifacts = _artifacts()
    version = None
    if label is None:
        if word is None:
            raise UsageError("only an alias can be removed; versions stay", next="NAME:ALIAS --remove")
        artifacts.remove_alias(name, word, reason=reason)
    elif word is None:
        version = artifacts.name(meant(ref, artifacts), name, waived=tuple(waive or ()))
    else:
        version = artifacts.alias(meant(ref, artifacts), name, word, reason=reason, waived=tuple(waive or ()))
    if as_json:
        output.print_json({"name": name, "alias": word, "version": version})
    elif version is None:
        print(f"{name}:{word} means nothing now")
    else:
        print(f"{name}:v{version}" + (f", {name}:{word}" if word else ""))


@app.command()
def taint(
    ref: Ref,
    reason: Reason = None,
    lift: Annotated[bool, typer.Option("--lift", help="Take the taint back.")] = False,
    as_json: Json = False,
) -> None:
    """Say that an artifact must not be used: what descends from it is blocked too.

    Example: nemotron artifacts taint data/chats.jsonl -m leaked
    """
    from nemotron.cli.meant import meant

    artifacts = _artifacts()
    ref = meant(ref, artifacts)
    if lift:
        ident, affected = artifacts.lift_taint(ref, reason), []
    else:
        found = artifacts.taint(ref, reason or "")
        ident = found.focus
        made = {e.artifact for e in found.edges if e.direction == "output"}
        affected = [a for a in found.artifacts.values() if a.id != ident and a.id in made]
    if as_json:
        output.print_json({"artifact": ident, "tainted": not lift, "descendants": [a.id for a in affected]})
        return
    print(f"{'taint lifted' if lift else 'tainted'}: {ident}")
    for each in affected:
        where = each.names[0] if each.names else each.paths[0] if each.paths else ""
        print(f"  blocked  {output.short(each.id)}  {each.type or '?'}  {output.plain(where)}")
