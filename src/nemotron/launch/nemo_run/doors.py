"""nemo-run's executors, each handed one fixed command; imported when something is submitted, never before.

What an executor is given is checked here: it builds shell lines without quoting, rewrites `$$` and `${...}`,
and writes variables in clear. So it gets no environment, no secret and no word that a shell reads anything
into; those are in the run directory, which the nodes have to see.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nemotron.artifacts.submissions import JobState, JobStatus
from nemotron.errors import SchedulerError, UsageError
from nemotron.planning.plan import Placement

# Characters that stay what they are in every shell and in every template of nemo-run's.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@#+=,-]*|/[A-Za-z0-9._/@+=-]*", re.ASCII)
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,33}[a-z0-9])?", re.ASCII)
_NEXT = "pip install 'nemotron[lepton]', which pins what nemo-run needs: nemotron doctor says what is there"
# What its executors raise of their own accord; anything else is a defect and has to be seen as one.
_RAISED = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError, OSError)


@dataclass(frozen=True)
class Handed:
    """What an executor gets: a job's name, and the script of the run directory that is all it starts."""

    name: str
    script: str

    @property
    def command(self) -> list[str]:
        """The argument list."""
        return ["bash", self.script]


@dataclass(frozen=True)
class Door:
    """One executor of nemo-run's.

    start: submits, returns the scheduler's own id. status: what became of one. cancel: ends one. Each gets
    the placement, and a function that gives the value of a key of the profile that is a secret.
    """

    start: Callable[[Placement, Handed, Callable[[str], str]], str]
    status: Callable[[Placement, str, Callable[[str], str]], JobStatus]
    cancel: Callable[[Placement, str, Callable[[str], str]], None]


def plain(value: Any, where: str) -> Any:
    """The value, when nothing in it can be read as shell. Raises UsageError for anything else."""
    if isinstance(value, str) and value and not _PLAIN.fullmatch(value):
        raise UsageError(
            f"{value[:80]!r} is not handed to nemo-run, which would not quote it",
            where=where,
            valid=("letters, digits and . _ : / @ # + = , -",),
        )
    if isinstance(value, Mapping):
        return {plain(k, where): plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, where) for each in value]
    return value


def handed(name: str, script: str) -> Handed:
    """Name and script, checked. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name[:80]!r} cannot name a job", valid=("at most 35 of a-z, 0-9 and -",))
    plain(script, "the directory of the run")
    return Handed(name, script)


@contextmanager
def nemo_run_errors(what: str) -> Iterator[None]:
    """Turn what an import or an executor raises into errors of ours, with its own words."""
    try:
        yield
    except ImportError as problem:
        raise UsageError(
            f"nemo-run cannot be imported: {type(problem).__name__}: {problem}", where=what, next=_NEXT
        ) from problem
    except _RAISED as problem:
        said = " ".join(str(problem).split())[:300]
        raise SchedulerError(f"{what}: {type(problem).__name__}: {said}", where="nemo-run") from problem


@contextmanager
def _job_directory() -> Iterator[str]:
    """Where an executor may write its own files: nothing of the run's is in it."""
    with tempfile.TemporaryDirectory(prefix="nemotron-") as made:
        (Path(made) / "code").mkdir()
        # nemo-run changes into it, and an empty directory does not survive its archive everywhere.
        (Path(made) / "code" / "README").write_text("The run is elsewhere.\n", encoding="utf-8")
        yield made


def start_lepton(executor_fields: Mapping[str, Any], asked: Handed, launcher: str) -> str:
    """Submit a job to Lepton; its id. launcher: directory on the storage for nemo-run's own script."""
    with nemo_run_errors("LeptonExecutor"), _job_directory() as own:
        from nemo_run.core.execution.lepton import LeptonExecutor

        executor = LeptonExecutor(**plain(executor_fields, "lepton"))
        executor.job_dir = executor.experiment_dir = own
        executor.lepton_job_dir = plain(launcher, "nemo_run_dir")
        executor.experiment_id = executor.job_name = asked.name
        job, _ = executor.launch(asked.name, asked.command)
        return str(job)


def _dgxcloud(placement: Placement, secret: Callable[[str], str]) -> Any:
    """The executor for DGX Cloud on Run:ai. The client's secret goes to its token service only."""
    from nemo_run.core.execution.dgxcloud import DGXCloudExecutor

    options = placement.options
    texts = ("base_url", "kube_apiserver_url", "project_name", "pvc_nemo_run_dir", "distributed_framework")
    given = {
        name: options[name]
        for name in (*texts, "pvcs", "nprocs_per_node", "custom_spec")
        if options.get(name)
    }
    return DGXCloudExecutor(
        **plain(given, "dgxcloud"),
        client_id=plain(options.get("client_id") or options.get("app_id"), "client_id"),
        client_secret=secret("client_secret") if "client_secret" in options else secret("app_secret"),
        container_image=plain(placement.image or "", "container_image"),
        nodes=placement.nodes,
        gpus_per_node=placement.gpus_per_node,
        # The run directory is on the volume already: nothing has to be carried there.
        launched_from_cluster=True,
    )


def _start_dgxcloud(placement: Placement, asked: Handed, secret: Callable[[str], str]) -> str:
    with nemo_run_errors("DGXCloudExecutor"):
        executor = _dgxcloud(placement, secret)
        # It starts a script of its own from there.
        own = Path(asked.script).parent / "nemo-run"
        (own / "code").mkdir(parents=True, exist_ok=True)
        executor.job_dir = executor.experiment_dir = executor.pvc_job_dir = str(own)
        executor.experiment_id = executor.job_name = asked.name
        job, _ = executor.launch(asked.name, asked.command)
        return str(job)


_DGX_STATES: Mapping[str, JobState] = MappingProxyType(
    {
        **dict.fromkeys(("Creating", "Initializing", "Resuming", "Pending"), "pending"),
        **dict.fromkeys(("Running", "Updating", "Stopping", "Terminating", "Deleting"), "running"),
        "Completed": "succeeded",
        "Failed": "failed",
        "Degraded": "failed",
        "Stopped": "cancelled",
    }
)


def _dgxcloud_status(placement: Placement, job: str, secret: Callable[[str], str]) -> JobStatus:
    with nemo_run_errors("DGXCloudExecutor"):
        state = _dgxcloud(placement, secret).status(job)
    if state is None:
        raise SchedulerError("Run:ai does not say what became of the job", where=job)
    return JobStatus(job, _DGX_STATES.get(str(state.value), "unknown"))


def _dgxcloud_cancel(placement: Placement, job: str, secret: Callable[[str], str]) -> None:
    with nemo_run_errors("DGXCloudExecutor"):
        _dgxcloud(placement, secret).cancel(job)


def _skypilot(placement: Placement) -> Any:
    from nemo_run.core.execution.skypilot import SkypilotExecutor

    options = placement.options
    given = {name: options[name] for name in ("cloud", "gpus", "file_mounts") if options.get(name)}
    return SkypilotExecutor(
        **plain(given, "skypilot"),
        container_image=plain(placement.image, "container_image"),
        num_nodes=placement.nodes,
        gpus_per_node=placement.gpus_per_node or None,
        autodown=True,
    )


def _start_skypilot(placement: Placement, asked: Handed, secret: Callable[[str], str]) -> str:
    with nemo_run_errors("SkypilotExecutor"), _job_directory() as own:
        executor = _skypilot(placement)
        executor.job_dir, executor.experiment_id = own, asked.name
        task = executor.to_task(asked.name, cmd=asked.command)
        job, _ = executor.launch(task, cluster_name=asked.name, num_nodes=placement.nodes)
        return f"nemotron___{asked.name}___{asked.name}___{job}"


_SKY_STATES: Mapping[str, JobState] = MappingProxyType(
    {
        **dict.fromkeys(("INIT", "PENDING", "SETTING_UP"), "pending"),
        "RUNNING": "running",
        "SUCCEEDED": "succeeded",
        **dict.fromkeys(("FAILED", "FAILED_SETUP", "FAILED_DRIVER"), "failed"),
        "CANCELLED": "cancelled",
    }
)


def _skypilot_status(placement: Placement, job: str, secret: Callable[[str], str]) -> JobStatus:
    with nemo_run_errors("SkypilotExecutor"):
        from nemo_run.core.execution.skypilot import SkypilotExecutor

        _, details = SkypilotExecutor.status(job)
        word = str((details or {}).get("status") or "").rpartition(".")[2]
    return JobStatus(job, _SKY_STATES.get(word, "unknown"))


def _skypilot_cancel(placement: Placement, job: str, secret: Callable[[str], str]) -> None:
    with nemo_run_errors("SkypilotExecutor"):
        from nemo_run.core.execution.skypilot import SkypilotExecutor

        SkypilotExecutor.cancel(job)


def _kuberay(placement: Placement, name: str) -> Any:
    from nemo_run.core.execution.kuberay import KubeRayExecutor, KubeRayWorkerGroup
    from nemo_run.run.ray.kuberay import KubeRayJob

    options = placement.options
    given = {name: options[name] for name in ("namespace", "ray_version") if options.get(name)}
    mounts = [mount.split(":")[:2] for mount in options.get("volumes") or ()]
    volumes = [{"name": f"v{n}", "persistentVolumeClaim": {"claimName": m[0]}} for n, m in enumerate(mounts)]
    seen = [{"name": f"v{n}", "mountPath": m[-1]} for n, m in enumerate(mounts)]
    group = KubeRayWorkerGroup(
        "workers", replicas=options.get("workers") or placement.nodes, gpus_per_worker=placement.gpus_per_node
    )
    executor = KubeRayExecutor(
        **plain(given, "kuberay"),
        image=plain(options.get("image") or placement.image, "image"),
        worker_groups=[group],
        volumes=plain(volumes, "volumes"),
        volume_mounts=plain(seen, "volumes"),
    )
    return KubeRayJob(name=name, executor=executor)


def _start_kuberay(placement: Placement, asked: Handed, secret: Callable[[str], str]) -> str:
    with nemo_run_errors("KubeRayExecutor"):
        _kuberay(placement, asked.name).start(command=" ".join(asked.command))
        return asked.name


_RAY_STATES: Mapping[str, JobState] = MappingProxyType(
    {
        **dict.fromkeys(("PENDING", "", "UNKNOWN"), "pending"),
        "RUNNING": "running",
        "SUCCEEDED": "succeeded",
        "FAILED": "failed",
        "STOPPED": "cancelled",
    }
)


def _kuberay_status(placement: Placement, job: str, secret: Callable[[str], str]) -> JobStatus:
    with nemo_run_errors("KubeRayExecutor"):
        said = _kuberay(placement, job).status(display=False)
    return JobStatus(job, _RAY_STATES.get(str(said.get("jobStatus")), "unknown"))


def _kuberay_cancel(placement: Placement, job: str, secret: Callable[[str], str]) -> None:
    with nemo_run_errors("KubeRayExecutor"):
        _kuberay(placement, job).stop()


DOORS: Mapping[str, Door] = MappingProxyType(
    {
        "dgxcloud": Door(_start_dgxcloud, _dgxcloud_status, _dgxcloud_cancel),
        "skypilot": Door(_start_skypilot, _skypilot_status, _skypilot_cancel),
        "kuberay": Door(_start_kuberay, _kuberay_status, _kuberay_cancel),
    }
)
