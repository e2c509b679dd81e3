"""Which artifacts a finished trainer left, found by the plan's description of its outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron.errors import CheckFailed, NemotronError
from nemotron.findings import Finding, errors_in

_SHOWN = 5


def find_outputs(
    directory: Path, planned: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Path and type of each output by port, and what is missing in words (None when nothing is)."""
    from nemotron.artifacts.checks.saved_steps import inside_step  # as `check_outputs`: at the end alone

    found: dict[str, dict[str, Any]] = {}
    missing = []
    for output in planned:
        root = directory / output["path"]
        step = None
        path: Path | None = root
        if output["select"] is not None:
            step = select_step(root, output["select"])
            path = None if step is None else inside_step(root / f"step_{step}", output["inside"])
        if path is None or not path.exists():
            if output["required"]:
                missing.append(f"output {output['port']} is not there: nothing at {path or root}")
            continue
        made = {"type": output["type"], "path": str(path)}
        found[output["port"]] = made if step is None else {**made, "step_of_training": step}
    return found, "; ".join(missing) or None


def check_outputs(found: Mapping[str, Mapping[str, Any]]) -> CheckFailed | None:
    """What is wrong with outputs that are there, None when each is what its type says."""
    from nemotron.artifacts.checks import check_artifact  # 20 ms that a job needs at its end alone

    wrong: list[Finding] = []
    ports = []
    for port, output in found.items():
        errors = errors_in(check_artifact(Path(output["path"]), output["type"]).findings)
        if errors:
            ports.append(f"{port} is no {output['type']}")
            wrong += errors[:_SHOWN]
    if not wrong:
        return None
    what = f"output {', '.join(ports)}: {wrong[0].message}"
    return CheckFailed(what, where=wrong[0].where, next=wrong[0].fix, findings=wrong)


def select_step(root: Path, select: str) -> int | None:
    """The training step whose checkpoint is meant; None when there is no whole one.

    `latest`: the highest. `step:N`: that one. `best`: by the metric that the run ranked by, the highest step
    where no checkpoint carries it; `best:METRIC`: by that one.
    """
    if not root.is_dir():
        return None
    steps = sorted(
        int(m.group(1)) for m in (re.fullmatch(r"step_(\d+)", p.name) for p in root.iterdir()) if m
    )
    if not steps:
        return None
    kind, _, asked = select.partition(":")
    if kind == "step":
        return int(asked) if int(asked) in steps else None
    if kind == "latest":
        return steps[-1]
    from nemotron.artifacts.checks.saved_steps import best_step  # as costly to import as the checks above

    try:
        return best_step(root, asked, steps)
    except NemotronError:
        return None if asked else steps[-1]
