"""The files of a run directory that the launcher wrote, read by a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nemotron.errors import CheckFailed


def load_object(path: Path, *needed: str) -> dict[str, Any]:
    """A file of the bundle. Raises CheckFailed when it is not what was written there."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise CheckFailed(f"{path.name} cannot be read: {problem}", where=str(path)) from problem
    if not isinstance(loaded, dict) or any(key not in loaded for key in needed):
        raise CheckFailed(f"{path.name} does not hold {', '.join(needed)}", where=str(path))
    return loaded
