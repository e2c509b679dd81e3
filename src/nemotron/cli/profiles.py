"""`nemotron profiles`: where steps can run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemotron.cli import output

if TYPE_CHECKING:
    from nemotron.findings import Finding
    from nemotron.profiles.check import SchedulerProbe
    from nemotron.profiles.load import Profiles
    from nemotron.profiles.profile import Profile

app = typer.Typer(rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A profile's name.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the profiles in reach, and the files they are in.

    Example: nemotron profiles list
    """
    profiles = _profiles()
    listed = profiles.listed()
    if as_json:
        rows = [
            {
                "name": each.name,
                "executor": each.executor,
                "extends": each.extends,
                "description": each.description,
                "file": output.plain(str(each.file)),
                "line": each.line,
                "problem": each.problem,
            }
            for each in listed
        ]
        files = [output.plain(str(path)) for path in profiles.files]
        findings = [finding.as_dict() for finding in profiles.findings]
        output.print_json({"profiles": rows, "files": files, "findings": findings})
        return
    _tell(profiles.findings)
    table = [
        (
            output.plain(each.name),
            output.plain(each.executor or "?"),
            f"{_short(each.file)}:{each.line}",
            f"broken: {each.problem}" if each.problem else output.plain(each.description or "-"),
        )
        for each in listed
    ]
    output.print_table(("NAME", "EXECUTOR", "FILE", "WHAT IT IS"), table)
    if not profiles.files:
        print("no file of profiles in reach: write an env.toml, or set NEMOTRON_ENV_FILE", file=sys.stderr)


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show a profile with all it extends: every value, and the line it comes from.

    Secrets are shown by name.

    Example: nemotron profiles show slurm_rl_nemo_rl_rlhf
    """
    profile = _profiles().examine(name)
    if as_json:
        output.print_json(profile.as_dict())
        return
    print(_shown(profile))
    _tell(profile.findings)


@app.command()
def check(name: Name, as_json: Json = False) -> int:
    """Check a profile: keys, kinds, variables, secrets; exit 4 when an error is found.

    Example: nemotron profiles check slurm_rl_nemo_rl_rlhf
    """
    from nemotron.errors import CheckFailed
    from nemotron.findings import errors_in
    from nemotron.profiles.check import check_profile

    checked = check_profile(_profiles(), name, _probe(name))
    errors = errors_in(checked.findings)
    if as_json:
        found = [finding.as_dict() for finding in checked.findings]
        output.print_json(
            {
                "profile": name,
                "executor": checked.profile.executor,
                "findings": found,
                "scheduler_asked": checked.asked,
                "start_time": checked.start_time,
            }
        )
    else:
        for finding in checked.findings:
            print(finding.render())
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        print(f"{output.plain(name)}: {count}" if errors else f"{output.plain(name)}: no error")
        if not checked.asked and checked.profile.executor not in ("local", ""):
            print("the scheduler was not asked: that partition, account and GPUs exist is not checked")
    return CheckFailed.exit_code if errors else 0


def _profiles() -> Profiles:
    from nemotron.profiles.load import load_profiles

    return load_profiles(os.environ, Path.cwd())


def _tell(findings: Iterable[Finding]) -> None:
    for finding in findings:
        print(finding.render(), file=sys.stderr)


def _shown(profile: Profile) -> str:
    lines = [f"{output.plain(profile.name)}: {output.plain(profile.executor or 'no executor')}"]
    lines.append(f"  file     {_short(profile.file)}")
    lines += [f"  extends  {output.plain(', '.join(profile.extends))}"] if profile.extends else []
    hidden = {secret.key for secret in profile.secrets}
    rows = []
    for key, origin in profile.origins.items():
        if key not in hidden and key not in ("executor", "description"):
            place = f"{_short(origin.file)}:{origin.line}"
            of = "" if origin.profile == profile.name else f" ({output.plain(origin.profile)})"
            rows.append((output.plain(key), output.plain(_value(profile, key)), place + of))
    if profile.get("description"):
        lines.append(f"  about    {output.plain(str(profile.get('description')))}")
    lines += ["", "values", *_columns(rows)]
    if profile.secrets:
        secrets = [
            (output.plain(s.name), _source(s.variable, optional=s.optional), output.plain(s.key))
            for s in profile.secrets
        ]
        lines += ["", "secrets", *_columns(secrets)]
    return "\n".join(lines)


def _value(profile: Profile, key: str) -> str:
    """The value of an origin's key; names of tables may hold dots themselves."""
    from nemotron.config.keys import locate, value_at

    path = locate(profile.values, key)
    if path is None:
        return "(not read)"
    value = value_at(profile.values, path)
    return output.as_text(value) if value != "" else '""'


def _source(variable: str | None, *, optional: bool) -> str:
    if variable is None:
        return "written in the file"
    return f"from {variable}" + (", if set" if optional else "")


def _columns(rows: list[tuple[str, str, str]]) -> list[str]:
    if not rows:
        return ["  none"]
    first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
    # A long list of mounts would push the places of all other values off the screen.
    second = min(second, 48)
    return [f"  {a.ljust(first)}  {b.ljust(second)}  {c}" for a, b, c in rows]


def _short(path: Path) -> str:
    """A path as seen from here, where that is no longer than in full."""
    short = os.path.relpath(path)
    return output.plain(str(path) if short.startswith("..") else short)


def _probe(name: str) -> SchedulerProbe | None:
    """What of the profile's scheduler can be asked from here; None where nothing can."""
    from nemotron.errors import UsageError
    from nemotron.launch.backend import find_backend

    profile = _profiles().examine(name)
    try:
        return find_backend(profile.executor).probe(profile.values)
    except UsageError:
        return None  # there is no backend for it; the profile says so itself
