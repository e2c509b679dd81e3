"""Which artifact each input port of a step gets: from `-i`, a config key or the config's `inputs:`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemotron.artifacts.references import FORMS
from nemotron.catalog.step import Port, Step
from nemotron.config.config import Config
from nemotron.errors import UsageError, nearest

MISSING = "???"


@dataclass(frozen=True)
class Binding:
    """What an input port was given: the text of a reference, and the place that gave it."""

    port: Port
    text: str | None
    place: str


def bind_inputs(
    step: Step, engine: str | None, config: Config, given: Mapping[str, str], values: Mapping[str, object]
) -> tuple[Binding, ...]:
    """One binding for each input port the engine has.

    given: port to reference, from `-i`. values: resolved values of the ports' config keys.
    On the command line `-i PORT=REF` and the port's key are two names of one thing, and giving both is an
    error; among files the later source wins. Raises UsageError for unknown ports.
    """
    ports = step.inputs(engine)
    _refuse_unknown(step, ports, tuple(given), "command line")
    declared = _declared(config)
    for name in declared:
        _refuse_unknown(step, ports, (name,), config.place(f"inputs.{name}"))
    _refuse_untied(step, ports, (*given, *declared))
    return tuple(
        _bind(port, config, given.get(port.name), declared.get(port.name), values)
        for port in ports
        if port.config is not None
    )


def _declared(config: Config) -> Mapping[str, str | None]:
    """The config's `inputs:`. Raises UsageError when it maps no names to references."""
    declared = config.get("inputs") if config.has("inputs") else None
    if declared is None:
        return {}
    if not isinstance(declared, Mapping):
        raise UsageError(
            "`inputs:` takes ports and references", where=config.place("inputs"), next="inputs: {PORT: REF}"
        )
    for name, reference in declared.items():
        if reference is not None and not isinstance(reference, str):
            raise UsageError(
                f"inputs.{name} is no reference", where=config.place(f"inputs.{name}"), valid=FORMS
            )
    return declared


def _bind(
    port: Port, config: Config, given: str | None, declared: object, values: Mapping[str, object]
) -> Binding:
    key = port.config
    has_key = key is not None and config.has(key)
    value = values.get(key) if key is not None and has_key else None
    text = value if isinstance(value, str) and value != MISSING else None
    key_typed = has_key and key is not None and _last_kind(config, key) == "override"
    if given is not None:
        if key_typed:
            raise UsageError(
                f"-i {port.name}=... and {key}=... name the same input",
                where="command line",
                next="give one of them",
            )
        return Binding(port, given, f"-i {port.name}")
    if isinstance(declared, str) and declared:
        name = f"inputs.{port.name}"
        if _last_kind(config, name) == "override" and key_typed:
            raise UsageError(
                f"{name}=... and {key}=... name the same input", where="command line", next="give one of them"
            )
        if text is None or key is None or _layer(config, name) >= _layer(config, key):
            return Binding(port, declared, config.place(name))
    return Binding(port, text, config.place(key) if has_key and key else "")


def _refuse_unknown(step: Step, ports: Sequence[Port], names: Sequence[str], where: str) -> None:
    known = [p.name for p in ports]
    for name in names:
        if name not in known:
            raise UsageError(
                f"{step.id} has no input {name!r}",
                where=where,
                nearest=nearest(name, known),
                valid=known,
                next=f"nemotron steps show {step.id}",
            )


def _refuse_untied(step: Step, ports: Sequence[Port], names: Sequence[str]) -> None:
    """A port of the existing format says what it takes and not where its path goes."""
    for port in ports:
        if port.config is None and port.name in names:
            raise UsageError(
                f"the manifest of {step.id} ties input {port.name} to no config key",
                where=str(step.path),
                next="set the key itself: KEY=PATH",
            )


def _last_kind(config: Config, key: str) -> str | None:
    origins = config.origins(key)
    return origins[-1].kind if origins else None


def _layer(config: Config, key: str) -> int:
    origins = config.origins(key)
    return origins[-1].layer if origins else 0
