"""What a backend and its scheduler find in a plan before anything is handed over."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nemotron.errors import SchedulerError, UsageError, nearest
from nemotron.findings import Finding
from nemotron.launch.backend import Addressed, find_backend
from nemotron.launch.bundle import launch_script
from nemotron.planning.plan import Plan
from nemotron.planning.preflight import waive
from nemotron.profiles.check import SchedulerProbe

Probes = dict[tuple[str, str], SchedulerProbe | None]
NO_BACKEND, SILENT = "scheduler.no_backend", "scheduler.silent"


def with_place_findings(plan: Plan) -> Plan:
    """The plan, and those it builds on, with what their backend finds; nothing is submitted.

    A scheduler in reach is asked whether it has what is asked for; one that does not answer is a warning.
    """
    if plan.placement.backend == "local":
        return plan
    probes: Probes = {}
    builds = tuple((key, _checked(each, probes)) for key, each in plan.builds)
    return _checked(replace(plan, builds=builds), probes)


def _checked(plan: Plan, probes: Probes) -> Plan:
    if plan.done_by is not None:
        return plan
    try:
        found = tuple(_findings(plan, probes))
    except UsageError as problem:
        found = (Finding(f"{plan.placement.backend}.value", "error", problem.what, problem.where),)
    return replace(plan, findings=(*plan.findings, *waive(found, plan.waived, later=plan.waived)))


def _findings(plan: Plan, probes: Probes) -> Iterator[Finding]:
    placement = plan.placement
    try:
        backend = find_backend(placement.backend)
    except UsageError:
        what = f"this version shows what would run on {placement.backend}, and cannot submit it"
        yield Finding(NO_BACKEND, "warning", what, where=f"profile {placement.profile}")
        return
    backend.files(plan)  # raises for what cannot be written into them
    yield from backend.check(plan)
    # Each scheduler is asked once for all plans: one of another address is another.
    to = backend.connection(plan) if isinstance(backend, Addressed) else {}
    key = (backend.name, json.dumps(to, sort_keys=True))
    if key not in probes:
        probes[key] = backend.probe(placement.options)
    probe = probes[key]
    if probe is not None:
        try:
            shape = (placement.nodes, placement.gpus_per_node)
            yield from scheduler_findings(placement.options, *shape, probe)
            yield from probe.findings(placement.options, *shape)
        except SchedulerError as problem:
            yield Finding(SILENT, "warning", f"the scheduler does not answer: {problem.what}", problem.where)


def scheduler_findings(
    options: Mapping[str, Any], nodes: int, gpus_per_node: int, probe: SchedulerProbe
) -> Iterator[Finding]:
    """Partition, account, nodes and GPUs that a scheduler does not have. Raises SchedulerError."""
    known = probe.partitions()
    asked = options.get("partition")
    for name in str(asked).split(",") if asked else ():
        partition = known.get(name)
        if partition is None:
            close = nearest(name, known, 1)
            yield Finding(
                "scheduler.partition",
                "error",
                f"the scheduler has no partition {name}",
                "partition",
                ", ".join(known),
                f"run.env.partition={close[0]}" if close else None,
            )
            continue
        for what, wanted, there in (
            ("nodes", nodes, partition.nodes),
            ("GPUs a node", gpus_per_node, partition.gpus_per_node),
        ):
            if there is not None and wanted > there:
                said = f"{wanted} {what} are asked for, partition {name} has {there}"
                yield Finding("scheduler.shape", "error", said, "partition", f"{there} at most")
    account, accounts = options.get("account"), probe.accounts()
    if account and accounts is not None and account not in accounts:
        close = nearest(account, accounts, 1)
        fix = f"run.env.account={close[0]}" if close else None
        said = f"you have no account {account}"
        yield Finding("scheduler.account", "error", said, "account", ", ".join(accounts), fix)


def shown_files(plan: Plan) -> dict[str, str]:
    """The files that make a run of a plan, as they would be written: `launch.sh` and the backend's own."""
    files = {"launch.sh": launch_script(plan)}
    if plan.placement.backend != "local":
        try:
            files |= find_backend(plan.placement.backend).files(plan)
        except UsageError:
            return files  # a finding says why
    return files
