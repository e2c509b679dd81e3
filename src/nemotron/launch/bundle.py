"""The run directory before it runs: everything a backend needs, started by `bash launch.sh`.

plan.json     the plan, as it was shown
place.json    where this run's records go, and its inputs' paths: what differs from run to run
config.yaml   the trainer's config, real paths in it; config.yaml.in where the job has to fill some in
launch.sh     the environment and one command, quoted by us
.secrets      values that are written nowhere else; only its owner can read it
runtime/      the job: a copy of the standard-library part of this package
recipe        the recipe's digest; written last, it makes the directory a run
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nemotron import __version__
from nemotron.artifacts.atomic import os_error, write_json, write_text
from nemotron.artifacts.records import PENDING
from nemotron.artifacts.runs import PLAN_FILE, RECIPE_FILE, mark_recipe
from nemotron.artifacts.store import Store
from nemotron.config.keys import with_value
from nemotron.errors import CheckFailed
from nemotron.planning.plan import Plan
from nemotron.planning.words import shell_words

SECRETS_FILE = ".secrets"
NOTHING: Mapping[str, Any] = MappingProxyType({})
_PACKAGE = Path(__file__).parent.parent
# What a job imports; a test runs it in an interpreter that has nothing else.
RUNTIME_MODULES = (
    "errors.py",
    "findings.py",
    *(p.relative_to(_PACKAGE).as_posix() for p in sorted((_PACKAGE / "job").rglob("*.py"))),
    "artifacts/__init__.py",
    "artifacts/atomic.py",
    "artifacts/paths.py",
    "artifacts/records.py",
    "artifacts/run_state.py",
    "artifacts/submissions.py",
    "artifacts/walk.py",
    *(f"artifacts/checks/{p.name}" for p in sorted((_PACKAGE / "artifacts" / "checks").glob("*.py"))),
)
_START = '''"""Starts {what} of this run directory with the copy of the runtime beside this file."""

import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))

from nemotron.job.{module} import main

sys.exit(main([str(here.parent)]))
'''

_STARTERS = (("start.py", "runtime", "the job"), ("stub.py", "stub.run", "the stub in place of the trainer"))


def new_run_directory(plan: Plan, store: Store) -> Path:
    """A new run's directory; below `run_root`, with a link in the store, where the plan says so.

    Errors: see `os_error`.
    """
    directory = store.new_run_dir(plan.recipe.step, datetime.now(UTC))
    if plan.placement.run_root is None or plan.placement.options.get("tunnel"):
        return directory
    place = Path(plan.placement.run_root).expanduser() / directory.name
    try:
        place.mkdir(parents=True)
        directory.rmdir()
        directory.symlink_to(place, target_is_directory=True)
    except OSError as problem:
        raise os_error(problem, place) from problem
    return directory


def write_bundle(
    directory: Path,
    plan: Plan,
    store: Store,
    *,
    late: Mapping[str, Mapping[str, Any]] = NOTHING,
    secrets: Mapping[str, str] = NOTHING,
) -> None:
    """Fill `directory`, or fill it anew.

    late: inputs that the job pins, as place.json holds them; every other input of the plan must be pinned.
    secrets: values by name; they are in the file `.secrets` and nowhere else. Errors: see `os_error`.
    """
    paths = input_paths(plan, late)
    write_text(directory / PLAN_FILE, plan.to_json())
    write_json(directory / "place.json", _place(plan, store, late, secrets))
    _write_config(directory, plan, paths, late)
    write_text(directory / "launch.sh", launch_script(plan))
    write_secrets(directory, secrets)
    _copy_runtime(directory / "runtime")
    recipe = plan.recipe_digest or PENDING
    # Marked first: killed in between, this leaves a mark of no run, and never a run that is not found.
    if recipe != PENDING:
        mark_recipe(store, directory.name, recipe)
    write_text(directory / RECIPE_FILE, f"{recipe}\n")


def _place(
    plan: Plan, store: Store, late: Mapping[str, Mapping[str, Any]], secrets: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "plan_digest": plan.digest,
        "records_dir": str(store.records_dir),
        "nemotron_version": __version__,
        "inputs": {
            i.port: {"type": i.type, "reference": i.reference, "path": i.path, "digest": i.digest}
            | ({"made_by": i.made_by} if i.made_by else {})
            for i in plan.inputs
        },
        "late": {port: dict(each) for port, each in late.items()},
        "parts": plan.placement.chain,
        "planned_steps": plan.planned_steps,
        "secrets": sorted(secrets),
        "code": {
            name: plan.placement.code[name] for name in ("commit", "changes") if name in plan.placement.code
        },
    }


def input_paths(plan: Plan, late: Collection[str] = ()) -> dict[str, str]:
    """Path of each input that is not late. Raises CheckFailed for one that is not there yet."""
    found = {}
    for each in plan.inputs:
        if each.port in late or (plan.placement.stub and each.path is None):
            continue
        if each.path is None:
            raise CheckFailed(f"input {each.port} is {each.state}", where=each.key)
        found[each.port] = each.path
    return found


def late_token(port: str) -> str:
    """What stands in `config.yaml.in` for the path of an input that the job pins."""
    return f"@@late:{port}@@"


def _write_config(directory: Path, plan: Plan, paths: Mapping[str, str], late: Collection[str]) -> None:
    """The trainer's config; with late inputs the text from which the job makes it."""
    (directory / "config.yaml.in").unlink(missing_ok=True)
    text = config_yaml(plan, {**paths, **{port: late_token(port) for port in late}}, directory)
    write_text(directory / "config.yaml", text)
    if late:
        write_text(directory / "config.yaml.in", text)


def config_yaml(plan: Plan, paths: Mapping[str, str], directory: Path | None = None) -> str:
    """The trainer's config with real paths for `in://PORT` and `out://PORT`, and what the place decides.

    directory: stands for `{run_dir}` in values of the place.
    """
    places = {f"in://{port}": path for port, path in paths.items()}
    places |= {f"out://{o.port}": o.path for o in plan.outputs}
    # The longest name first, so that `in://data` does not take the beginning of `in://data-2`.
    names = "|".join(re.escape(name) for name in sorted(places, key=len, reverse=True))
    placeholder = re.compile(rf"(?<![A-Za-z0-9+.-])(?:{names})" if names else "(?!)")

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return placeholder.sub(lambda found: places[found[0]], value)
        if isinstance(value, Mapping):
            return {k: filled(v) for k, v in value.items()}
        return [filled(v) for v in value] if isinstance(value, list | tuple) else value

    config = filled(plan.recipe.config)
    for key, value in plan.placement.config.items():
        if isinstance(value, str) and directory is not None:
            value = value.replace("{run_dir}", str(directory))
        config = with_value(config, tuple(key.split(".")), value)
    return _dumped(config)


def _dumped(config: Any) -> str:
    """YAML in which a text with a late path in it is double-quoted, so that a path can be put into it."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Ours alone: what it represents otherwise is not what others do."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        style = '"' if "@@late:" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    # One line a value: a path may be longer than a line.
    dumped: str = yaml.dump(config, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))
    return dumped


def launch_script(plan: Plan) -> str:
    """`launch.sh`: all that a backend has to start, once a node. Secrets are read, never traced or shown.

    Raises UsageError for a value that no environment variable can hold.
    """
    placement = plan.placement
    lines = ["#!/usr/bin/env bash", "set +x", "set -eo pipefail", 'cd -- "$(dirname -- "${BASH_SOURCE[0]}")"']
    if placement.profile is not None:
        lines += [f"export {name}={shell_words([value])}" for name, value in placement.environment.items()]
        lines += [
            "if [ -r .secrets ]; then",
            """    while IFS= read -r -d '' pair; do export "${pair?}"; done < .secrets""",
            "fi",
        ]
        # The profile's own shell, as it stands there.
        lines += placement.startup
    search = [f"code/{each}".removesuffix("/.") for each in placement.code.get("search", ())]
    if search:
        joined = ":".join(f'"$PWD"/{shell_words([each])}' for each in search)
        lines.append(f'export PYTHONPATH={joined}"${{PYTHONPATH:+:$PYTHONPATH}}"')
    # Neither a container nor another machine has the interpreter of this one.
    python = "python3" if placement.image or placement.options.get("tunnel") else sys.executable
    return "\n".join([*lines, f"exec {shell_words([python])} -I runtime/start.py", ""])


def write_secrets(directory: Path, secrets: Mapping[str, str]) -> None:
    """The file of secrets, readable by its owner alone, made anew. Errors: see `os_error`."""
    path = directory / SECRETS_FILE
    path.unlink(missing_ok=True)
    if not secrets:
        return
    text = "".join(f"{name}={value}\0" for name, value in sorted(secrets.items()))
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
    except OSError as problem:
        raise os_error(problem, path) from problem


def _copy_runtime(target: Path) -> None:
    try:
        for name in RUNTIME_MODULES:
            place = target / "nemotron" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_PACKAGE / name, place)
        (target / "nemotron" / "__init__.py").write_text("", encoding="utf-8")
        for name, module, what in _STARTERS:
            (target / name).write_text(_START.format(module=module, what=what), encoding="utf-8")
    except OSError as problem:
        raise os_error(problem, target) from problem
