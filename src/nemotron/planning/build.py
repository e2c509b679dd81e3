"""(step, config, inputs) to a Plan. Nothing is launched and nothing is written here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemotron.artifacts.digest import digest_path
from nemotron.artifacts.naming import TAINTED
from nemotron.artifacts.references import Reference
from nemotron.artifacts.runs import Run
from nemotron.artifacts.store import Store, find_store
from nemotron.catalog.discover import Catalog, load_catalog
from nemotron.catalog.step import Step
from nemotron.config.compose import compose, resolve_config_path
from nemotron.config.config import Config, Origin
from nemotron.engines.base import Engine, StepFacts, find_engine
from nemotron.errors import CheckFailed, NemotronError, UsageError
from nemotron.planning.aliases import apply_aliases
from nemotron.planning.earlier import find_earlier
from nemotron.planning.model_edges import model_edges
from nemotron.planning.model_identity import findings_to_come, identity_findings
from nemotron.planning.named import NamedArtifacts
from nemotron.planning.pinning import (
    Pinned,
    Progress,
    built_input,
    choose_output,
    input_to_build,
    of_input,
    pin_elsewhere,
    pin_path,
    pin_run,
    reference_of,
)
from nemotron.planning.plan import (
    Placement,
    Plan,
    PlannedInput,
    PlannedOutput,
    Recipe,
    recipe_inputs,
)
from nemotron.planning.preflight import (
    LATE_RESOLVERS,
    OUR_SECTIONS,
    engine_findings,
    missing_values,
    unbound_inputs,
    waive,
)
from nemotron.planning.references import MISSING, Binding, bind_inputs


@dataclass(frozen=True)
class Request:
    """What a person asks to run; every field but `step` has a default.

    config: a config's name or path. overrides: `key=value` and `+key=value`. inputs: port to reference.
    engine: overrules the config's and the manifest's. arguments: go to the trainer untouched.
    waived: ids of findings that shall not stop the launch.
    """

    step: str
    config: str | None = None
    overrides: tuple[str, ...] = ()
    inputs: Mapping[str, str] | None = None
    engine: str | None = None
    arguments: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()


def plan_step(
    request: Request,
    *,
    catalog: Catalog | None = None,
    store: Store | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    progress: Progress | None = None,
) -> Plan:
    """The plan for a request, its missing inputs' plans included.

    progress: called with the bytes of inputs read and to be read, see `digest_path`.

    Raises NotFound (step, config, base config), UsageError (overrides, bindings, unresolvable values) and
    CheckFailed (types that do not fit, steps that build each other). What checks find is in
    `Plan.findings` and raises nothing.
    """
    environ = os.environ if environ is None else environ
    cwd = cwd or Path.cwd()
    planner = Planner(
        catalog or load_catalog(environ), store or find_store(environ, cwd), environ, cwd, progress
    )
    return planner.plan(request)


def composed(catalog: Catalog, request: Request, cwd: Path) -> tuple[Step, Path, Config]:
    """The step of a request, the file of its config, and the config with overrides applied."""
    step = catalog.get(request.step)
    name = request.config or step.run.default_config
    path = resolve_config_path(name, step.configs, cwd)
    base = compose(path, (), configs=step.configs)
    return step, path, apply_aliases(step, base, request.overrides)


def _engine_name(step: Step, config: Config, request: Request) -> str:
    """`--engine`, else the config's `run.engine`, else the manifest's first."""
    if config.has("run") and not isinstance(config.get("run"), Mapping | None):
        raise UsageError("`run:` is a section", where=config.place("run"), next="run: {engine: embedded}")
    named = request.engine
    where = "--engine"
    if named is None and config.has("run.engine"):
        named, where = str(config.get("run.engine")), config.place("run.engine")
    if named is None:
        if not step.engines:
            raise CheckFailed(f"{step.id} names no engine and has no step.py", where=str(step.path))
        return step.engines[0]
    if named not in step.engines:
        raise UsageError(f"{step.id} does not run on {named!r}", where=where, valid=step.engines)
    return named


def bound_config(catalog: Catalog, request: Request, environ: Mapping[str, str], cwd: Path) -> Config:
    """The composed config with each bound input's reference in its key: what `--explain` speaks of."""
    step, _, config = composed(catalog, request, cwd)
    engine = _engine_name(step, config, request)
    values = _port_values(step, engine, config, environ)
    for binding in bind_inputs(step, engine, config, dict(request.inputs or {}), values):
        key = binding.port.config
        if binding.text is not None and key is not None and config.get(key) != binding.text:
            declared = f"inputs.{binding.port.name}"
            if binding.place.startswith("-i "):
                origin = Origin("input", text=f"{binding.port.name}={binding.text}")
            else:
                origin = config.origins(declared)[-1]
            config = config.set(key, binding.text, origin)
    return config


class Planner:
    """Plans requests against one catalog and one store, each distinct `step://` once."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        environ: Mapping[str, str],
        cwd: Path,
        progress: Progress | None = None,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._environ = environ
        self._cwd = cwd
        self._progress = progress
        self._named = NamedArtifacts(store, environ, cwd)
        self._built: dict[str, Plan] = {}
        self._chain: list[str] = []
        self._waived: tuple[str, ...] = ()

    def plan(self, request: Request) -> Plan:
        """The plan of a request."""
        if not self._chain:
            self._waived = request.waived
        step, config_file, config = composed(self._catalog, request, self._cwd)
        engine = find_engine(_engine_name(step, config, request))
        port_keys = [p.config for p in step.inputs(engine.name) if p.config is not None]
        config, named, unnamed = self._named.fill(config, port_keys)
        values = _port_values(step, engine.name, config, self._environ)
        bindings = bind_inputs(step, engine.name, config, dict(request.inputs or {}), values)
        here = engine.why_not_here() is None
        found = [self._pin(b, step, here=here, waived=request.waived) for b in bindings]
        pinned = [p for p in (*found, *named) if p is not None]
        config = _with_placeholders(step, engine.name, config, bindings)
        resolved = config.without(*OUR_SECTIONS).resolve(self._environ, keep=LATE_RESOLVERS)
        inputs = tuple(p.input for p in pinned)
        outputs = _outputs(step, engine, config, resolved.data)
        shape = _shape(step, engine, resolved.data, inputs)
        training = _out_placeholders(engine.training_config(resolved.data), outputs)
        findings = [*step.warnings, *unnamed, *(f for p in pinned for f in p.findings)]
        findings += self._named.tainted(inputs)
        findings += engine_findings(engine, step, bindings, config, shape, self._environ)
        findings += unbound_inputs(self._catalog, step, inputs)
        findings += missing_values(resolved.missing, inputs, config)
        edges = model_edges(self._catalog, step, engine.name, inputs)
        findings += identity_findings(edges, inputs, self._environ)
        plan = Plan(
            recipe=Recipe(
                step=step.id,
                engine=engine.name,
                engine_version=engine.version(),
                config=training,
                inputs=recipe_inputs(inputs),
                outputs={o.port: {"type": o.type, "select": o.select} for o in outputs},
                code=_code(engine, shape),
                image=step.run.image if engine.name == "nemo_rl" else None,
                arguments=request.arguments,
            ),
            placement=Placement(
                backend="local",
                root=step.root,
                launch=step.run.launch,
                nodes=1,
                gpus_per_node=step.run.gpus_per_node if engine.name == "nemo_rl" else 0,
                argv=engine.argv(shape, resolved.data, request.arguments),
                environment=engine.environment(resolved.data),
                secrets=tuple(sorted({v.variable for v in resolved.late if v.variable})),
            ),
            inputs=inputs,
            outputs=outputs,
            config_name=request.config or step.run.default_config,
            config_file=str(config_file),
            edges=edges,
            builds=self._builds_of(inputs),
            notes=engine.notes(resolved.data),
            findings=waive(findings, request.waived, self._may_come() | findings_to_come(edges, inputs)),
            late=tuple(f"{v.key}: {v.expression}" for v in resolved.late),
            waived=request.waived,
            engine_problem=engine.why_not_here(),
        )
        earlier = find_earlier(plan, self._store, self._environ)
        if earlier.done_at is None:
            return earlier
        tainted = self._named.tainted_outputs(Run(Path(earlier.done_at)).outputs)
        if TAINTED in request.waived:
            tainted = [replace(f, severity="note", message=f"waived: {f.message}") for f in tainted]
        return replace(earlier, findings=(*earlier.findings, *tainted))

    def _may_come(self) -> frozenset[str]:
        """Ids that may be waived without such a finding here: what it builds on may have it, or a launch."""
        built = {f.id for plan in self._built.values() for f in plan.findings}
        return frozenset({TAINTED, *built, *(self._waived if self._chain else ())})

    def _pin(self, binding: Binding, step: Step, *, here: bool, waived: Sequence[str]) -> Pinned | None:
        """The input of a binding; None for an optional port that nothing is bound to."""
        port = binding.port
        if binding.text is None:
            planned = PlannedInput(port.name, tuple(port.type), "unbound", key=port.config)
            return Pinned(planned) if port.required else None
        try:
            reference = reference_of(binding, binding.text, self._cwd)
            return self._pin_reference(binding, reference, step, here=here, waived=waived)
        except NemotronError as problem:
            raise of_input(binding, problem) from problem

    def _pin_reference(
        self, binding: Binding, reference: Reference, step: Step, *, here: bool, waived: Sequence[str]
    ) -> Pinned:
        if reference.kind == "path":
            return pin_path(
                binding,
                reference,
                here=here,
                environ=self._environ,
                waived=waived,
                recorded=self._named.recorded,
                progress=self._progress,
            )
        if reference.kind == "run":
            return pin_run(binding, reference, self._store, self._catalog.types_of(step))
        if reference.kind == "step":
            return self._pin_step(binding, reference, step)
        if reference.kind == "art":
            return self._named.pin(binding, reference, self._catalog.types_of(step))
        return pin_elsewhere(binding, reference, here=here)

    def _pin_step(self, binding: Binding, reference: Reference, consumer: Step) -> Pinned:
        key = str(replace(reference, port=None))
        if key in self._chain:
            raise CheckFailed("steps build each other: " + " -> ".join([*self._chain, key]))
        if key not in self._built:
            self._chain.append(key)
            self._built[key] = self.plan(
                Request(
                    reference.name,
                    reference.config,
                    reference.overrides,
                    engine=reference.engine,
                    waived=self._waived,
                )
            )
            self._chain.pop()
        plan = self._built[key]
        offered = {o.port: (o.type,) for o in plan.outputs}
        graph = self._catalog.types_of(consumer)
        name = choose_output(offered, reference.port, binding.port, graph, reference.name)
        if plan.done_at is not None:
            run = Run(Path(plan.done_at))
            return Pinned(built_input(binding, reference, run.outputs[name], run.id, name))
        output = next(o for o in plan.outputs if o.port == name)
        return Pinned(input_to_build(binding, reference, key, output))

    def _builds_of(self, inputs: Sequence[PlannedInput]) -> tuple[tuple[str, Plan], ...]:
        """Every plan that must run before, each once, those that others need first."""
        ordered: dict[str, Plan] = {}
        for each in inputs:
            if each.build is not None:
                plan = self._built[each.build]
                ordered |= dict(plan.builds)
                ordered[each.build] = replace(plan, builds=())
        return tuple(ordered.items())


def _port_values(step: Step, engine: str, config: Config, environ: Mapping[str, str]) -> dict[str, object]:
    """Values of the keys that input ports are bound to, interpolations resolved."""
    keys = [p.config for p in step.inputs(engine) if p.config is not None and config.has(p.config)]
    raw = {key: config.get(key) for key in keys}
    if any(isinstance(v, str) and "${" in v for v in raw.values()):
        resolved = config.resolve(environ, keep=LATE_RESOLVERS).data
        return {key: Config(resolved).get(key) for key in keys}
    return raw


def _with_placeholders(step: Step, engine: str, config: Config, bindings: Sequence[Binding]) -> Config:
    """`in://PORT` in place of each bound input's path, so that other keys that refer to it follow."""
    for binding in bindings:
        key = binding.port.config
        if binding.text is not None and key is not None:
            origin = Origin("input", text=f"-i {binding.port.name}={binding.text}")
            config = config.set(key, f"in://{binding.port.name}", origin)
    return config


def _outputs(
    step: Step, engine: Engine, config: Config, data: Mapping[str, Any]
) -> tuple[PlannedOutput, ...]:
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
        layout = engine.checkpoint_layout(data, port.select) if port.select else None
        select, inside = layout or (None, None)
        found.append(
            PlannedOutput(port.name, port.type[0], value, port.config, select, inside, port.required)
        )
    return tuple(found)


def _shape(step: Step, engine: Engine, data: Mapping[str, Any], inputs: Sequence[PlannedInput]) -> StepFacts:
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
    )


def _out_placeholders(config: Mapping[str, Any], outputs: Sequence[PlannedOutput]) -> dict[str, Any]:
    """`out://PORT` in place of output paths: another place is the same recipe."""
    changed = Config(dict(config))
    for output in outputs:
        if output.key is not None and changed.has(output.key):
            changed = changed.set(output.key, f"out://{output.port}", Origin("engine"))
    return dict(changed.data)


def _code(engine: Engine, shape: StepFacts) -> dict[str, str]:
    """Digests of the code that decides the result, by a name that says no place."""
    found: dict[str, str] = {}
    for path in engine.code(shape):
        if path.exists():
            found[path.name] = digest_python(path)
    return found


def digest_python(path: Path) -> str:
    """Digest of a Python file, or of all Python files below a directory (no caches, no other files)."""
    if path.is_file():
        return digest_path(path).value
    from nemotron.artifacts.digest import digest_json

    files = sorted(p for p in path.rglob("*.py"))
    return digest_json({p.relative_to(path).as_posix(): digest_path(p).value for p in files})
