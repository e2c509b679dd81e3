"""Plans for the cluster, made by hand: what a job does is in a `launch.sh` that a test writes."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from nemotron.artifacts.submissions import Submission
from nemotron.planning.plan import Placement, Plan, PlannedInput, PlannedOutput, Recipe

SCRIPTS = ("plan.json", "submit.sh", "task.sh")


def make_plan(
    *,
    config: dict[str, Any] | None = None,
    inputs: tuple[PlannedInput, ...] = (),
    outputs: tuple[PlannedOutput, ...] = (),
    **placement: Any,
) -> Plan:
    """A plan of one step; keywords are fields of its placement."""
    recipe = Recipe("rl/nemo_rl/rlhf", "nemo_rl", "v0.6.0", config or {}, {}, {}, {}, placement.get("image"))
    given = {
        "backend": "slurm",
        "root": "ours",
        "launch": "python",
        "nodes": 1,
        "gpus_per_node": 0,
        "argv": ("true",),
        "environment": {},
        "profile": "cluster",
    }
    return Plan(recipe, Placement(**(given | placement)), inputs, outputs, "tiny", "tiny.yaml")


def make_run(parent: Path, launch: str, name: str | None = None) -> Path:
    """The directory of a run whose `launch.sh` is `launch`; without a name it gets one of its own."""
    directory = parent / (name or f"rl-rlhf-20261121-153742-{secrets.token_hex(4)}")
    directory.mkdir(parents=True)
    (directory / "launch.sh").write_text(launch)
    return directory


def part_of(directory: Path, part: int = 1, parts: int = 1) -> Submission:
    """What is to be submitted."""
    return Submission("slurm", "", directory.name, part=part, parts=parts, at="2026-01-01T00:00:00.000Z")
