"""nemo-run as a backend: DGX Cloud, SkyPilot and KubeRay, and Lepton for those who want it that way.

It is handed `bash RUN/nemo_run.sh` and nothing else. The run directory has to be on storage that this machine
and the nodes see under one path: `remote_job_dir` in the profile, or a store there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nemotron.artifacts.atomic import write_text
from nemotron.artifacts.records import timestamp
from nemotron.artifacts.run_state import read_object
from nemotron.artifacts.submissions import JobStatus, Journal, Submission
from nemotron.errors import SchedulerError, UsageError
from nemotron.findings import Finding
from nemotron.launch.backend import After
from nemotron.launch.lepton.names import job_id
from nemotron.launch.lepton.node_script import JOB, MARK, NODE_SCRIPT
from nemotron.launch.lepton.options import LeptonOptions
from nemotron.launch.lepton.payloads import Asked
from nemotron.launch.nemo_run.doors import DOORS, handed, plain, start_lepton
from nemotron.planning.plan import Placement, Plan
from nemotron.planning.words import shell_words
from nemotron.profiles.check import SchedulerProbe
from nemotron.profiles.load import load_profiles

_SCRIPT = "nemo_run.sh"
_TEXT = """\
#!/usr/bin/env bash
# What nemo-run starts: bash RUN/nemo_run.sh
set +x -u
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" || exit 1
export NEMOTRON_JOB_ID=@JOB@ NEMOTRON_PART=1 NEMOTRON_PARTS=1 NEMOTRON_NODES=@NODES@
export NEMOTRON_NODE_RANK=${NODE_RANK:-${SKYPILOT_NODE_RANK:-${RANK:-0}}}
@RAY@exec bash launch.sh
"""


@dataclass(frozen=True)
class NemoRunBackend:
    """One executor of nemo-run's, by the name of a profile's executor."""

    name: str

    def files(self, plan: Plan) -> Mapping[str, str]:
        """`nemo_run.sh`; the id of the job in it is filled in when it is submitted."""
        return {_SCRIPT: _script(self.name, plan.placement, "{run_id}")}

    def check(self, plan: Plan) -> tuple[Finding, ...]:
        """Values that nemo-run would not quote, and what it cannot do."""
        found = []
        placement = plan.placement
        for name, value in placement.options.items():
            if name in ("client_secret", "app_secret"):
                continue
            try:
                plain(value, name)
            except UsageError as problem:
                valid = ", ".join(problem.valid)
                found.append(Finding("nemo_run.value", "error", problem.what, problem.where, valid))
        if placement.run_root is None:
            what = f"the run directory has to be where the nodes of {self.name} see it, under the same path"
            fix = "remote_job_dir = ... in the profile, or NEMOTRON_HOME there"
            found.append(Finding("nemo_run.storage", "warning", what, "remote_job_dir", fix=fix))
        if placement.chain > 1:
            found.append(Finding("nemo_run.chain", "error", "one allocation is all there is", "chain", "1"))
        if self.name == "kuberay" and placement.launch != "ray":
            what = f"the step is launched by {placement.launch}; a Ray cluster starts it on its head alone"
            found.append(Finding("nemo_run.launch", "error", what, "executor", "a step with launch = ray"))
        return tuple(found)

    def probe(self, options: Mapping[str, Any]) -> SchedulerProbe | None:
        """None: nemo-run has nothing to ask."""
        return None

    def submit(self, directory: Path, plan: Plan, part: Submission, after: Sequence[After]) -> Submission:
        """Hand the command over. `job` is a name of ours; what the scheduler calls it is in `connection`."""
        if any(each.jobs for each in after) or part.parts > 1:
            raise UsageError(
                f"no job of {self.name} can wait for another", next="nemotron runs wait RUN first"
            )
        directory = directory.resolve()
        before = len(Journal(directory).submitted())
        name = job_id(part.name if before == 0 else f"{part.name}-{before + 1}")
        asked = handed(name, str(directory / _SCRIPT))
        write_text(directory / _SCRIPT, _script(self.name, plan.placement, name))
        number = DOORS[self.name].start(plan.placement, asked, _secrets_of(plan.placement))
        return replace(
            part,
            job=name,
            cluster=self.name,
            at=timestamp(datetime.now(UTC)),
            connection={"directory": str(directory), "id": number},
        )

    def find(self, parts: Iterable[Submission]) -> Mapping[str, tuple[Submission, ...]]:
        """Nothing: these schedulers are not asked for jobs by name. Whoever was killed sees to it by hand."""
        names = ", ".join(part.name for part in parts)
        raise SchedulerError(
            f"whether {self.name} has a job for {names} cannot be told",
            next=f"look there for {job_id(names.partition(',')[0])}, and end what is left",
        )

    def status(self, jobs: Sequence[Submission]) -> Mapping[str, JobStatus]:
        """What became of jobs, one call each."""
        found = {}
        for job in jobs:
            placement = _placement(job)
            status = DOORS[self.name].status(placement, str(job.connection.get("id")), _secrets_of(placement))
            found[job.job] = replace(status, job=job.job)
        return found

    def cancel(self, jobs: Sequence[Submission]) -> None:
        """End jobs."""
        for job in jobs:
            placement = _placement(job)
            DOORS[self.name].cancel(placement, str(job.connection.get("id")), _secrets_of(placement))


DGXCLOUD, SKYPILOT, KUBERAY = (NemoRunBackend(name) for name in DOORS)


def submit_lepton(placement: Placement, options: LeptonOptions, asked: Asked) -> str:
    """Have nemo-run create a job on Lepton for a run that is on its storage; the job's id.

    Raises UsageError for fields that nemo-run's executor does not pass on.
    """
    lost = [
        name for name, value in (("custom_spec", options.more), ("pip_extras", options.pip_extras)) if value
    ]
    lost += ["node_group"] if options.node_group is None else []
    if "custom_spec" in lost or "node_group" in lost:
        raise UsageError(
            "nemo-run passes no custom_spec on, and needs a node_group",
            where=", ".join(lost),
            next='leave launcher = "nemo_run" out of the profile',
        )
    queue = options.queue
    fields = {
        "container_image": placement.image,
        "nemo_run_dir": options.root,
        "nodes": placement.nodes,
        "gpus_per_node": placement.gpus_per_node,
        "resource_shape": options.resource_shape or "",
        "node_group": options.node_group,
        "node_reservation": options.node_reservation or "",
        "secret_vars": dict(options.secret_vars or {}),
        "image_pull_secrets": list(options.image_pull_secrets),
        "mounts": [_mount(each) for each in options.mounts],
        "env_vars": {JOB: asked.job, MARK: asked.mark},
    }
    if options.shared_memory_size:
        fields["shared_memory_size"] = options.shared_memory_size
    if queue is not None:
        fields |= {"can_be_preempted": bool(queue.can_be_preempted), "can_preempt": bool(queue.can_preempt)}
        fields["queue_priority"] = queue.priority_class
    script = f"{asked.directory}/{NODE_SCRIPT}"
    return start_lepton(fields, handed(asked.job, script), f"{asked.directory}/nemo-run")


def _mount(mount: Any) -> dict[str, Any]:
    from nemotron.launch.lepton.fields import payload

    made: dict[str, Any] = payload(mount)
    return made


def _script(executor: str, placement: Placement, job: str) -> str:
    external = executor == "kuberay"
    nodes = 1 if external or placement.launch == "python" else placement.nodes
    ray = "export NEMOTRON_RAY=external\n" if external else ""
    return _TEXT.replace("@JOB@", shell_words([job])).replace("@NODES@", str(nodes)).replace("@RAY@", ray)


def _placement(job: Submission) -> Placement:
    """The placement of a run, from its own plan. Raises SchedulerError where that is gone."""
    data = read_object(Path(str(job.connection.get("directory", ""))) / "plan.json").get("placement")
    try:
        return Placement.from_dict(data or {})
    except (KeyError, TypeError) as problem:
        raise SchedulerError(f"the plan of {job.name} cannot be read any more", where=job.name) from problem


def _secrets_of(placement: Placement) -> Callable[[str], str]:
    """Gives the value of a key of the profile that is a secret, when it is asked for."""

    def value(key: str) -> str:
        profile = load_profiles(os.environ, Path.cwd()).get(str(placement.profile))
        secret = next((each for each in profile.secrets if each.key == key), None)
        found = profile.secret_value(secret, os.environ) if secret else profile.get(key)
        if not found:
            raise UsageError(f"{key} is not set", where=f"profile {placement.profile}")
        return str(found)

    return value
