"""How far a run has come, told from what it left on the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron.job.outputs import select_step

# The last lines of a metrics file; a line is a few hundred bytes.
_TAIL_BYTES = 64 << 10


def saved_step(directory: Path, planned: Sequence[Mapping[str, Any]]) -> int | None:
    """The highest step that a checkpoint holds, 0 before the first; None where none is to be selected."""
    roots = [directory / each["path"] for each in planned if each.get("select") is not None]
    return max((select_step(root, "latest") or 0 for root in roots), default=None)


def logged_step(directory: Path) -> int | None:
    """The last step that the metrics tell of, None where they tell of none."""
    try:
        with (directory / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            step = json.loads(line)["step"]
        except (ValueError, TypeError, LookupError):
            continue  # cut off, or of something else
        if isinstance(step, int):
            return step
    return None


def kept_step(directory: Path, planned: Sequence[Mapping[str, Any]]) -> int | None:
    """The step that the next attempt goes on from, as far as it can be told.

    Checkpoints count where there are to be some: steps that were trained and not saved are lost.
    """
    saved = saved_step(directory, planned)
    return logged_step(directory) if saved is None else saved


def has_advanced(begun: int | None, now: int | None) -> bool:
    """Whether `now` is further than `begun`; where nothing is known of it, it has."""
    return now is None or now > (begun or 0)
