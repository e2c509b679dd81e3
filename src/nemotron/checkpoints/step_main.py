"""What the steps that convert checkpoints have in common: `step.py --config CONFIG [--with ENGINE]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nemotron.artifacts.failure_word import failed
from nemotron.checkpoints.converted import Converted
from nemotron.errors import NemotronError

Config = dict[str, Any]
Work = Callable[[Config], Converted | str]
OURS = "script"


def run_step(works: Mapping[str, Work], description: str | None) -> None:
    """Convert what the config names with one of `works`, by engine, and print what was made.

    An error of the user's ends the process with its text on stderr and its exit code, see `failed`.
    """
    import yaml

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--with", dest="engine", choices=sorted(works), default=OURS)
    given = parser.parse_args()
    try:
        made = works[given.engine](yaml.safe_load(given.config.read_text(encoding="utf-8")))
    except NemotronError as problem:
        sys.exit(failed(problem))
    print(made.text() if isinstance(made, Converted) else made)
