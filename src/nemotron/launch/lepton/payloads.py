"""What is asked for, put together: the job of a run, a mover, a Ray cluster and what it is to start."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nemotron.launch.lepton.fields import (
    Affinity,
    Container,
    Job,
    JobSpec,
    Metadata,
    RayCluster,
    RayGroup,
    RaySpec,
    SecretName,
    Variable,
    payload,
)
from nemotron.launch.lepton.node_script import JOB, MARK, NODE_SCRIPT
from nemotron.launch.lepton.options import LeptonOptions
from nemotron.launch.lepton.ship import MOVER_IMAGE, MOVER_SHAPE
from nemotron.planning.plan import Placement

PAYLOAD = "lepton.json"
_PRIVATE = "private"
# For how long the service keeps a job that has ended: a weekend, so that its end can be asked for on Monday.
_KEPT_SECONDS, _MOVER_KEPT_SECONDS = 3 * 24 * 3600, 600


@dataclass(frozen=True)
class Asked:
    """One submission: what it is called, where its run is, and the mark of what its job tells."""

    job: str
    run: str
    directory: str
    mark: str
    group: str | None = None

    @property
    def command(self) -> list[str]:
        """All that is ever started: one fixed script of the run directory."""
        return ["bash", f"{self.directory}/{NODE_SCRIPT}"]


def job_payload(placement: Placement, options: LeptonOptions, asked: Asked) -> dict[str, Any]:
    """The job of a run. The environment of the plan is in the run directory, secrets go by their names."""
    more = dict(options.more or {})
    spec = JobSpec(
        container=Container(str(placement.image), asked.command),
        resource_shape=options.resource_shape,
        affinity=_affinity(asked),
        shared_memory_size=options.shared_memory_size,
        completions=placement.nodes,
        parallelism=placement.nodes,
        envs=[Variable(JOB, asked.job), Variable(MARK, asked.mark), *_secrets(options)],
        mounts=list(options.mounts),
        image_pull_secrets=list(options.image_pull_secrets) or None,
        ttl_seconds_after_finished=_KEPT_SECONDS,
        intra_job_communication=True,
        queue_config=options.queue,
        reservation_config=options.reservation,
    )
    made: dict[str, Any] = payload(Job(Metadata(asked.job, asked.job, _PRIVATE), replace(spec, **more)))
    return made


def mover_payload(
    name: str, command: Sequence[str], options: LeptonOptions, group: str | None
) -> dict[str, Any]:
    """A job that carries a part of the bundle; no variable of the run's is in it."""
    spec = JobSpec(
        container=Container(MOVER_IMAGE, list(command)),
        resource_shape=MOVER_SHAPE,
        affinity=Affinity([group]) if group else None,
        mounts=list(options.mounts),
        ttl_seconds_after_finished=_MOVER_KEPT_SECONDS,
        reservation_config=options.reservation,
    )
    made: dict[str, Any] = payload(Job(Metadata(name, name, _PRIVATE), spec))
    return made


def cluster_payload(placement: Placement, options: LeptonOptions, asked: Asked) -> dict[str, Any]:
    """A Ray cluster of a run's own. The head is one of the nodes, unless it has a shape of its own."""
    own_head = options.head_resource_shape is not None
    head = RayGroup(
        resource_shape=options.head_resource_shape or options.resource_shape,
        affinity=_affinity(asked),
        shared_memory_size=options.shared_memory_size,
        envs=_secrets(options) or None,
        mounts=list(options.mounts),
        queue_config=options.queue,
        reservation_config=options.reservation,
    )
    workers = placement.nodes if own_head else placement.nodes - 1
    group = replace(head, resource_shape=options.resource_shape, min_replicas=workers, group_name="workers")
    spec = RaySpec(
        image=str(placement.image),
        ray_version=str(options.ray_version),
        head_group_spec=head,
        worker_group_specs=[group] if workers else None,
        image_pull_secrets=list(options.image_pull_secrets) or None,
    )
    made: dict[str, Any] = payload(RayCluster(Metadata(asked.job, asked.job, _PRIVATE), spec))
    return made


def ray_job_payload(asked: Asked) -> dict[str, Any]:
    """What the Jobs API of a Ray cluster is asked to start."""
    variables = {JOB: asked.job, MARK: asked.mark, "NEMOTRON_RAY": "external"}
    return {
        "entrypoint": " ".join(asked.command),
        "submission_id": asked.job,
        "runtime_env": {"env_vars": variables},
        "metadata": {"run": asked.run},
    }


def shown(made: Mapping[str, Any]) -> str:
    """A payload as a person reads it."""
    return json.dumps(made, indent=2, sort_keys=True) + "\n"


def _secrets(options: LeptonOptions) -> list[Variable]:
    named = sorted((options.secret_vars or {}).items())
    return [Variable(name, value_from=SecretName(secret)) for name, secret in named]


def _affinity(asked: Asked) -> Affinity | None:
    return Affinity([asked.group]) if asked.group else None
