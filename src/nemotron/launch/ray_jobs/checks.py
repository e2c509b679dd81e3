"""What can be told wrong of a plan for a Ray cluster without asking it."""

from __future__ import annotations

from collections.abc import Iterator

from nemotron.errors import UsageError
from nemotron.findings import Finding
from nemotron.launch.ray_jobs.api import api_address
from nemotron.planning.plan import Plan

_NO_TEXT = "of the cluster"


def ray_findings(plan: Plan) -> Iterator[Finding]:
    """Errors and warnings."""
    placement = plan.placement
    try:
        api_address(placement.options.get("address"))
    except UsageError as problem:
        yield Finding("ray.address", "error", problem.what, problem.where, fix=problem.next)
    if placement.nodes < 1 or placement.gpus_per_node < 0:
        what = f"{placement.nodes} nodes with {placement.gpus_per_node} GPUs each are no share of a cluster"
        yield Finding("ray.shape", "error", what, "nodes", "1 node or more")
    if placement.launch != "ray" and placement.nodes > 1:
        what = f"a Ray job is one process on one node, and {placement.launch} on {placement.nodes} needs more"
        fix = "nodes = 1, a step that is launched by Ray, or a profile for Slurm"
        yield Finding("ray.nodes", "error", what, "nodes", "1", fix)
    if placement.chain > 1:
        what = f"a Ray job has no end in time: the other {placement.chain - 1} would have nothing to do"
        yield Finding("ray.chain", "error", what, "chain", "1", "leave --chain out")
    if placement.image is not None:
        what = f"{placement.image} is not started: a job has what is installed on the nodes of the cluster"
        yield Finding("ray.image", "warning", what, "container_image", fix="start the cluster in that image")
    if placement.mounts:
        yield Finding("ray.mounts", "warning", "nothing is mounted: jobs see what nodes see", "mounts")
