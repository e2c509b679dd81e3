"""What can be told wrong of a plan without asking Lepton."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from nemotron.errors import NemotronError
from nemotron.findings import Finding
from nemotron.launch.lepton.options import LeptonOptions, lepton_options
from nemotron.launch.secret_values import secret_values
from nemotron.launch.slurm.checks import mount_findings
from nemotron.launch.slurm.container import is_below
from nemotron.planning.plan import Placement, Plan


def lepton_findings(plan: Plan) -> Iterator[Finding]:
    """Everything, errors and warnings. Raises UsageError for options that cannot be read."""
    options = lepton_options(plan.placement)
    yield from _shape_findings(plan.placement, options)
    yield from _storage_findings(plan.placement, options)
    yield from _order_findings(plan)
    yield from _ignored_findings(plan.placement)
    yield from _secret_findings(plan, options)
    yield from mount_findings(plan)


def secrets_without_name(plan: Plan, options: LeptonOptions, known: frozenset[str]) -> tuple[str, ...]:
    """Secrets of a plan that are set (`known`) and that Lepton is not told a name for."""
    named = options.secret_vars or {}
    return tuple(name for name in plan.placement.secrets if name in known and name not in named)


def secret_fix(plan: Plan, names: tuple[str, ...]) -> str:
    """What to type, and to write into the profile."""
    first = names[0]
    return (
        f"lep secret create --name {first.lower().replace('_', '-')} --value ..., and in the profile "
        f'{plan.placement.profile}: secret_vars = {{ {first} = "{first.lower().replace("_", "-")}" }}'
    )


def _shape_findings(placement: Placement, options: LeptonOptions) -> Iterator[Finding]:
    if not placement.image:
        what = "a job on Lepton needs an image, and neither the step nor the profile names one"
        yield Finding("lepton.image", "error", what, "container_image", fix="run.env.container_image=...")
    if placement.nodes < 1 or placement.gpus_per_node < 0:
        what = f"{placement.nodes} nodes with {placement.gpus_per_node} GPUs each are no allocation"
        yield Finding("lepton.shape", "error", what, "nodes", "1 node or more")
    if placement.launch == "python" and placement.nodes > 1:
        what = f"the step starts once, on the first node; the other {placement.nodes - 1} would wait for it"
        yield Finding("lepton.idle_nodes", "warning", what, "nodes", "1", "nodes = 1")
    own, asked = options.gpus_of_shape, placement.gpus_per_node
    if options.resource_shape is None and not options.existing_ray_cluster:
        what = "no resource_shape: which nodes it gets is not said"
        fix = f'resource_shape = "gpu.{asked}xh100-80gb"' if asked else 'resource_shape = "cpu.large"'
        yield Finding("lepton.shape", "error", what, "resource_shape", fix=fix)
    elif own is not None and asked > own:
        what = f"{asked} GPUs a node are asked for, {options.resource_shape} has {own}"
        yield Finding("lepton.shape", "error", what, "resource_shape", f"a shape with {asked} GPUs or more")
    elif own and own > asked and not placement.stub:
        what = f"{options.resource_shape} has {own} GPUs, and the step uses {asked} of each node"
        yield Finding("lepton.shape", "warning", what, "resource_shape")
    if options.node_group is None and not options.existing_ray_cluster:
        what = "no node_group: the mounts of one node group need not be those of another"
        yield Finding("lepton.node_group", "warning", what, "node_group", fix='node_group = "..."')
    if placement.launch == "ray":
        yield from _ray_findings(placement, options)
    elif options.ray:
        what = f"the step is launched by {placement.launch}: no Ray cluster is made for it"
        yield Finding("lepton.ray", "warning", what, "ray_version")


def _ray_findings(placement: Placement, options: LeptonOptions) -> Iterator[Finding]:
    if not options.ray:
        what = "the job brings up Ray on its own nodes; with ray_version it gets a Ray cluster of Lepton's"
        yield Finding("lepton.own_ray", "note", what, "ray_version")
        return
    if options.ray_version is None and options.existing_ray_cluster is None:
        what = "a Ray cluster needs the version of Ray that is in the image"
        yield Finding("lepton.ray", "error", what, "ray_version", fix='ray_version = "2.49.2"')
    if options.through_nemo_run:
        what = "a Ray cluster is not made through nemo-run, which would not check whom it sends the token to"
        yield Finding("lepton.ray", "error", what, "launcher", fix='leave launcher = "nemo_run" out')
    if not placement.attached and options.existing_ray_cluster is None:
        what = "the Ray cluster stays until somebody asks for the run after its end, and costs until then"
        fix = "attach (-r), or leave ray_version out: then all ends with the job"
        yield Finding("lepton.cluster_stays", "warning", what, "ray_version", fix=fix)


def _storage_findings(placement: Placement, options: LeptonOptions) -> Iterator[Finding]:
    targets = [mount.mount_path for mount in options.mounts]
    valid = ", ".join(targets) or None
    if not targets:
        what = "no mounts: the directories of runs have to be on storage that stays"
        fix = 'mounts = [{ path = "/", mount_path = "/mnt/shared", from = "node-nfs:NAME" }]'
        yield Finding("lepton.mounts", "error", what, "mounts", fix=fix)
    elif not any(is_below(options.root, target) for target in targets):
        what = f"nemo_run_dir {options.root} is below no mount: it would be gone with the job"
        yield Finding("lepton.mounts", "error", what, "nemo_run_dir", valid)
    doubled = [target for target in dict.fromkeys(targets) if targets.count(target) > 1]
    for target in doubled:
        yield Finding("lepton.mounts", "error", f"two mounts at {target}", "mounts")
    if placement.run_root is not None and not options.launched_from_cluster:
        what = f"remote_job_dir {placement.run_root} would be made here; on Lepton nemo_run_dir counts"
        fix = "leave remote_job_dir out, or on a machine that sees the storage: launched_from_cluster = true"
        yield Finding("lepton.remote_job_dir", "error", what, "remote_job_dir", fix=fix)


def _order_findings(plan: Plan) -> Iterator[Finding]:
    if plan.placement.chain > 1:
        what = (
            f"a job on Lepton has no end: {plan.placement.chain} allocations after one another make no sense"
        )
        yield Finding("lepton.chain", "error", what, "chain", "1")
    for each in plan.inputs:
        if each.state == "to_build" or (each.state == "late" and each.made_by):
            what = f"input {each.port} is not made yet, and no job on Lepton can wait for another"
            fix = (
                "run what makes it, nemotron runs wait RUN, then the same command with "
                f"-i {each.port}=PATH, where nemotron runs show RUN says that it is"
            )
            yield Finding("lepton.waits", "error", what, each.key, fix=fix)


def _ignored_findings(placement: Placement) -> Iterator[Finding]:
    if placement.setup:
        what = "setup_lines have no effect: on Lepton there is nothing outside the container"
        yield Finding("lepton.setup", "warning", what, "setup_lines", fix="startup_commands = [...]")
    if placement.options.get("patched"):
        what = "patched has no effect on Lepton: a checkout has to be on the storage, under a mount"
        yield Finding(
            "lepton.patched", "warning", what, "patched", fix="mounts = [...] over the image's own code"
        )


def _secret_findings(plan: Plan, options: LeptonOptions) -> Iterator[Finding]:
    try:
        known = frozenset(secret_values(plan, os.environ, Path.cwd()))
    except NemotronError:
        known = frozenset()  # what is not set stops the submission, not a look at it
    names = secrets_without_name(plan, options, known)
    if names:
        what = (
            f"{', '.join(names)} has to be a secret that Lepton holds; none is made of yours unasked, since "
            "everybody in the workspace could use it"
        )
        yield Finding("lepton.secret", "error", what, "secret_vars", fix=secret_fix(plan, names))
