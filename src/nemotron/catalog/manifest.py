"""Reads a `step.toml`: the existing catalog format, and what ours adds to it.

Ours adds, on ports, `name`, `config`, `select`, `engines` and a list as `type`; on inputs, what they share
with another (`RELATION_TYPES` of `step`); `alias_of` on parameters; `match` on errors; and the `[run]` table,
which takes the place of the script's header.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nemotron.catalog.cache import ParsedFiles
from nemotron.catalog.step import LAUNCHES, RELATION_TYPES, SCRIPT_ENGINE, BrokenStep, Port, RunShape, Step
from nemotron.catalog.toml_source import ManifestError
from nemotron.catalog.toml_table import TomlTable

if TYPE_CHECKING:
    from nemotron.catalog.advice import KnownError, ModelChoice, Parameter, Strategy

__all__ = [
    "LAUNCHES",
    "MANIFEST_KEYS",
    "SCRIPT_ENGINE",
    "BrokenStep",
    "KnownError",
    "ManifestError",
    "ModelChoice",
    "Parameter",
    "Port",
    "RunShape",
    "Step",
    "Strategy",
    "read_step",
]

_PORT_KEYS = frozenset({"type", "description", "required", "name", "config", "select", "engines"})

MANIFEST_KEYS: Mapping[str, frozenset[str]] = {
    "step": frozenset({"id", "name", "category", "description", "summary", "tags", "stack", "difficulty"}),
    "consumes": _PORT_KEYS.union(RELATION_TYPES),
    "produces": _PORT_KEYS,
    "parameters": frozenset({"name", "description", "default", "choices", "alias_of"}),
    "strategies": frozenset({"when", "then", "skill"}),
    "errors": frozenset({"name", "recovery", "skill", "match"}),
    "models": frozenset({"name", "description", "default", "min_gpus"}),
    "run": frozenset({"engines", "image", "launch", "nodes", "gpus_per_node", "default_config"}),
}
"""The tables of a manifest and their keys; `[reference]` is free. Another key is a lint error."""

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def read_step(directory: Path, root_path: Path, root_name: str, files: ParsedFiles | None = None) -> Step:
    """The step in `directory`, one of the root `root_name` at `root_path`.

    Without `[run]` the script's header says how the step runs. Raises ManifestError, with file and line,
    if either cannot be read or holds a value of the wrong type; unknown keys and types are lint's matter.
    """
    files = files or ParsedFiles()
    source = files.toml(directory / "step.toml")
    manifest = TomlTable(source, source.data)
    about = manifest.table("step")
    category = about.text("category") or directory.parent.name
    step = Step(
        id=_read_id(about, f"{category}/{directory.name}"),
        name=about.text("name") or directory.name.replace("_", " ").replace("-", " ").title(),
        category=category,
        description=about.text("description") or about.text("summary"),
        tags=about.texts("tags"),
        consumes=_read_ports(manifest, "consumes"),
        produces=_read_ports(manifest, "produces"),
        run=_read_run(manifest.table("run"), directory)
        if "run" in manifest
        else _read_header(files, directory),
        directory=directory,
        root=root_name,
        root_path=root_path,
        stack=about.optional_text("stack"),
        difficulty=about.optional_text("difficulty"),
        manifest=manifest,
    )
    if not files.is_accepted(source):
        step.read_all()
        files.accept(source)
    return step


def __getattr__(name: str) -> object:
    """The records of `advice`, which `steps list` does not need and so are not imported above."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nemotron.catalog import advice

    return getattr(advice, name)


def _read_id(about: TomlTable, default: str) -> str:
    step_id = about.text("id") or default
    if not all(_is_word(part) for part in step_id.split("/")):
        about.fail("id", f"{step_id!r} cannot be a step id: letters, digits and _ . - between slashes only")
    return step_id


def _is_word(text: str) -> bool:
    return bool(text) and text[0] not in ".-" and _WORD.issuperset(text)


def _read_ports(manifest: TomlTable, key: str) -> tuple[Port, ...]:
    ports = [_read_port(entry) for entry in manifest.tables(key)]
    named = [port for port in ports if port.name]
    for index, port in enumerate(ports):
        if not port.name:
            ports[index] = port._replace(name=_name_after_type(port, named))
            named.append(ports[index])
    return tuple(ports)


def _read_port(entry: TomlTable) -> Port:
    is_list = isinstance(entry.values.get("type"), list)
    types = entry.texts("type") if is_list else (entry.required_text("type"),)
    if not all(types) or not types:
        entry.fail("type", "a port needs at least one type")
    name = entry.text("name")
    if name and not _is_word(name):
        entry.fail("name", f"{name!r} cannot be a port name: letters, digits and _ . - only")
    return Port(
        name=name,
        type=types,
        description=entry.text("description"),
        required=entry.flag("required", True),
        config=entry.optional_text("config"),
        select=entry.optional_text("select"),
        engines=entry.texts("engines"),
        same_tokens_as=entry.optional_text("same_tokens_as"),
        same_template_as=entry.optional_text("same_template_as"),
        adapts=entry.optional_text("adapts"),
    )


def _name_after_type(port: Port, named: list[Port]) -> str:
    """The port's type, with `-2`, `-3` if a port of a common engine has that name."""
    taken = {
        other.name
        for other in named
        if not port.engines or not other.engines or set(port.engines) & set(other.engines)
    }
    name, count = port.type[0], 1
    while name in taken:
        count += 1
        name = f"{port.type[0]}-{count}"
    return name


def _read_run(run: TomlTable, directory: Path) -> RunShape:
    return RunShape(
        engines=run.texts("engines") or _script_engine(directory),
        image=run.optional_text("image"),
        launch=run.text("launch", "python"),
        nodes=run.number("nodes", 1),
        gpus_per_node=run.number("gpus_per_node", 0),
        default_config=run.text("default_config", "default"),
    )


def _read_header(files: ParsedFiles, directory: Path) -> RunShape:
    source = files.header(directory / "step.py")
    if source is None:
        return RunShape(engines=_script_engine(directory))
    header = TomlTable(source, source.data, ("tool", "runspec"))
    run, config, resources = (header.table(key) for key in ("run", "config", "resources"))
    config_dir = config.text("dir", "config")
    if "\0" in config_dir:
        config.fail("dir", f"{config_dir!r} cannot be a directory")
    shape = RunShape(
        engines=(SCRIPT_ENGINE,),
        image=header.optional_text("image"),
        launch=run.text("launch", "torchrun"),
        nodes=resources.number("nodes", 1),
        gpus_per_node=resources.number("gpus_per_node", 8),
        cmd=run.optional_text("cmd"),
        workdir=run.optional_text("workdir"),
        default_config=config.text("default", "default"),
        config_dir=config_dir,
    )
    files.accept(source)
    return shape


def _script_engine(directory: Path) -> tuple[str, ...]:
    return (SCRIPT_ENGINE,) if (directory / "step.py").is_file() else ()
