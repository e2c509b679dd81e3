"""Which artifacts a finished trainer left, found by the plan's description of its outputs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def find_outputs(
    directory: Path, planned: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Path and type of each output by port, and what is missing in words (None when nothing is)."""
    found: dict[str, dict[str, Any]] = {}
    missing = []
    for output in planned:
        root = directory / output["path"]
        step = None
        path: Path | None = root
        if output["select"] is not None:
            step = select_step(root, output["select"])
            path = None if step is None else root / f"step_{step}" / (output["inside"] or "")
        if path is None or not path.exists():
            if output["required"]:
                missing.append(f"output {output['port']} is not there: nothing at {path or root}")
            continue
        made = {"type": output["type"], "path": str(path)}
        found[output["port"]] = made if step is None else {**made, "step_of_training": step}
    return found, "; ".join(missing) or None


def select_step(root: Path, select: str) -> int | None:
    """The training step whose checkpoint is meant; None when there is no whole one.

    `latest`: the highest. `best`: by the metric that `root/metric.json` names, the highest step where no
    checkpoint carries it.
    """
    if not root.is_dir():
        return None
    steps = sorted(
        int(m.group(1)) for m in (re.fullmatch(r"step_(\d+)", p.name) for p in root.iterdir()) if m
    )
    if not steps:
        return None
    ranking = _read(root / "metric.json")
    name = ranking.get("metric_name")
    if select != "best" or not name:
        return steps[-1]
    values = {s: _read(root / f"step_{s}" / "training_info.json").get(name) for s in steps}
    scored = {s: float(v) for s, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
    if not scored:
        return steps[-1]
    sign = 1 if ranking.get("higher_is_better", True) else -1
    return max(scored, key=lambda s: (sign * scored[s], s))


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
