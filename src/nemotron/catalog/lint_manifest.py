"""What is wrong inside one manifest, without looking at the step's configs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from nemotron.artifacts.references import SELECTION, SELECTIONS
from nemotron.catalog.cache import ParsedFiles
from nemotron.catalog.manifest import MANIFEST_KEYS
from nemotron.catalog.runspec import HEADER_KEYS
from nemotron.catalog.step import LAUNCHES, RELATION_TYPES, TABLES, Port, Step
from nemotron.catalog.toml_source import ManifestError
from nemotron.catalog.toml_table import TomlTable
from nemotron.catalog.types import TypeGraph
from nemotron.errors import nearest
from nemotron.findings import Finding


def check_manifest(step: Step, types: TypeGraph | None) -> Iterator[Finding]:
    """Unknown keys and types, names given twice, impossible values.

    types: the types of the step's root; None if they cannot be read, and so are not checked.
    """
    yield from _unknown_keys(step)
    for key, ports in (("consumes", step.consumes), ("produces", step.produces)):
        entries = list(step.manifest.tables(key))
        yield from _names_twice(step, ports, entries)
        for port, entry in zip(ports, entries, strict=True):
            yield from _check_port(step, port, entry, types)
            yield from _check_relations(step, port, entry, types)
    yield from _check_parameters(step)
    yield from _check_matches(step)
    yield from _check_run(step)
    yield from _check_files(step)


def same_value(one: object, other: object) -> bool:
    """Equal as config values: 1 is 1.0, but true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _finding(
    check: str, severity: str, step: Step, message: str, where: str, choices: Iterable[str] = ()
) -> Finding:
    return Finding(
        id=f"catalog.{check}",
        severity=severity,
        message=f"{step.id}: {message}",
        where=where,
        valid=", ".join(choices) or None,
    )


def _unknown_keys(step: Step) -> Iterator[Finding]:
    manifest = step.manifest
    yield from _unknown(step, manifest, {*MANIFEST_KEYS, "reference"}, "table of a manifest")
    for name in ("step", "run"):
        yield from _unknown(step, manifest.table(name), MANIFEST_KEYS[name], f"key of [{name}]")
    for name in TABLES:
        for entry in manifest.tables(name):
            yield from _unknown(step, entry, MANIFEST_KEYS[name], f"key of [[{name}]]")
    header = _header(step)
    if header and "run" not in manifest:
        for name, keys in HEADER_KEYS.items():
            table = header.table(name) if name else header
            label = ".".join(filter(None, ("tool.runspec", name)))
            yield from _unknown(step, table, keys, f"key of [{label}]")


def _unknown(step: Step, table: TomlTable, keys: Iterable[str], what: str) -> Iterator[Finding]:
    for key in table.values:
        if key not in keys:
            choices = nearest(key, sorted(keys)) or sorted(keys)
            yield _finding("unknown_key", "error", step, f"{key!r} is no {what}", table.where(key), choices)


def _header(step: Step) -> TomlTable | None:
    """The script's header; None also where it is broken and `[run]` takes its place."""
    try:
        source = ParsedFiles().header(step.script) if step.script else None
    except ManifestError:
        return None
    return TomlTable(source, source.data, ("tool", "runspec")) if source else None


def _names_twice(step: Step, ports: Sequence[Port], entries: Sequence[TomlTable]) -> Iterator[Finding]:
    for index, port in enumerate(ports):
        for earlier in ports[:index]:
            if earlier.name == port.name and _meet(earlier, port):
                where = entries[index].where("name")
                yield _finding(
                    "port_twice", "error", step, f"two ports of one engine are named {port.name}", where
                )
                break


def _check_port(step: Step, port: Port, entry: TomlTable, types: TypeGraph | None) -> Iterator[Finding]:
    for name in port.type:
        if types is not None and name not in types:
            message = f"port {port.name}: {name!r} is no type of root {step.root}"
            choices = nearest(name, types.names)
            yield _finding("unknown_type", "error", step, message, entry.where("type"), choices)
    if port.select is not None and not SELECTION.fullmatch(port.select):
        message = f"port {port.name}: {port.select!r} selects no checkpoint"
        yield _finding("unknown_selection", "error", step, message, entry.where("select"), SELECTIONS)
    for engine in port.engines:
        if engine not in step.engines:
            message = f"port {port.name} is for engine {engine!r}, which the step does not list"
            yield _finding("port_engine", "warning", step, message, entry.where("engines"), step.engines)


def _check_relations(step: Step, port: Port, entry: TomlTable, types: TypeGraph | None) -> Iterator[Finding]:
    """An input that must agree with none of the step's inputs, or with one that cannot tell."""
    for relation, name in port.relations():
        where = entry.where(relation)
        others = [p for p in step.consumes if p.name != port.name and _meet(p, port)]
        named = [p for p in others if p.name == name]
        if not named:
            message = f"port {port.name}: {relation} is {name!r}, which is no other input of the step"
            choices = dict.fromkeys([*nearest(name, [p.name for p in others]), *(p.name for p in others)])
            yield _finding("unknown_port", "error", step, message, where, choices)
        own, its = RELATION_TYPES[relation]
        for end, wanted in ((port, own), *((p, its) for p in named)):
            if types is not None and not any(types.is_a(have, want) for have in end.type for want in wanted):
                message = f"port {port.name}: {relation} says nothing of {' or '.join(end.type)} ({end.name})"
                yield _finding("relation_type", "error", step, message, where, wanted)


def _meet(one: Port, other: Port) -> bool:
    """Whether a run can have both ports."""
    return not one.engines or not other.engines or bool(set(one.engines) & set(other.engines))


def _check_parameters(step: Step) -> Iterator[Finding]:
    aliases = {parameter.name: parameter.alias_of for parameter in step.parameters}
    seen: set[str] = set()
    for parameter, entry in zip(step.parameters, step.manifest.tables("parameters"), strict=True):
        name = parameter.name
        if name in seen:
            yield _finding(
                "parameter_twice", "error", step, f"parameter {name} is there twice", entry.where("name")
            )
        seen.add(name)
        if (
            parameter.choices
            and parameter.default is not None
            and not _is_choice(parameter.default, parameter.choices)
        ):
            message = f"parameter {name}: the default {parameter.default!r} is none of its choices"
            choices = map(repr, parameter.choices)
            yield _finding("default_not_a_choice", "error", step, message, entry.where("default"), choices)
        if _leads_back(name, aliases):
            message = f"parameter {name}: alias_of leads back to {name}"
            yield _finding("alias_circle", "error", step, message, entry.where("alias_of"))


def _is_choice(default: object, choices: Sequence[object]) -> bool:
    if any(same_value(default, choice) for choice in choices):
        return True
    return isinstance(default, list) and all(_is_choice(item, choices) for item in default)


def _leads_back(name: str, aliases: dict[str, str | None]) -> bool:
    seen: set[str] = set()
    ahead = aliases.get(name)
    while ahead and ahead not in seen:
        seen.add(ahead)
        ahead = aliases.get(ahead)
    return name in seen


def _check_matches(step: Step) -> Iterator[Finding]:
    for known, entry in zip(step.errors, step.manifest.tables("errors"), strict=True):
        try:
            re.compile(known.match or "")
        except re.error as error:
            message = f"error {known.name}: match is no regular expression: {error}"
            yield _finding("bad_match", "error", step, message, entry.where("match"))


def _check_run(step: Step) -> Iterator[Finding]:
    run = step.run
    if run.launch not in LAUNCHES:
        message = f"launch is {run.launch!r}"
        yield _finding("launch", "error", step, message, _where_run(step, "run", "launch"), LAUNCHES)
    if run.nodes < 1:
        message = f"nodes is {run.nodes}, a step runs on one at least"
        yield _finding("resources", "error", step, message, _where_run(step, "resources", "nodes"))
    if run.gpus_per_node < 0:
        message = f"gpus_per_node is {run.gpus_per_node}"
        yield _finding("resources", "error", step, message, _where_run(step, "resources", "gpus_per_node"))
    if not run.engines:
        message = "nothing can run it: no engines in [run], and no step.py"
        yield _finding("no_engine", "warning", step, message, str(step.path))
    if step.configs and run.default_config not in step.configs:
        message = f"its default config {run.default_config!r} is none of its configs"
        where = _where_run(step, "config", "default", key="default_config")
        yield _finding("default_config", "error", step, message, where, step.configs)
    if "run" in step.manifest and _header(step):
        message = "the script's [tool.runspec] header is not read, because the manifest has [run]"
        yield _finding("header_unused", "warning", step, message, str(step.script))


def _where_run(step: Step, table: str, header_key: str, *, key: str | None = None) -> str:
    """Where a value of the run shape comes from: `[run]`, or its place in the script's header."""
    header = _header(step)
    if "run" in step.manifest or header is None:
        return step.manifest.table("run").where(key or header_key)
    return header.table(table).where(header_key)


def _check_files(step: Step) -> Iterator[Finding]:
    if not (step.directory / "README.md").is_file():
        yield _finding("no_readme", "warning", step, "there is no README.md", str(step.directory))
    if not step.configs:
        place = step.directory / step.run.config_dir
        yield _finding("no_configs", "warning", step, "there are no configs", str(place))
    for name, path in step.configs.items():
        if path.suffix == ".yaml" and path.with_suffix(".yml").is_file():
            message = f"config {name} is there as .yaml and as .yml; the .yml is not read"
            yield _finding("config_twice", "warning", step, message, str(path.with_suffix(".yml")))
    place_in_root = step.directory.relative_to(step.root_path).as_posix()
    if step.id != place_in_root:
        message = f"the id is not the step's directory, {place_in_root}"
        where = step.manifest.table("step").where("id")
        yield _finding("id_not_directory", "warning", step, message, where)
