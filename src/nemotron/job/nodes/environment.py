"""The environment of what a node starts: the job's own, the plan's over it, nothing of the allocation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemotron.job import allocation


def node_environment(directory: Path, placement: Mapping[str, Any]) -> dict[str, str]:
    """What a trainer on this node finds in its environment."""
    kept = {name: value for name, value in os.environ.items() if name not in allocation.NAMES}
    kept.setdefault("PYTHONFAULTHANDLER", "1")
    if placement.get("launch") == "ray":
        # Unset, newer Rays (2.60 does) ask for a token where the head's node has one in its home, and the
        # others do not send it.
        kept.setdefault("RAY_AUTH_MODE", "disabled")
    # A profile's environment comes with launch.sh, where its startup lines have the last word.
    own = {} if placement.get("profile") else placement["environment"]
    return {**kept, **own, "NEMOTRON_RUN_DIR": str(directory)}
