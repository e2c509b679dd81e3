"""The word that a step's script leaves with its run on why it failed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from nemotron.errors import NemotronError

from .atomic import json_text, write_new

_PLAN, _WORD = "plan.json", "failure.json"


def failed(problem: NemotronError) -> int:
    """Print `problem` to stderr and leave it as the cause with the run that this process works for.

    Returns its exit code. Of several processes of a run the first one's word stays. Without a run, by hand,
    nothing is left.
    """
    print(problem.render(), file=sys.stderr, flush=True)
    directory = Path(os.environ.get("NEMOTRON_RUN_DIR") or Path.cwd())
    if (directory / _PLAN).is_file():
        # On a full disk the log has to do, and the exit code.
        with suppress(NemotronError):
            write_new(directory / _WORD, json_text(problem.as_dict()).encode())
    return problem.exit_code
