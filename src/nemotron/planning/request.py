"""What a person asks to run, and what follows from it before anything is looked up: step, config, engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nemotron.catalog.discover import Catalog
from nemotron.catalog.step import SCRIPT_ENGINE, Step
from nemotron.config.compose import compose, resolve_config_path
from nemotron.config.config import Config
from nemotron.engines.base import find_engine
from nemotron.errors import CheckFailed, UsageError
from nemotron.planning.aliases import apply_aliases
from nemotron.planning.place import Place
from nemotron.planning.wishes import SECTION, is_key
from nemotron.profiles.profile import Profile


@dataclass(frozen=True)
class Request:
    """What a person asks to run; every field but `step` has a default.

    config: a config's name or path. overrides: `key=value` and `+key=value`. inputs: port to reference.
    engine: overrules the profile's, the config's and the manifest's. arguments: go to the trainer untouched.
    waived: ids of findings that shall not stop the launch. profile: its name, None for here.
    """

    step: str
    config: str | None = None
    overrides: tuple[str, ...] = ()
    inputs: Mapping[str, str] | None = None
    engine: str | None = None
    arguments: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()
    profile: str | None = None
    place: Place = field(default_factory=Place)


def composed(catalog: Catalog, request: Request, cwd: Path) -> tuple[Step, Path, Config]:
    """The step of a request, the file of its config, and the config with overrides applied."""
    step = catalog.get(request.step)
    name = request.config or step.run.default_config
    path = resolve_config_path(name, step.configs, cwd)
    base = compose(path, (), configs=step.configs)
    return step, path, apply_aliases(step, base, [_declared(base, text) for text in request.overrides])


def _declared(config: Config, text: str) -> str:
    """`run.env.KEY=VALUE` with a `+`: what a place has is declared, though no config holds it."""
    key = text.partition("=")[0]
    name = key.removeprefix(f"{SECTION}.").partition(".")[0]
    if key.startswith(f"{SECTION}.") and is_key(name) and not config.has(key):
        return f"+{text}"
    return text


def engine_name(
    step: Step, config: Config, request: Request, profile: Profile | None, wish: str | None
) -> str:
    """Which engine runs a step.

    `--engine`; else, on another machine, the wish of who needs it built, the profile's, the manifest's first;
    else the config's `run.engine`, the profile's, the manifest's first.
    """
    if config.has("run") and not isinstance(config.get("run"), Mapping | None):
        raise UsageError("`run:` is a section", where=config.place("run"), next="run: {engine: embedded}")
    named, where = request.engine, "--engine"
    elsewhere = profile is not None and profile.executor != "local"
    if named is None and config.has("run.engine") and not elsewhere:
        named, where = str(config.get("run.engine")), config.place("run.engine")
    if named is not None:
        if named not in step.engines:
            raise UsageError(f"{step.id} does not run on {named!r}", where=where, valid=step.engines)
        return named
    if not step.engines:
        raise CheckFailed(f"{step.id} names no engine and has no step.py", where=str(step.path))
    # One engine for a whole chain of steps: those that do not know it run on their own.
    for each in (wish, profile.get("engine") if profile else None):
        if each is not None and find_engine(each).name in step.engines:
            return each
    # Who trains there with this engine needs no container, and brings none for what comes before.
    if wish == "embedded" and SCRIPT_ENGINE in step.engines:
        return SCRIPT_ENGINE
    return step.engines[0]
