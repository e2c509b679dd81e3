"""What a plan asks of Lepton, read strictly: everything that is wrong is told at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemotron.errors import NemotronError, UsageError, nearest
from nemotron.findings import Finding
from nemotron.launch.lepton.fields import JobSpec, Mount, Queue, Reservation, read, unknown, wrong_text
from nemotron.launch.lepton.names import safe_path
from nemotron.planning.plan import Placement
from nemotron.profiles.keys import keys_of
from nemotron.profiles.kinds import is_variable, named

NEMO_RUN = "nemo_run"
_SHAPE_GPUS = re.compile(r"gpu\.(\d+)x", re.ASCII)
_VERSION = re.compile(r"\d+(\.\d+){1,3}", re.ASCII)
# Fields of a job that have keys of their own, and which those are.
_OWN_KEYS: Mapping[str, str] = {
    "resource_shape": "resource_shape",
    "affinity": "node_group",
    "container": "container_image",
    "shared_memory_size": "shared_memory_size",
    "completions": "nodes",
    "parallelism": "nodes",
    "envs": "env_vars, secret_vars",
    "mounts": "mounts",
    "image_pull_secrets": "image_pull_secrets",
    "queue_config": "queue_priority, can_preempt, can_be_preempted",
    "reservation_config": "node_reservation",
}
# Not the profile's: a job that begins as a stopped one would never end.
_NOT_GIVEN = ("stopped",)
_NAMES = ("node_group", "node_reservation", "resource_shape", "head_resource_shape", "queue_priority")
_FLAGS = ("can_preempt", "can_be_preempted", "launched_from_cluster")
_CLUSTER_KEYS = ("ray_version", "head_resource_shape", "existing_ray_cluster")


@dataclass(frozen=True)
class LeptonOptions:
    """The options of a Lepton profile, of their kinds.

    root: directory on shared storage for the directories of runs, as the container sees it. more: fields of
    the job beyond those that have keys. through_nemo_run: whether nemo-run is to submit it.
    ray: whether a Ray cluster of Lepton's is asked for; without, a job brings up Ray on its own nodes.
    """

    root: str
    mounts: tuple[Mount, ...] = ()
    node_group: str | None = None
    node_reservation: str | None = None
    resource_shape: str | None = None
    head_resource_shape: str | None = None
    shared_memory_size: int | None = None
    image_pull_secrets: tuple[str, ...] = ()
    secret_vars: Mapping[str, str] | None = None
    pre_launch_commands: tuple[str, ...] = ()
    queue: Queue | None = None
    launched_from_cluster: bool = False
    ray_version: str | None = None
    existing_ray_cluster: str | None = None
    more: Mapping[str, Any] | None = None
    through_nemo_run: bool = False
    pip_extras: tuple[str, ...] = ()

    @property
    def ray(self) -> bool:
        """Whether a Ray cluster of Lepton's is asked for."""
        return any(getattr(self, name) for name in _CLUSTER_KEYS)

    @property
    def reservation(self) -> Reservation | None:
        """The reservation as Lepton takes it."""
        return Reservation(self.node_reservation) if self.node_reservation else None

    @property
    def gpus_of_shape(self) -> int | None:
        """GPUs of a node, as the name of its shape tells; None where it tells none."""
        found = _SHAPE_GPUS.match(self.resource_shape or "")
        return int(found[1]) if found else (0 if (self.resource_shape or "").startswith("cpu.") else None)


def lepton_options(placement: Placement) -> LeptonOptions:
    """The options of a placement. Raises UsageError with all that is wrong as its findings."""
    found: list[Finding] = []
    options = read_options(placement.options, found)
    if found or options is None:
        first = found[0]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise UsageError(
            f"{first.where}: {first.message}{more}",
            where=f"profile {placement.profile}",
            nearest=(first.fix,) if first.fix else (),
            findings=found,
        )
    return options


def read_options(given: Mapping[str, Any], found: list[Finding]) -> LeptonOptions | None:
    """As `lepton_options`, of a profile's values; None when anything is wrong, which `found` is told."""
    before = len(found)
    for name in given:
        if name not in keys_of("lepton"):
            found.append(unknown(name, tuple(keys_of("lepton")), name))
    texts: dict[str, Any] = {name: _text(given.get(name), name, found) for name in _NAMES}
    flags = {name: _flag(given.get(name), name, found) for name in _FLAGS}
    mounts = tuple(filter(None, (_mount(m, n, found) for n, m in enumerate(_list(given, "mounts", found)))))
    made = LeptonOptions(
        root=_root(given, found),
        mounts=mounts,
        node_group=texts["node_group"],
        node_reservation=texts["node_reservation"],
        resource_shape=texts["resource_shape"],
        head_resource_shape=texts["head_resource_shape"],
        shared_memory_size=_size(given.get("shared_memory_size"), found),
        image_pull_secrets=_texts(given, "image_pull_secrets", found),
        secret_vars=_secret_vars(given.get("secret_vars"), found),
        pre_launch_commands=_lines(given, "pre_launch_commands", found),
        queue=_queue(texts["queue_priority"], flags, found),
        launched_from_cluster=bool(flags["launched_from_cluster"]),
        ray_version=_version(given.get("ray_version"), found),
        existing_ray_cluster=_text(given.get("existing_ray_cluster"), "existing_ray_cluster", found),
        more=_custom_spec(given.get("custom_spec"), found),
        through_nemo_run=given.get("launcher") == NEMO_RUN,
        pip_extras=_texts(given, "pip_extras", found),
    )
    return made if len(found) == before else None


def _root(given: Mapping[str, Any], found: list[Finding]) -> str:
    value = given.get("nemo_run_dir")
    if not value:
        fix = 'nemo_run_dir = "/mnt/shared/nemo_run"'
        found.append(Finding("lepton.missing", "error", "is missing", "nemo_run_dir", fix=fix))
        return "/"
    try:
        return safe_path(str(value), "nemo_run_dir")
    except NemotronError as problem:
        found.append(Finding("lepton.path", "error", problem.what, "nemo_run_dir", ", ".join(problem.valid)))
        return "/"


def _mount(given: Any, number: int, found: list[Finding]) -> Mount | None:
    """A mount: a table as Lepton has it, or `SRC:DST[:ro]`."""
    where = f"mounts.{number}"
    if isinstance(given, str):
        source, _, rest = given.partition(":")
        target, _, options = rest.partition(":")
        given = {"path": source, "mount_path": target} | ({"mount_options": options} if options else {})
    if isinstance(given, Mapping) and "mount_options" in given:
        options = _mount_options(given["mount_options"], f"{where}.mount_options", found)
        given = {**given, "mount_options": options}
    mount = read(Mount, given, where, found)
    for name in ("path", "mount_path"):
        if mount is not None and not getattr(mount, name).startswith("/"):
            what = f"{name} must be an absolute path, not {getattr(mount, name)[:80]!r}"
            found.append(Finding("lepton.mount", "error", what, where))
    return mount


def _mount_options(given: Any, where: str, found: list[Finding]) -> Any:
    """Options as texts (`ro`, `local_cache_size_mib=1024`) in Lepton's own words; tables stay."""
    if isinstance(given, Mapping):
        return given
    words = re.split(r"[+,]", given) if isinstance(given, str) else list(given or ())
    made: dict[str, Any] = {}
    for word in filter(None, words):
        name, _, value = str(word).partition("=")
        if word in ("ro", "rw"):
            made["read_only"] = word == "ro"
        elif name == "local_cache_size_mib" and value.isdecimal():
            made[name] = int(value)
        else:
            close = nearest(str(word), ("ro", "rw", "local_cache_size_mib"), 1)
            fix = f"did you mean {close[0]}?" if close else None
            what = f"{str(word)[:60]!r} is no option of a mount"
            valid = "ro, rw, local_cache_size_mib=MIB"
            found.append(Finding("lepton.mount", "error", what, where, valid, fix))
    return made


def _custom_spec(given: Any, found: list[Finding]) -> Mapping[str, Any] | None:
    """Fields of a job that have no key of their own, read as the model has them."""
    if not given:
        return None
    where = "custom_spec"
    if not isinstance(given, Mapping):
        found.append(Finding("lepton.kind", "error", f"must be a table, not {named(given)}", where))
        return None
    own = [name for name in given if name in _OWN_KEYS or name in _NOT_GIVEN]
    for name in own:
        key = _OWN_KEYS.get(name)
        what = f"{name} is set by {key}" if key else f"{name} is not for a profile to say"
        found.append(Finding("lepton.custom_spec", "error", what, f"{where}.{name}", key))
    asked = {name: value for name, value in given.items() if name not in own}
    # What every job has is filled in by us; here only the kinds of the others count.
    base = {"container": {"image": "any", "command": ["any"]}}
    spec = read(JobSpec, {**base, **asked}, where, found)
    return {name: getattr(spec, name) for name in asked} if spec is not None else None


def _secret_vars(given: Any, found: list[Finding]) -> Mapping[str, str]:
    if not given:
        return {}
    where = "secret_vars"
    if not isinstance(given, Mapping):
        found.append(Finding("lepton.kind", "error", f"must be a table, not {named(given)}", where))
        return {}
    for name, secret in given.items():
        if not is_variable(str(name)):
            what = f"{str(name)[:60]!r} is no name of a variable"
            found.append(Finding("lepton.secret_vars", "error", what, where))
        elif not isinstance(secret, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", secret):
            # Not shown: who mistook this for the place of the value would have it in a log.
            what = f"{name}: this is no name of a secret that Lepton holds"
            fix = f'lep secret list; then {name} = "NAME". The value itself belongs nowhere here'
            found.append(Finding("lepton.secret_vars", "error", what, f"{where}.{name}", fix=fix))
    return dict(given)


def _queue(priority: str | None, flags: Mapping[str, bool | None], found: list[Finding]) -> Queue | None:
    asked = Queue(priority, flags["can_be_preempted"], flags["can_preempt"])
    if priority is None and (asked.can_be_preempted or asked.can_preempt):
        what = "is needed where can_preempt or can_be_preempted is true"
        fix = 'queue_priority = "mid-4000"'
        found.append(Finding("lepton.missing", "error", what, "queue_priority", fix=fix))
    return None if asked == Queue() else asked


def _version(given: Any, found: list[Finding]) -> str | None:
    if given in (None, ""):
        return None
    if not isinstance(given, str) or not _VERSION.fullmatch(given):
        what = f"must be a version such as 2.49.2, not {named(given)}"
        found.append(Finding("lepton.kind", "error", what, "ray_version"))
        return None
    return given


def _size(given: Any, found: list[Finding]) -> int | None:
    if given in (None, "", 0):
        return None
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        what = f"must be MiB as a whole number, not {named(given)}"
        found.append(Finding("lepton.kind", "error", what, "shared_memory_size"))
        return None
    return given


def _text(given: Any, name: str, found: list[Finding]) -> str | None:
    if given in (None, ""):
        return None
    wrong = wrong_text(given) if isinstance(given, str) else f"must be text, not {named(given)}"
    if wrong:
        found.append(Finding("lepton.kind", "error", wrong, name))
        return None
    return str(given)


def _flag(given: Any, name: str, found: list[Finding]) -> bool | None:
    if given in (None, ""):
        return None
    if not isinstance(given, bool):
        found.append(Finding("lepton.kind", "error", f"must be true or false, not {named(given)}", name))
        return None
    return given


def _list(given: Mapping[str, Any], name: str, found: list[Finding]) -> list[Any]:
    value = given.get(name) or []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple):
        found.append(Finding("lepton.kind", "error", f"must be a list, not {named(value)}", name))
        return []
    return list(value)


def _texts(given: Mapping[str, Any], name: str, found: list[Finding]) -> tuple[str, ...]:
    each = (_text(v, f"{name}.{n}", found) for n, v in enumerate(_list(given, name, found)))
    return tuple(text for text in each if text)


def _lines(given: Mapping[str, Any], name: str, found: list[Finding]) -> tuple[str, ...]:
    """Shell lines, as they stand there."""
    lines = _list(given, name, found)
    for number, line in enumerate(lines):
        if not isinstance(line, str) or "\0" in line:
            what = f"must be a shell line, not {named(line)}"
            found.append(Finding("lepton.kind", "error", what, f"{name}.{number}"))
    return tuple(line for line in lines if isinstance(line, str))
