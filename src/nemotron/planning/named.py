"""Named artifacts in a plan: `art://` on a port, `${art:NAME,FIELD}` in a config, and what is tainted."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron.artifacts.find import named_version
from nemotron.artifacts.index.queries import Index, Location
from nemotron.artifacts.index.schema import PENDING_IDENT
from nemotron.artifacts.index.store_index import store_index
from nemotron.artifacts.naming import TAINTED, short_ident, taint_findings
from nemotron.artifacts.references import Reference, parse_reference
from nemotron.artifacts.store import Store
from nemotron.artifacts.verify import holds, place_state
from nemotron.catalog.types import TypeGraph
from nemotron.config.config import Config, Origin
from nemotron.config.keys import leaves
from nemotron.errors import CheckFailed, NemotronError, NotFound, UsageError
from nemotron.findings import Finding
from nemotron.planning.pinning import Pinned, WrongType, plan_facts
from nemotron.planning.plan import Plan, PlannedInput
from nemotron.planning.references import Binding

FIELDS = ("path", "digest", "type", "version", "name")
NOT_FOUND, STALE = "artifact.not_found", "store.stale"

# Read in half a minute on a login node with a good file system.
_LARGE = 8 << 30

_CALL = re.compile(r"\$\{art:\s*([^,{}$\s]+)\s*,\s*([^,{}$\s]+)\s*\}")


class NamedArtifacts:
    """What the records of a store say of names; the index is opened when the first one is asked for."""

    def __init__(self, store: Store, environ: Mapping[str, str], cwd: Path) -> None:
        self._store = store
        self._environ = environ
        self._cwd = cwd
        self._opened: Index | None = None

    def pin(self, binding: Binding, reference: Reference, graph: TypeGraph) -> Pinned:
        """The artifact that an `art://` reference means now, where it lies on this machine.

        Raises NotFound (no such name, or no copy of it here), CheckFailed (of another type, or changed).
        """
        ident = named_version(self._index, reference)
        place = self._place(ident, str(reference))
        port = binding.port
        if not any(graph.is_a(place.type, wanted) for wanted in port.type):
            raise WrongType(
                f"{reference} is {place.type}, input {port.name} takes {' or '.join(port.type)}",
                {None: (place.type,)},
                where=place.path,
            )
        return Pinned(
            _planned(
                port.name, port.type, port.config, f"art://{self._label(reference, ident)}", ident, place
            )
        )

    def fill(self, config: Config, port_keys: Collection[str]) -> tuple[Config, list[Pinned], list[Finding]]:
        """A config with every `${art:NAME,FIELD}` answered, what it names as inputs, what cannot be found.

        A path becomes `in://art.NAME`, so that where the artifact lies is no part of the recipe; in a key of
        an input port (port_keys, `inputs.*`) it becomes the reference. NAME is one of the config's own
        `artifacts:`, or a named artifact. Raises UsageError for another FIELD.
        """
        pinned: dict[str, Pinned] = {}
        findings: list[Finding] = []
        declared = config.get("artifacts") if config.has("artifacts") else None
        own = declared if isinstance(declared, Mapping) else {}
        for key, value in list(leaves(config.data)):
            if not isinstance(value, str) or "${art:" not in value:
                continue
            whole = _CALL.fullmatch(value)
            is_port = key in port_keys or key.startswith("inputs.")
            try:
                if whole and whole[2] == "path" and is_port:
                    filled = str(self._reference(whole[1], own))
                else:
                    filled = _CALL.sub(lambda found: self._answer(found, own, key, pinned), value)  # noqa: B023
            except NotFound as problem:
                what = f"{value}: {problem.what}"
                findings.append(Finding(NOT_FOUND, "error", what, config.place(key), fix=problem.next))
                continue
            except NemotronError as problem:
                raise type(problem)(
                    problem.what, where=config.place(key), nearest=problem.nearest, valid=problem.valid
                ) from problem
            config = config.set(key, filled, Origin("engine", text=value))
        return config, list(pinned.values()), findings

    def tainted(self, inputs: Sequence[PlannedInput]) -> list[Finding]:
        """An error for each pinned input that must not be used."""
        named = {i.digest: f"input {i.port}" for i in inputs if i.digest is not None}
        if not named or not self._has_records:
            return []
        for each in inputs:  # a checkpoint that nobody read yet is on record by its place
            for ident in self._index.idents_at(each.path) if each.path else ():
                if ident.startswith(PENDING_IDENT):
                    named[ident] = f"input {each.port}"
        stale = self._index.stale
        said = [] if stale is None else [Finding(STALE, "warning", stale, where="NEMOTRON_HOME")]
        return said + taint_findings(self._index, named)

    def tainted_outputs(self, outputs: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
        """An error for each output of an earlier run that must not be used, so not be handed over either."""
        named = {str(output.get("digest")): f"the earlier output {port}" for port, output in outputs.items()}
        return taint_findings(self._index, named) if named and self._has_records else []

    def recorded(self, path: Path) -> str | None:
        """The digest on record of something large that lies at a path unchanged since, so as not to read it.

        Told by names, sizes and times; what is small is read, which nothing deceives.
        """
        if not self._has_records:
            return None
        for ident in self._index.idents_at(str(path)):
            places = [p for p in self._index.locations(ident) if p.path == str(path)]
            large = bool(places) and (places[0].bytes or 0) >= _LARGE
            if large and not ident.startswith(PENDING_IDENT) and place_state(places[0]) == "intact":
                return ident
        return None

    @property
    def _has_records(self) -> bool:
        return self._store.remote is not None or self._store.records_dir.is_dir()

    @property
    def _index(self) -> Index:
        if self._opened is None:
            self._opened = store_index(self._store, self._environ)
        return self._opened

    def _reference(self, name: str, own: Mapping[str, Any]) -> Reference:
        """What NAME stands for: an entry of the config's `artifacts:`, else the artifact of that name."""
        written = own.get(name)
        text = written if isinstance(written, str) else f"art://{name}"
        reference = parse_reference(text, cwd=self._cwd)
        if reference.kind != "art":
            raise UsageError(f"artifacts.{name} is no art:// reference", valid=("art://NAME[:vN|:ALIAS]",))
        return reference

    def _answer(
        self, found: re.Match[str], own: Mapping[str, Any], key: str, pinned: dict[str, Pinned]
    ) -> str:
        name, field = found[1], found[2]
        if field not in FIELDS:
            raise UsageError(f"{field} is nothing that is known of an artifact", valid=FIELDS)
        reference = self._reference(name, own)
        ident = named_version(self._index, reference)
        place = self._place(ident, str(reference))
        port = f"art.{name}"
        label = self._label(reference, ident)
        pinned[port] = Pinned(_planned(port, (place.type,), key, f"art://{label}", ident, place))
        answers = {"path": f"in://{port}", "digest": ident, "type": place.type, "name": reference.name}
        return answers.get(field, label.rpartition(":")[2])

    def _label(self, reference: Reference, ident: str) -> str:
        """The reference pinned: an alias moves on, a version does not."""
        number = next(v.version for v in self._index.versions(reference.name) if v.subject == ident)
        return f"{reference.name}:v{number}"

    def _place(self, ident: str, called: str) -> Location:
        """Where an artifact lies on this machine, unchanged."""
        places = self._index.locations(ident)
        for place in places:
            if holds(place, ident, self._environ):
                return place
        here = [place.path for place in places if Path(place.path).exists()]
        if here:
            raise CheckFailed(
                f"{called} is no longer what was recorded",
                where=here[0],
                next=f"nemotron artifacts verify {short_ident(ident)}",
            )
        raise NotFound(
            f"{called} does not lie on this machine",
            valid=tuple(dict.fromkeys(place.path for place in places)),
            next=f"nemotron artifacts show {short_ident(ident)}",
        )


def _planned(
    port: str, types: tuple[str, ...], key: str | None, reference: str, ident: str, place: Location
) -> PlannedInput:
    return PlannedInput(
        port=port,
        types=types,
        state="pinned",
        key=key,
        type=place.type,
        reference=reference,
        path=place.path,
        digest=ident,
        made_by=place.run,
        output=place.port,
        facts=plan_facts(place.facts),
    )


def refuse_tainted_inputs(before: Plan, plan: Plan, store: Store, environ: Mapping[str, str]) -> None:
    """Refuse inputs that are known by their content only now, fetched or built, and must not be used.

    Raises CheckFailed; what the plan waives is let through.
    """
    known = {i.digest for i in before.inputs}
    news = [i for i in plan.inputs if i.digest is not None and i.digest not in known]
    if not news or TAINTED in plan.waived:
        return
    findings = [f for f in NamedArtifacts(store, environ, Path.cwd()).tainted(news) if f.severity == "error"]
    if findings:
        raise CheckFailed(
            f"{len(findings)} inputs must not be used" if len(findings) > 1 else "an input must not be used",
            where=plan.recipe.step,
            findings=findings,
        )
