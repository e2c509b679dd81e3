"""What can be told wrong of a plan without asking Slurm: its shape, and paths no container would see."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from nemotron.errors import NemotronError, UsageError
from nemotron.findings import Finding
from nemotron.launch.slurm.container import is_below, refuse_in_mount
from nemotron.launch.ssh.place import ROOT, site_of
from nemotron.planning.plan import Placement, Plan

# sbatch keeps the seconds of --signal in 16 bits.
_LONGEST_SIGNAL = 65535
_RUN_DIR = "{run_dir}"
# Directories that an image has of its own: a path there says nothing of the cluster.
_IN_IMAGES = ("/opt", "/usr", "/root", "/tmp", "/var", "/dev", "/proc", "/sys", "/etc", "/bin", "/workspace")
# Below these, what is shared is one directory further down.
_WIDE = ("home", "mnt", "media", "srv", "net", "data", "scratch")
_PLACE_NAMES = re.compile(r"(?:^|_)(?:HOME|CACHE|DIR|ROOT|WORKSPACE|PATH)$", re.ASCII)
_PATH = re.compile(r"/[^/\s:]+(?:/[^/\s:]+)+/?")


def slurm_findings(plan: Plan) -> Iterator[Finding]:
    """Everything, errors and warnings."""
    placement = plan.placement
    yield from _shape_findings(placement)
    yield from _option_findings(placement)
    if placement.image is not None:
        yield from mount_findings(plan)


def _shape_findings(placement: Placement) -> Iterator[Finding]:
    if placement.nodes < 1 or placement.gpus_per_node < 0:
        what = f"{placement.nodes} nodes with {placement.gpus_per_node} GPUs each are no allocation"
        yield Finding("slurm.shape", "error", what, "nodes", "1 node or more")
    if placement.launch == "python" and placement.nodes > 1:
        what = f"the step starts once, on the first node; the other {placement.nodes - 1} would wait for it"
        fix = "nodes = 1, or a step that is launched by torchrun or ray"
        yield Finding("slurm.idle_nodes", "warning", what, "nodes", "1", fix)


def _option_findings(placement: Placement) -> Iterator[Finding]:
    options = placement.options
    before = placement.save_before
    if before is not None and before > _LONGEST_SIGNAL:
        what = f"Slurm signals at most {_LONGEST_SIGNAL} s before the end, not {before} s"
        yield Finding("slurm.signal", "error", what, "must_save_before", f"{_LONGEST_SIGNAL // 60} at most")
    name = str(options.get("signal") or "").partition("@")[0].rpartition(":")[2]
    if name not in ("", "USR1", "SIGUSR1"):
        what = f"a job is told to save by SIGUSR1, not by {name}; the time counts"
        yield Finding("slurm.signal_name", "warning", what, "signal", "USR1@SECONDS")
    if placement.chain > 1 and before is None:
        what = f"{placement.chain} allocations in a row, and the first has no end"
        yield Finding("slurm.endless_chain", "warning", what, "chain", "a time limit", 'time = "04:00:00"')
    if options.get("ntasks_per_node") not in (None, 1):
        what = "one task a node is started; the framework starts the others"
        yield Finding("slurm.tasks", "warning", what, "ntasks_per_node", "1")
    yield from _tunnel_findings(placement)
    if options.get("force_squash") and not options.get("build_cache_dir"):
        what = "no image is kept that could be imported again: every job imports its own"
        fix = 'build_cache_dir = "/lustre/images" keeps imported images'
        yield Finding("slurm.force_squash", "warning", what, "build_cache_dir", fix=fix)
    if options.get("ray_sub") and placement.launch != "ray":
        what = f"ray.sub has no effect: the step is launched by {placement.launch}"
        yield Finding("slurm.ray_sub", "warning", what, "ray_sub")


def _tunnel_findings(placement: Placement) -> Iterator[Finding]:
    if not placement.options.get("tunnel"):
        return
    try:
        site_of({**placement.options, ROOT: placement.run_root})
    except UsageError as problem:
        yield Finding("slurm.tunnel", "error", problem.what, problem.where, fix=problem.next)
    if shutil.which("ssh") is None:
        what = "the login node is reached by ssh, and there is no ssh on PATH"
        yield Finding("slurm.tunnel", "error", what, "tunnel", fix="install OpenSSH's client")


def mount_findings(plan: Plan) -> Iterator[Finding]:
    placement = plan.placement
    if placement.run_root is not None:
        try:
            refuse_in_mount(placement.run_root)
        except NemotronError as problem:
            yield Finding("mount.path", "error", problem.what, "remote_job_dir", fix=problem.next)
    targets = [mount.split(":")[1] for mount in placement.mounts if mount.count(":")]
    if placement.run_root is not None:
        targets.append(placement.run_root)
    told: set[str] = set()
    for where, path in _paths(plan):
        if path not in told and not any(is_below(path, target) for target in targets):
            told.add(path)
            what = f"{path} is below no mount, and the container would not see it"
            top = _top(path)
            fix = f'mounts = ["{top}:{top}"] in the profile {placement.profile}'
            yield Finding("mount.uncovered", "error", what, where, ", ".join(targets) or None, fix)


def _paths(plan: Plan) -> Iterator[tuple[str, str]]:
    """Where each absolute path is written, and the path; what earlier runs left is mounted anyway."""
    placement = plan.placement
    for output in plan.outputs:
        if output.path.startswith("/"):
            yield output.key or f"output {output.port}", output.path
    if not placement.stub:
        for each in plan.inputs:
            if each.path is not None and each.made_by is None and each.path.startswith("/"):
                yield each.key or f"input {each.port}", each.path
        for config in (plan.recipe.config, placement.config):
            yield from _config_paths(config, "")
    for name, value in placement.environment.items():
        if _PLACE_NAMES.search(name) and _is_of_cluster(value):
            yield f"env_vars.{name}", value.rstrip("/")


def _config_paths(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _config_paths(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _config_paths(inner, f"{key}.{number}")
    elif isinstance(value, str) and _is_of_cluster(value):
        yield key, value.rstrip("/")


def _is_of_cluster(text: str) -> bool:
    """Whether a text is a path that an image cannot have of itself."""
    return (
        _PATH.fullmatch(text) is not None
        and _RUN_DIR not in text
        and not any(is_below(text, own) for own in _IN_IMAGES)
    )


def _top(path: str) -> str:
    parts = path.split("/")
    return "/".join(parts[: 3 if parts[1] in _WIDE and len(parts) > 3 else 2])
