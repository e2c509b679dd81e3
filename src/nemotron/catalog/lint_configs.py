"""Whether a manifest and the step's configs speak of the same keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nemotron.catalog.lint_manifest import same_value
from nemotron.catalog.step import Step
from nemotron.catalog.toml_table import TomlTable
from nemotron.errors import NemotronError
from nemotron.findings import Finding

if TYPE_CHECKING:
    from nemotron.catalog.advice import Parameter
    from nemotron.config.config import Config


def check_configs(step: Step) -> Iterator[Finding]:
    """Configs that do not compose; parameters, aliases and ports without a key in any config; defaults
    that are not the default config's.

    A key counts as there when its value is null or `???`.
    """
    configs: dict[str, Config] = {}
    for name in step.configs:
        try:
            configs[name] = _compose(step, name)
        except NemotronError as error:
            yield Finding(
                id="catalog.broken_config",
                severity="error",
                message=f"{step.id}: config {name}: {error.what}",
                where=error.where or str(step.configs[name]),
                valid=", ".join(error.nearest or error.valid) or None,
                fix=error.next,
            )
    # Where a config is broken, it may be the one that has the key.
    if configs and len(configs) == len(step.configs):
        yield from _unreached_keys(step, configs)
    default = configs.get(step.run.default_config)
    if default:
        yield from _other_defaults(step, default)


def _compose(step: Step, name: str) -> Config:
    from nemotron.config.compose import compose

    return compose(step.configs[name], configs=step.configs)


def _unreached_keys(step: Step, configs: dict[str, Config]) -> Iterator[Finding]:
    for parameter, entry in _parameters(step):
        if not _has(configs.values(), parameter.key):
            key = "alias_of" if parameter.alias_of else "name"
            what = f"{parameter.name} is an alias of" if parameter.alias_of else "the manifest documents"
            yield _unreached(step, f"{what} {parameter.key}", parameter.key, entry.where(key), configs)
    for direction, ports in (("consumes", step.consumes), ("produces", step.produces)):
        for port, entry in zip(ports, step.manifest.tables(direction), strict=True):
            if port.config and not _has(configs.values(), port.config):
                what = f"port {port.name} is bound to {port.config}"
                yield _unreached(step, what, port.config, entry.where("config"), configs)


def _unreached(step: Step, what: str, key: str, where: str, configs: dict[str, Config]) -> Finding:
    close = dict.fromkeys(near for config in configs.values() for near in config.nearest(key))
    return Finding(
        id="catalog.unreached_key",
        severity="error",
        message=f"{step.id}: {what}, which no config of the step has",
        where=where,
        valid=", ".join([*close][:3]) or None,
    )


def _other_defaults(step: Step, config: Config) -> Iterator[Finding]:
    for parameter, entry in _parameters(step):
        if parameter.default is None or not config.has(parameter.key):
            continue
        actual = config.get(parameter.key)
        is_interpolated = isinstance(actual, str) and "${" in actual
        if not is_interpolated and not same_value(parameter.default, actual):
            yield Finding(
                id="catalog.other_default",
                severity="warning",
                message=f"{step.id}: parameter {parameter.name} has the default {parameter.default!r} here, "
                f"but {actual!r} in config {step.run.default_config}",
                where=entry.where("default"),
            )


def _parameters(step: Step) -> Iterator[tuple[Parameter, TomlTable]]:
    return zip(step.parameters, step.manifest.tables("parameters"), strict=True)


def _has(configs: Iterable[Config], key: str) -> bool:
    return any(config.has(key) for config in configs)
