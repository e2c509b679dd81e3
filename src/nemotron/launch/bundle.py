"""The run directory before it runs: everything a backend needs, started by `bash launch.sh`.

plan.json     the plan, as it was shown
place.json    where this run's records go, and its inputs' paths: what differs from run to run
config.yaml   the trainer's config, real paths in it
launch.sh     one command, quoted by us
runtime/      the job: a copy of the standard-library part of this package
recipe        the recipe's digest; written last, it makes the directory a run
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemotron import __version__
from nemotron.artifacts.atomic import os_error, write_json, write_text
from nemotron.artifacts.runs import PLAN_FILE, RECIPE_FILE, mark_recipe
from nemotron.artifacts.store import Store
from nemotron.errors import CheckFailed
from nemotron.planning.plan import Plan
from nemotron.planning.words import shell_words

_PACKAGE = Path(__file__).parent.parent
# What a job imports; a test runs it in an interpreter that has nothing else.
RUNTIME_MODULES = (
    "errors.py",
    "findings.py",
    "job/__init__.py",
    "job/runtime.py",
    "job/outputs.py",
    "artifacts/__init__.py",
    "artifacts/atomic.py",
    "artifacts/paths.py",
    "artifacts/records.py",
    "artifacts/walk.py",
    *(f"artifacts/checks/{p.name}" for p in sorted((_PACKAGE / "artifacts" / "checks").glob("*.py"))),
)
_START = '''"""Starts the job of this run directory with the copy of the runtime beside this file."""

import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))

from nemotron.job.runtime import main

sys.exit(main([str(here.parent)]))
'''


def write_bundle(directory: Path, plan: Plan, store: Store) -> None:
    """Fill `directory`. Every input of the plan must be pinned. Errors: see `os_error`."""
    paths = input_paths(plan)
    write_text(directory / PLAN_FILE, plan.to_json())
    write_json(
        directory / "place.json",
        {
            "plan_digest": plan.digest,
            "records_dir": str(store.records_dir),
            "nemotron_version": __version__,
            "inputs": {
                i.port: {"type": i.type, "reference": i.reference, "path": i.path, "digest": i.digest}
                | ({"made_by": i.made_by} if i.made_by else {})
                for i in plan.inputs
            },
        },
    )
    write_text(directory / "config.yaml", config_yaml(plan, paths))
    write_text(directory / "launch.sh", launch_script())
    _copy_runtime(directory / "runtime")
    # Marked first: killed in between, this leaves a mark of no run, and never a run that is not found.
    mark_recipe(store, directory.name, str(plan.recipe_digest))
    write_text(directory / RECIPE_FILE, f"{plan.recipe_digest}\n")


def input_paths(plan: Plan) -> dict[str, str]:
    """Path of each input. Raises CheckFailed for one that is not there yet."""
    found = {}
    for each in plan.inputs:
        if each.path is None:
            raise CheckFailed(f"input {each.port} is {each.state}", where=each.key)
        found[each.port] = each.path
    return found


def config_yaml(plan: Plan, paths: Mapping[str, str]) -> str:
    """The trainer's config with real paths for `in://PORT` and `out://PORT`."""
    import yaml

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

    text: str = yaml.safe_dump(filled(plan.recipe.config), sort_keys=False, allow_unicode=True)
    return text


def launch_script() -> str:
    """`launch.sh`: the same for every run but for the interpreter's path."""
    return (
        "#!/usr/bin/env bash\n"
        "set -euo pipefail\n"
        'cd -- "$(dirname -- "${BASH_SOURCE[0]}")"\n'
        f"exec {shell_words([sys.executable])} -I runtime/start.py\n"
    )


def _copy_runtime(target: Path) -> None:
    try:
        for name in RUNTIME_MODULES:
            place = target / "nemotron" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_PACKAGE / name, place)
        (target / "nemotron" / "__init__.py").write_text("", encoding="utf-8")
        (target / "start.py").write_text(_START, encoding="utf-8")
    except OSError as problem:
        raise os_error(problem, target) from problem
