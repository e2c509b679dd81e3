"""Every field of a job and of a Ray cluster that Lepton is told of, and how values are read into them.

The service takes unknown fields without a word, so nothing reaches it that is not a field here, of its kind.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, TypeVar

from nemotron.errors import nearest
from nemotron.findings import Finding
from nemotron.profiles.kinds import named

Model = TypeVar("Model")
# Field names that are words of Python.
_TRAILING = "_"


@dataclass(frozen=True)
class MountOptions:
    """How storage is mounted. local_cache_size_mib: of a cache on the node, in MiB."""

    read_only: bool | None = None
    local_cache_size_mib: int | None = None


@dataclass(frozen=True)
class Mount:
    """One mount: `path` of the storage that `from_` names, seen at `mount_path`."""

    path: str
    mount_path: str
    from_: str | None = None
    mount_options: MountOptions | None = None


@dataclass(frozen=True)
class SecretName:
    """A secret that Lepton holds, by its name there."""

    secret_name_ref: str


@dataclass(frozen=True)
class Variable:
    """A variable of the container: a value, or a secret's name."""

    name: str
    value: str | None = None
    value_from: SecretName | None = None


@dataclass(frozen=True)
class Affinity:
    """Where it may run: ids of node groups, and of nodes in them."""

    allowed_dedicated_node_groups: list[str] | None = None
    allowed_nodes_in_node_group: list[str] | None = None


@dataclass(frozen=True)
class Container:
    """The image, and the argument list that is started in it."""

    image: str
    command: list[str]


@dataclass(frozen=True)
class Queue:
    """Place in the queue. priority_class: such as `mid-4000`."""

    priority_class: str | None = None
    can_be_preempted: bool | None = None
    can_preempt: bool | None = None


@dataclass(frozen=True)
class Reservation:
    """Reserved nodes to run on."""

    reservation_id: str
    allow_burst_to_other_reservations: bool | None = None


@dataclass(frozen=True)
class SecurityContext:
    """The user of the container."""

    no_specific_user: bool | None = None
    privileged: bool | None = None


@dataclass(frozen=True)
class Metrics:
    """Whether metrics are pulled from the replicas."""

    disable_pulling_from_replica: bool | None = None


@dataclass(frozen=True)
class Log:
    """Whether the service keeps logs."""

    save_termination_logs: bool | None = None
    enable_collection: bool | None = None


@dataclass(frozen=True)
class TimeSchedule:
    """When it may start: seconds since the epoch."""

    start_at: int | None = None


@dataclass(frozen=True)
class Segments:
    """Nodes that have to be close to one another."""

    count_per_segment: int


@dataclass(frozen=True)
class JobSpec:
    """What a job is to be. Times are seconds, sizes MiB."""

    container: Container
    resource_shape: str | None = None
    affinity: Affinity | None = None
    shared_memory_size: int | None = None
    completions: int = 1
    parallelism: int = 1
    max_failure_retry: int | None = None
    max_job_failure_retry: int | None = None
    envs: list[Variable] | None = None
    mounts: list[Mount] | None = None
    image_pull_secrets: list[str] | None = None
    ttl_seconds_after_finished: int | None = None
    intra_job_communication: bool | None = None
    user_security_context: SecurityContext | None = None
    metrics: Metrics | None = None
    log: Log | None = None
    queue_config: Queue | None = None
    stopped: bool | None = None
    reservation_config: Reservation | None = None
    time_schedule: TimeSchedule | None = None
    segment_config: Segments | None = None


@dataclass(frozen=True)
class Metadata:
    """What it is called: `id_` is unique in a workspace."""

    id_: str
    name: str
    visibility: str | None = None


@dataclass(frozen=True)
class Job:
    """A job, as it is asked for."""

    metadata: Metadata
    spec: JobSpec


@dataclass(frozen=True)
class RayGroup:
    """Nodes of one kind in a Ray cluster, so many as `min_replicas`."""

    resource_shape: str | None = None
    affinity: Affinity | None = None
    shared_memory_size: int | None = None
    min_replicas: int = 1
    envs: list[Variable] | None = None
    mounts: list[Mount] | None = None
    queue_config: Queue | None = None
    reservation_config: Reservation | None = None
    user_security_context: SecurityContext | None = None
    group_name: str | None = None


@dataclass(frozen=True)
class RaySpec:
    """What a Ray cluster is to be."""

    image: str
    ray_version: str
    head_group_spec: RayGroup
    worker_group_specs: list[RayGroup] | None = None
    image_pull_secrets: list[str] | None = None
    suspend: bool = False


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster, as it is asked for."""

    metadata: Metadata
    spec: RaySpec


def payload(model: Any) -> Any:
    """A model as JSON; what is None is left out."""
    if is_dataclass(model):
        pairs = ((field.name.rstrip(_TRAILING), getattr(model, field.name)) for field in fields(model))
        return {name: payload(value) for name, value in pairs if value is not None}
    return [payload(each) for each in model] if isinstance(model, list) else model


def read(model: type[Model], value: Any, where: str, found: list[Finding]) -> Model | None:
    """A table as one of the models above; None when anything is wrong, which `found` is told, all at once."""
    if not isinstance(value, Mapping):
        found.append(Finding("lepton.kind", "error", f"must be a table, not {named(value)}", where))
        return None
    hints = typing.get_type_hints(model)
    names = {field.name.rstrip(_TRAILING): field for field in fields(model)}  # type: ignore[arg-type]
    before = len(found)
    for name in value:
        if name not in names:
            found.append(unknown(str(name), tuple(names), where))
    given: dict[str, Any] = {}
    for name, field in names.items():
        if name in value and value[name] is not None:
            given[field.name] = _value(hints[field.name], value[name], f"{where}.{name}", found)
        elif field.default is MISSING:
            found.append(Finding("lepton.missing", "error", f"{name} is missing", where, ", ".join(names)))
    return model(**given) if len(found) == before else None


def unknown(name: str, known: tuple[str, ...], where: str) -> Finding:
    """What is said of a key that is none."""
    close = nearest(name, known, 1)
    fix = f'did you mean "{close[0]}"?' if close else None
    shown = name if name.isprintable() and len(name) < 80 else repr(name)[:80]
    return Finding("lepton.unknown", "error", f"{shown} is no field of it", where, ", ".join(known), fix)


def _value(hint: Any, value: Any, where: str, found: list[Finding]) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(each for each in typing.get_args(hint) if each is not type(None))
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return read(hint, value, where, found)
    if typing.get_origin(hint) is list:
        if not isinstance(value, list | tuple):
            found.append(Finding("lepton.kind", "error", f"must be a list, not {named(value)}", where))
            return None
        (item,) = typing.get_args(hint)
        return [_value(item, each, f"{where}.{number}", found) for number, each in enumerate(value)]
    wrong = _wrong(hint, value)
    if wrong:
        found.append(Finding("lepton.kind", "error", wrong, where))
    return value


_WANTED = {str: "text", int: "a whole number", bool: "true or false"}


def _wrong(kind: type, value: Any) -> str | None:
    """What is wrong with a plain value; None when nothing is."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return f"must be {_WANTED[kind]}, not {named(value)}"
    if isinstance(value, str):
        return wrong_text(value)
    if isinstance(value, int) and not isinstance(value, bool) and value < 0:
        return f"must be 0 or more, not {value}"
    assert not isinstance(value, float) or math.isfinite(value)
    return None


def wrong_text(value: str) -> str | None:
    """Why no name or path of Lepton's can be this text; None where it can."""
    if not value or value != value.strip():
        return "must not be empty, nor begin or end with a space"
    if not value.isprintable():
        return f"holds a control character: {value[:60]!r}"
    return f"is longer than a name can be ({len(value)} characters)" if len(value) > 1024 else None
