"""What Lepton can be asked before anything is submitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nemotron.errors import nearest
from nemotron.findings import Finding
from nemotron.launch.lepton.api import Lepton, by_name
from nemotron.launch.lepton.options import LeptonOptions, read_options
from nemotron.profiles.check import Partition
from nemotron.profiles.profile import Profile


@dataclass(frozen=True)
class LeptonProbe:
    """Asks the workspace; every answer is a call of its own. Each may raise SchedulerError."""

    lepton: Lepton

    def partitions(self) -> Mapping[str, Partition]:
        """The node groups, by name."""
        return {group.name: Partition(group.name, group.nodes) for group in self.lepton.node_groups()}

    def accounts(self) -> tuple[str, ...] | None:
        """None: nothing is charged by name."""
        return None

    def start_time(self, profile: Profile) -> str | None:
        """None: nobody can tell."""
        return None

    def findings(self, options: Mapping[str, Any], nodes: int, gpus_per_node: int) -> Iterator[Finding]:
        """Node group, nodes, GPUs, shape, secrets and Ray cluster that the workspace does not have.

        options: of a placement, or the values of a profile; what is wrong with those themselves is not told.
        """
        read = read_options(options, [])
        if read is None:
            return
        yield from self._group_findings(read, nodes, gpus_per_node)
        yield from self._secret_findings(read)
        name = read.existing_ray_cluster
        if name is not None and self.lepton.cluster(name) is None:
            yield Finding("lepton.ray", "error", f"Lepton has no Ray cluster {name}", "existing_ray_cluster")

    def _group_findings(self, options: LeptonOptions, nodes: int, gpus: int) -> Iterator[Finding]:
        name = options.node_group
        if name is None:
            return
        groups = self.lepton.node_groups()
        group = by_name(groups, name)
        if group is None:
            known = [each.name for each in groups]
            what = f"Lepton has no node group {name}"
            yield Finding(
                "lepton.node_group", "error", what, "node_group", ", ".join(known), _close(name, known)
            )
            return
        there = self.lepton.nodes(group)
        count = len(there) or group.nodes
        if count is not None and nodes > count:
            what = f"{nodes} nodes are asked for, node group {name} has {count}"
            yield Finding("lepton.nodes", "error", what, "nodes", f"{count} at most")
        known_gpus = [each for each in there.values() if each is not None]
        if known_gpus and gpus > max(known_gpus):
            what = f"{gpus} GPUs a node are asked for, the nodes of {name} have {max(known_gpus)}"
            yield Finding("lepton.gpus", "error", what, "gpus_per_node", f"{max(known_gpus)} at most")
        shapes = self.lepton.shapes(group.id)
        for key in ("resource_shape", "head_resource_shape"):
            asked = getattr(options, key)
            if asked is not None and shapes is not None and asked not in shapes:
                what = f"node group {name} has no shape {asked}"
                yield Finding("lepton.shape", "error", what, key, ", ".join(shapes), _close(asked, shapes))

    def _secret_findings(self, options: LeptonOptions) -> Iterator[Finding]:
        if not options.secret_vars:
            return
        known = self.lepton.secrets()
        for variable, name in options.secret_vars.items():
            if name not in known:
                what = f"Lepton holds no secret {name}"
                fix = _close(name, known) or f"lep secret create --name {name} --value ..."
                yield Finding(
                    "lepton.secret", "error", what, f"secret_vars.{variable}", ", ".join(known), fix
                )


def _close(name: str, known: list[str] | tuple[str, ...]) -> str | None:
    found = nearest(name, known, 1)
    return f'did you mean "{found[0]}"?' if found else None
