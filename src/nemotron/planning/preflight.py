"""What planning finds wrong before anything runs, and which of it stops a launch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nemotron.catalog.discover import Catalog
from nemotron.catalog.step import Step
from nemotron.config.config import Config, Origin
from nemotron.engines.base import Engine, StepFacts
from nemotron.errors import NemotronError, NotFound
from nemotron.findings import Finding
from nemotron.job.stub.mark import is_stub
from nemotron.planning.pinning import UNREADABLE
from nemotron.planning.plan import Plan, PlannedInput
from nemotron.planning.references import Binding

# Findings that a dry run shows as warnings and that stop a launch.
UNBOUND, MISSING_VALUE = "input.unbound", "config.missing_value"
# Sections of a config that speak to planning and never reach a trainer.
OUR_SECTIONS = ("run", "inputs", "artifacts")
# Resolvers of the existing catalog that only the job's machine can answer.
LATE_RESOLVERS = ("art", "auto_mount", "manifest")


def blocking(plan: Plan) -> tuple[Finding, ...]:
    """The findings that stop a launch of this plan or of one it builds on, waived ones excepted."""
    plans = [*(p for _, p in plan.builds), plan]
    return tuple(
        f
        for p in plans
        for f in p.findings
        if f.severity == "error" or (f.id in (UNBOUND, MISSING_VALUE, UNREADABLE) and f.severity != "note")
    )


def engine_findings(
    engine: Engine,
    step: Step,
    bindings: Sequence[Binding],
    config: Config,
    shape: StepFacts,
    environ: Mapping[str, str],
) -> list[Finding]:
    """What the engine finds in the config, as if every required input were bound.

    An input that is not bound has its own finding; what follows from an optional one that the config
    turns out to need is told as one.
    """
    for binding in bindings:
        key = binding.port.config
        if binding.text is None and binding.port.required and key is not None:
            config = config.set(key, f"in://{binding.port.name}", Origin("engine"))
    data = config.without(*OUR_SECTIONS).resolve(environ, keep=LATE_RESOLVERS).data
    optional = [b.port.config for b in bindings if b.text is None and not b.port.required and b.port.config]
    found = []
    for finding in engine.check(data, shape):
        where = finding.where or ""
        if (
            finding.severity == "error"
            and where
            and any(k == where or k.startswith(where + ".") for k in optional)
        ):
            finding = replace(finding, id=UNBOUND, severity="warning")
        found.append(finding)
    return found


def unbound_inputs(catalog: Catalog, step: Step, inputs: Sequence[PlannedInput]) -> list[Finding]:
    """A warning for each input nothing names, with the steps that make its type; a launch stops on it."""
    found = []
    for each in inputs:
        if each.state == "unbound":
            makers = [m for t in each.types for m in catalog.producers_of(t) if m.id != step.id]
            names = dict.fromkeys(m.id for m in makers)
            example = _bound_in_a_config(step, each.port)
            found.append(
                Finding(
                    UNBOUND,
                    "warning",
                    f"input {each.port} ({' or '.join(each.types)}) is bound to nothing",
                    where=each.key,
                    valid="made by " + ", ".join(names) if names else None,
                    fix=f"-i {each.port}=PATH"
                    + (f", or as {example[0]} does: -i '{each.port}={example[1]}'" if example else ""),
                )
            )
    return found


def _bound_in_a_config(step: Step, port: str) -> tuple[str, str] | None:
    """Name and reference of the first config of the step that binds the port."""
    from nemotron.config.tree import load_yaml

    for name, path in step.configs.items():
        try:
            inputs = load_yaml(path)[0].get("inputs")
        except NemotronError:
            continue  # not the config that is used; `steps check` names what is wrong with it
        if isinstance(inputs, Mapping) and isinstance(inputs.get(port), str):
            return name, str(inputs[port])
    return None


def missing_values(missing: Sequence[str], inputs: Sequence[PlannedInput], config: Config) -> list[Finding]:
    """Keys that hold `???` and are no input of the step."""
    ports = {i.key for i in inputs}
    return [
        Finding(MISSING_VALUE, "warning", f"{key} has no value", where=config.place(key), fix=f"{key}=...")
        for key in missing
        if key not in ports and not _refers_to_port(config, key, ports)
    ]


def _refers_to_port(config: Config, key: str, ports: set[str | None]) -> bool:
    raw = config.get(key)
    return isinstance(raw, str) and any(port is not None and f"${{{port}}}" in raw for port in ports)


def lenient(findings: Sequence[Finding]) -> list[Finding]:
    """The findings of a stub run: what it will not read need not be there, and is told as a note."""
    unread = (UNBOUND, MISSING_VALUE, UNREADABLE, "input.not_found")
    return [replace(f, severity="note") if f.id in unread else f for f in findings]


def stub_findings(inputs: Sequence[PlannedInput]) -> list[Finding]:
    """An error for each input that a stub run left: it is valid in form and means nothing."""
    found = []
    for each in inputs:
        if each.state == "pinned" and each.path is not None and is_stub(Path(each.path)):
            what = f"input {each.port} was written by a stub run, there is nothing in it to train on"
            fix = f"-i {each.port}=... of a real run, or --stub for this one too"
            found.append(Finding("input.stub", "error", what, each.key, fix=fix))
    return found


def waive(
    findings: Sequence[Finding], waived: Sequence[str], later: Collection[str] = ()
) -> tuple[Finding, ...]:
    """The findings, those that are waived made notes.

    later: ids that only a check at launch can find. Raises NotFound for a waived id that nothing found.
    """
    known = {f.id for f in findings} | set(later)
    for name in waived:
        if name not in known:
            raise NotFound(
                f"no check found {name!r}, there is nothing to waive", where="--waive", valid=sorted(known)
            )
    return tuple(
        replace(f, severity="note", message=f"waived: {f.message}") if f.id in waived else f for f in findings
    )
