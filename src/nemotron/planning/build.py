"""(step, config, inputs) to a Plan. Nothing is launched and nothing is written here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nemotron import __version__
from nemotron.artifacts.naming import TAINTED
from nemotron.artifacts.references import Reference
from nemotron.artifacts.runs import Run
from nemotron.artifacts.store import Store, find_store
from nemotron.catalog.discover import Catalog, load_catalog
from nemotron.catalog.routes import Hop
from nemotron.catalog.step import Step
from nemotron.config.config import Config, Origin
from nemotron.engines.base import Engine, find_engine
from nemotron.errors import CheckFailed, NemotronError
from nemotron.findings import Finding
from nemotron.planning.compiled import (
    code_digests,
    out_placeholders,
    planned_outputs,
    port_values,
    step_facts,
    with_placeholders,
)
from nemotron.planning.conversions import conversion_of, offered_type, wrong_type
from nemotron.planning.earlier import find_earlier
from nemotron.planning.model_edges import model_edges
from nemotron.planning.model_identity import findings_to_come, identity_findings
from nemotron.planning.named import NamedArtifacts
from nemotron.planning.pinning import (
    Pinned,
    Progress,
    WrongType,
    built_input,
    choose_output,
    input_to_build,
    of_input,
    pin_elsewhere,
    pin_path,
    pin_run,
    reference_of,
)
from nemotron.planning.place import OF_PLACE, STUB, placed_step, secret_findings, wishes_of
from nemotron.planning.plan import Plan, PlannedInput, Recipe, recipe_inputs
from nemotron.planning.preflight import (
    LATE_RESOLVERS,
    OUR_SECTIONS,
    engine_findings,
    lenient,
    missing_values,
    stub_findings,
    unbound_inputs,
    waive,
)
from nemotron.planning.references import Binding, bind_inputs
from nemotron.planning.request import Request, composed, engine_name
from nemotron.planning.selecting import selected_path
from nemotron.profiles.profile import Profile


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


def bound_config(catalog: Catalog, request: Request, environ: Mapping[str, str], cwd: Path) -> Config:
    """The composed config with each bound input's reference in its key: what `--explain` speaks of."""
    step, _, config = composed(catalog, request, cwd)
    profile = _profile(request, environ, cwd)
    engine = engine_name(step, config, request, profile, None)
    values = port_values(step, engine, config, environ)
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


def _profile(request: Request, environ: Mapping[str, str], cwd: Path) -> Profile | None:
    if request.profile is None:
        return None
    from nemotron.profiles.load import load_profiles

    return load_profiles(environ, cwd).get(request.profile)


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
        self._top = Request("")
        self._profile: Profile | None = None

    def plan(self, request: Request) -> Plan:
        """The plan of a request."""
        if not self._chain:
            self._waived = request.waived
            self._top = request
            self._profile = _profile(request, self._environ, self._cwd)
        step, config_file, config = composed(self._catalog, request, self._cwd)
        wish = self._top.engine if self._elsewhere and request is not self._top else None
        engine = find_engine(engine_name(step, config, request, self._profile, wish))
        port_keys = [p.config for p in step.inputs(engine.name) if p.config is not None]
        config, named, unnamed = self._named.fill(config, port_keys)
        values = port_values(step, engine.name, config, self._environ)
        bindings = bind_inputs(step, engine.name, config, dict(request.inputs or {}), values)
        here = engine.why_not_here() is None and not self._elsewhere
        found = [self._pin(b, step, here=here, waived=request.waived) for b in bindings]
        pinned = [p for p in (*found, *named) if p is not None]
        inputs = tuple(p.input for p in pinned)
        findings = [*step.warnings, *unnamed, *(f for p in pinned for f in p.findings)]
        findings += self._named.tainted(inputs)
        plan = self._compiled(request, step, engine, config, bindings, inputs, findings)
        plan = replace(plan, config_file=str(config_file))
        earlier = find_earlier(plan, self._store, self._environ)
        if earlier.done_at is None:
            return earlier
        tainted = self._named.tainted_outputs(Run(Path(earlier.done_at)).outputs)
        if TAINTED in request.waived:
            tainted = [replace(f, severity="note", message=f"waived: {f.message}") for f in tainted]
        return replace(earlier, findings=(*earlier.findings, *tainted))

    def _compiled(
        self,
        request: Request,
        step: Step,
        engine: Engine,
        config: Config,
        bindings: Sequence[Binding],
        inputs: tuple[PlannedInput, ...],
        findings: list[Finding],
    ) -> Plan:
        """Config and inputs as recipe and placement, with everything that checks find."""
        wishes = wishes_of(self._profile, config, self._environ)
        config = with_placeholders(step, engine.name, config, bindings)
        resolved = config.without(*OUR_SECTIONS).resolve(self._environ, keep=LATE_RESOLVERS)
        outputs = planned_outputs(step, engine, config, resolved.data)
        placed = placed_step(
            step,
            engine,
            step_facts(step, () if request.place.stub else inputs),
            resolved.data,
            wishes,
            request,
            elsewhere=self._elsewhere,
            environ=self._environ,
        )
        findings += engine_findings(engine, step, bindings, config, placed.facts, self._environ)
        findings += engine.check_arguments(resolved.data, placed.facts, request.arguments)
        findings += [*placed.findings, *secret_findings(wishes, config)]
        findings += [] if request.place.stub else stub_findings(inputs)
        findings += unbound_inputs(self._catalog, step, inputs)
        findings += missing_values(resolved.missing, inputs, config)
        edges = model_edges(self._catalog, step, engine.name, inputs)
        findings += identity_findings(edges, inputs, self._environ)
        stub = request.place.stub
        code = {} if stub else {**code_digests(step, engine, placed.facts, self._environ), **placed.code}
        secrets = {v.variable for v in resolved.late if v.variable} | set(placed.placement.secrets)
        return Plan(
            recipe=Recipe(
                step=step.id,
                engine=STUB if stub else engine.name,
                engine_version=__version__ if stub else engine.version(),
                config=out_placeholders(engine.training_config(resolved.data), outputs),
                inputs=recipe_inputs(inputs),
                outputs={o.port: {"type": o.type, "select": o.select} for o in outputs},
                code=code,
                image=placed.image,
                arguments=request.arguments,
            ),
            placement=replace(placed.placement, secrets=tuple(sorted(secrets))),
            inputs=inputs,
            outputs=outputs,
            config_name=request.config or step.run.default_config,
            config_file="",
            edges=edges,
            builds=self._builds_of(inputs),
            notes=engine.notes(resolved.data),
            findings=waive(
                lenient(findings) if stub else findings,
                request.waived,
                self._may_come() | findings_to_come(edges, inputs),
            ),
            late=tuple(f"{v.key}: {v.expression}" for v in resolved.late),
            waived=request.waived,
            engine_problem=None if stub or self._elsewhere else engine.why_not_here(),
            planned_steps=engine.planned_steps(resolved.data, placed.facts.rows),
        )

    @property
    def _elsewhere(self) -> bool:
        return self._profile is not None and self._profile.executor != "local"

    def _may_come(self) -> frozenset[str]:
        """Ids that may be waived without such a finding here: what it builds on may have it, or a launch."""
        built = {f.id for plan in self._built.values() for f in plan.findings}
        # What a backend finds is not known before its scheduler is asked.
        of_place = {w for w in self._waived if self._elsewhere and w.partition(".")[0] in OF_PLACE}
        return frozenset({TAINTED, *built, *of_place, *(self._waived if self._chain else ())})

    def _pin(self, binding: Binding, step: Step, *, here: bool, waived: Sequence[str]) -> Pinned | None:
        """The input of a binding; None for an optional port that nothing is bound to."""
        port = binding.port
        if binding.text is None:
            planned = PlannedInput(port.name, tuple(port.type), "unbound", key=port.config)
            return Pinned(planned) if port.required else None
        try:
            reference = reference_of(binding, binding.text, self._cwd)
            return self._pin_or_convert(binding, reference, step, here=here, waived=waived)
        except NemotronError as problem:
            raise of_input(binding, problem) from problem

    def _pin_or_convert(
        self, binding: Binding, reference: Reference, step: Step, *, here: bool, waived: Sequence[str]
    ) -> Pinned:
        try:
            pinned = self._pin_reference(binding, reference, step, here=here, waived=waived)
        except WrongType as problem:
            converted = self._pin_converted(binding, reference, step, problem.outputs)
            if converted is None:
                raise
            return converted
        offered = offered_type(pinned.input, reference)
        if offered is None:
            return pinned
        converted = self._pin_converted(binding, reference, step, {None: (offered,)})
        if converted is not None:
            return converted
        wrong = wrong_type(pinned.input, offered, self._catalog.types_of(step))
        return replace(pinned, findings=(*wrong, *pinned.findings))

    def _pin_converted(
        self,
        binding: Binding,
        reference: Reference,
        step: Step,
        outputs: Mapping[str | None, Sequence[str]],
    ) -> Pinned | None:
        """The input, converted from what its reference offers; None where no conversion leads to the port."""
        graph = self._catalog.types_of(step)
        found = conversion_of(self._catalog, graph, binding.port, reference, outputs)
        if found is None:
            return None
        steps = found.steps()
        keys = [self._plan_conversion(made, hop, text) for made, hop, text in steps]
        pinned = self._pin_step(binding, steps[-1][0], step)
        first = found.hops[0].takes.name
        source = next(i for i in self._built[keys[0]].inputs if i.port == first)
        engines = [self._built[key].recipe.engine for key in keys]
        return replace(pinned, input=replace(pinned.input, converted=found.told(source, engines)))

    def _plan_conversion(self, made: Reference, hop: Hop, text: str) -> str:
        """The key of its plan; what an adapter says of its base is bound, where nothing else is."""
        key = self._plan_once(made, {hop.takes.name: text})
        inputs = {i.port: i for i in self._built[key].inputs}
        base, named = hop.takes.adapts, inputs[hop.takes.name].facts.get("base")
        if base is None or named is None or base not in inputs or inputs[base].state != "unbound":
            return key
        del self._built[key]
        return self._plan_once(made, {hop.takes.name: text, base: str(named)})

    def _pin_reference(
        self, binding: Binding, reference: Reference, step: Step, *, here: bool, waived: Sequence[str]
    ) -> Pinned:
        if reference.selection is not None:
            # Kept as it was typed; what it means now is pinned.
            found = Reference("path", str(selected_path(reference, self._store)))
            pinned = self._pin_reference(binding, found, step, here=here, waived=waived)
            return replace(pinned, input=replace(pinned.input, reference=str(reference)))
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
            graph = self._catalog.types_of(step)
            detached = self._elsewhere or not self._top.place.attached
            return pin_run(binding, reference, self._store, graph, wait=detached)
        if reference.kind == "step":
            return self._pin_step(binding, reference, step)
        if reference.kind == "art":
            return self._named.pin(binding, reference, self._catalog.types_of(step))
        return pin_elsewhere(binding, reference, here=here)

    def _plan_once(self, reference: Reference, inputs: Mapping[str, str] | None = None) -> str:
        """The key of the plan for a step reference. inputs: stand for its overrides, which name the same."""
        key = str(replace(reference, port=None))
        if key in self._chain:
            raise CheckFailed("steps build each other: " + " -> ".join([*self._chain, key]))
        if key not in self._built:
            self._chain.append(key)
            self._built[key] = self.plan(
                Request(
                    reference.name,
                    reference.config,
                    () if inputs else reference.overrides,
                    inputs=inputs,
                    engine=reference.engine,
                    waived=self._waived,
                    profile=self._top.profile,
                    place=replace(self._top.place, chain=None),
                )
            )
            self._chain.pop()
        return key

    def _pin_step(self, binding: Binding, reference: Reference, consumer: Step) -> Pinned:
        key = self._plan_once(reference)
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
