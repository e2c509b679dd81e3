"""What the steps that prepare data have in common: their config, their one input, their report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_json
from nemotron.artifacts.failure_word import failed
from nemotron.errors import NemotronError, UsageError

from .rowwise import report_text

Config = dict[str, Any]


def run_step(main: Callable[[Config], None], description: str | None) -> None:
    """Call a step's `main` with the config that `--config` names; an error of the user's ends the process
    with its text on stderr and its exit code, see `failed`.
    """
    import yaml

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True)
    path: Path = parser.parse_args().config
    try:
        main(yaml.safe_load(path.read_text(encoding="utf-8")))
    except NemotronError as problem:
        sys.exit(failed(problem))


def one_input(config: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """What the one of several keys says that names the input. Raises `UsageError` for none and for two."""
    found = input_if_any(config, keys)
    if found is None:
        raise UsageError("no input is named", where=keys[0], valid=keys)
    return found


def input_if_any(config: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """As `one_input`, and None where no key names one."""
    given = [key for key in keys if config.get(key) is not None]
    if len(given) > 1:
        raise UsageError(f"two inputs, {' and '.join(given)}", where=given[1], next="name one of them")
    return str(config[given[0]]) if given else None


def finish(report: Mapping[str, Any], place: str | Path) -> None:
    """Write the report as JSON and print it."""
    write_json(Path(place), report)
    print(report_text(report))
