"""NeMo-Gym rollouts to chats, preferences and prompts: `step.py --config CONFIG`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nemotron.data.rollouts.convert import NothingKept, convert_rollouts
from nemotron.data.rollouts.options import ExportOptions
from nemotron.data.step_config import Config, input_if_any, run_step
from nemotron.errors import UsageError

OURS = frozenset(("rollouts", "raw_rollouts", "files", "make", "workers", "output"))


def main(config: Config) -> None:
    """Write what the config asks for, and show what became of the rows."""
    inputs = inputs_of(config)
    options = ExportOptions.from_config({key: value for key, value in config.items() if key not in OURS})
    places = {name: Path(place) for name, place in config["output"].items()}
    try:
        report = convert_rollouts(inputs, places, options, make=config["make"], workers=config["workers"])
    except NothingKept as nothing:
        print(nothing.report.render(), file=sys.stderr)
        raise
    print(report.render())


def inputs_of(config: Config) -> list[str]:
    """The files to read."""
    files: Any = config["files"]
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise UsageError(
            "files is no list of paths", where="files", next="files='[a.jsonl, runs/*.jsonl.gz]'"
        )
    named = input_if_any(config, ("rollouts", "raw_rollouts"))
    if named is None and not files:
        raise UsageError("no input is named", where="rollouts", valid=("rollouts", "raw_rollouts", "files"))
    if named is not None and files:
        raise UsageError("both an input and files are named", where="files", next="name one of them")
    return files if named is None else [named]


if __name__ == "__main__":
    run_step(main, __doc__)
