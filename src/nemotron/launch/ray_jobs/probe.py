"""What a Ray cluster can be asked before anything is submitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nemotron.errors import SchedulerError
from nemotron.findings import Finding
from nemotron.job.nodes.ray_cluster import MARK
from nemotron.launch.ray_jobs.api import Jobs
from nemotron.profiles.check import Partition
from nemotron.profiles.profile import Profile

_MOST_NODES = 10_000


@dataclass(frozen=True)
class RayProbe:
    """Asks the cluster; every answer is a call of its own."""

    jobs: Jobs

    def nodes(self) -> list[Mapping[str, float]]:
        """The resources of each node that is alive. Raises SchedulerError."""
        said = self.jobs.get(f"/api/v0/nodes?limit={_MOST_NODES}")
        try:
            listed = said["data"]["result"]["result"]
            return [each["resources_total"] for each in listed if each["state"] == "ALIVE"]
        except (KeyError, TypeError) as problem:
            raise SchedulerError("it does not tell its nodes", where=self.jobs.address) from problem

    def partitions(self) -> Mapping[str, Partition]:
        """None: a cluster is not divided."""
        return {}

    def accounts(self) -> tuple[str, ...] | None:
        """None: nobody is charged."""
        return None

    def start_time(self, profile: Profile) -> str | None:
        """None: jobs begin when what they ask for is free."""
        return None

    def findings(self, options: Mapping[str, Any], nodes: int, gpus_per_node: int) -> Iterator[Finding]:
        """Nodes and GPUs that the cluster does not have: such a job would wait for ever."""
        there = self.nodes()
        gpus = sorted((int(each.get("GPU", 0)) for each in there), reverse=True)
        enough = sum(1 for count in gpus if count >= gpus_per_node)
        if enough < nodes:
            shape = f" with {gpus_per_node} GPUs" if gpus_per_node else ""
            what = f"{nodes} nodes{shape} are asked for, the Ray cluster has {enough} such of {len(there)}"
            has = ", ".join(map(str, gpus)) or "none"
            key = "nodes" if len(there) < nodes else "gpus_per_node"
            yield Finding("ray.shape", "error", what, key, f"GPUs of its nodes: {has}")
        marked = any(MARK in each for each in there)
        if options.get("engine") == "nemo_rl" and not marked:
            what = f"no node has the resource {MARK}: NeMo-RL would start a cluster of its own"
            fix = f"""ray start ... --resources='{{"{MARK}": 1}}' on every node"""
            yield Finding("ray.mark", "warning", what, "address", fix=fix)
