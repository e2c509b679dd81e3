"""A config on its way to a plan: where inputs and outputs go, what the engine is told, which code decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron.artifacts.digest import digest_path
from nemotron.artifacts.references import SELECTION, SELECTIONS
from nemotron.catalog.step import Step
from nemotron.config.config import Config, Origin
from nemotron.engines.base import OWN_SCRIPT, Engine, StepFacts
from nemotron.errors import CheckFailed, UsageError
from nemotron.planning.plan import PlannedInput, PlannedOutput
from nemotron.planning.preflight import LATE_RESOLVERS
from nemotron.planning.references import MISSING, Binding

# Files of other steps whose imports are remembered: 100 bytes each.
_IMPORTS = 5000


def port_values(step: Step, engine: str, config: Config, environ: Mapping[str, str]) -> dict[str, object]:
    """Values of the keys that input ports are bound to, interpolations resolved."""
    keys = [p.config for p in step.inputs(engine) if p.config is not None and config.has(p.config)]
    raw = {key: config.get(key) for key in keys}
    if any(isinstance(v, str) and "${" in v for v in raw.values()):
        resolved = config.resolve(environ, keep=LATE_RESOLVERS).data
        return {key: Config(resolved).get(key) for key in keys}
    return raw


def with_placeholders(step: Step, engine: str, config: Config, bindings: Sequence[Binding]) -> Config:
    """`in://PORT` in place of each bound input's path, so that other keys that refer to it follow."""
    for binding in bindings:
        key = binding.port.config
        if binding.text is not None and key is not None:
            origin = Origin("input", text=f"-i {binding.port.name}={binding.text}")
            config = config.set(key, f"in://{binding.port.name}", origin)
    return config


def planned_outputs(
    step: Step, engine: Engine, config: Config, data: Mapping[str, Any]
) -> tuple[PlannedOutput, ...]:
    """What the step will leave, and where. Raises UsageError for an output without a place."""
    found = []
    for port in step.outputs(engine.name):
        value = Config(dict(data)).get(port.config) if port.config and config.has(port.config) else None
        if not isinstance(value, str) or value == MISSING:
            if port.config is not None:
                raise UsageError(
                    f"output {port.name} has no place: {port.config} is not set",
                    where=config.place(port.config) if config.has(port.config) else str(step.path),
                    next=f"+{port.config}=outputs/{port.name}",
                )
            continue
        if port.select and not SELECTION.fullmatch(port.select):
            what = f"output {port.name}: {port.select!r} selects no checkpoint"
            raise CheckFailed(what, where=str(step.path), valid=SELECTIONS)
        layout = engine.checkpoint_layout(data, port.select, port.type[0]) if port.select else None
        select, inside = layout or (None, None)
        found.append(
            PlannedOutput(port.name, port.type[0], value, port.config, select, inside, port.required)
        )
    return tuple(found)


def step_facts(step: Step, inputs: Sequence[PlannedInput]) -> StepFacts:
    """What an engine is told of the step, as the manifest says it."""
    return StepFacts(
        step=step.id,
        directory=step.directory,
        script=step.script,
        command=step.run.cmd,
        launch=step.run.launch,
        nodes=step.run.nodes,
        gpus_per_node=step.run.gpus_per_node,
        image=step.run.image,
        rows={i.port: int(i.facts["rows"]) for i in inputs if i.state == "pinned" and "rows" in i.facts},
        bound={i.port: i.state for i in inputs},
        facts={i.port: i.facts for i in inputs if i.state == "pinned"},
    )


def out_placeholders(config: Mapping[str, Any], outputs: Sequence[PlannedOutput]) -> dict[str, Any]:
    """`out://PORT` in place of output paths: another place is the same recipe."""
    changed = Config(dict(config))
    for output in outputs:
        if output.key is not None and changed.has(output.key):
            changed = changed.set(output.key, f"out://{output.port}", Origin("engine"))
    return dict(changed.data)


def code_digests(step: Step, engine: Engine, facts: StepFacts, environ: Mapping[str, str]) -> dict[str, str]:
    """Digests of the code that decides the result, by a name that says no place."""
    found = {path.name: digest_python(path) for path in engine.code(facts) if path.exists()}
    if engine.name in OWN_SCRIPT:
        from nemotron.artifacts.file_memory import FileMemory, memory_file
        from nemotron.sources.bundle import code_files

        memory = FileMemory(memory_file(environ, "imports.json"), others=_IMPORTS)
        files = code_files(step.directory, step.script, catalog=step.root_path, memory=memory)
        found |= {name: digest_path(path).value for name, path in files.items()}
    return found


def digest_python(path: Path) -> str:
    """Digest of a Python file, or of all Python files below a directory (no caches, no other files)."""
    if path.is_file():
        return digest_path(path).value
    from nemotron.artifacts.digest import digest_json

    files = sorted(p for p in path.rglob("*.py"))
    return digest_json({p.relative_to(path).as_posix(): digest_path(p).value for p in files})
