"""What planning and launching ask of an engine, and where to find one by name."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nemotron.errors import UsageError, nearest
from nemotron.findings import Finding

_ENGINES = {
    "embedded": "nemotron.engines.embedded.engine",
    "megatron_bridge": "nemotron.engines.megatron_bridge.engine",
    "nemo_rl": "nemotron.engines.nemo_rl.engine",
    "script": "nemotron.engines.script",
}

# Engines that start the step's own script: its code travels with a run, and it takes the GPUs it is given.
OWN_SCRIPT = frozenset({"megatron_bridge", "script"})


@dataclass(frozen=True)
class StepFacts:
    """What an engine needs to know of the step it is to run.

    script, command: the step's own script and its command template, for engines that run it.
    launch: ray, torchrun or python. rows: rows of the inputs that were read, by port. facts: all that was
    found of them.
    nodes, gpus_per_node: the step's shape. image: the container image, None without one.
    python: the interpreter of the machine it runs on. elsewhere: whether that is another than this one.
    """

    step: str
    directory: Path
    script: Path | None
    command: str | None
    launch: str
    nodes: int
    gpus_per_node: int
    image: str | None
    rows: Mapping[str, int]
    bound: Mapping[str, str]
    python: str = sys.executable
    elsewhere: bool = False
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """What a recipe needs of the place it runs at.

    launch: ray, torchrun or python. nodes: of the whole allocation. image: the container image, None without
    one. why: where each number came from, in words, by field: `{"nodes": "cluster.num_nodes 1 + ..."}`.
    """

    launch: str
    nodes: int
    gpus_per_node: int
    image: str | None
    why: Mapping[str, str]


class Engine(Protocol):
    """One way to run steps. Engines are modules' `ENGINE` objects; they import no framework."""

    name: str

    def why_not_here(self) -> str | None:
        """Why this machine cannot run it, in one sentence; None when it can."""

    def version(self) -> str:
        """Version of the framework that would run, part of the recipe."""

    def training_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config as the trainer reads it: sections that are not for this engine are left out."""

    def check(self, config: Mapping[str, Any], step: StepFacts) -> tuple[Finding, ...]:
        """Everything that can be told wrong before it costs anything."""

    def check_arguments(
        self, config: Mapping[str, Any], step: StepFacts, arguments: Sequence[str]
    ) -> tuple[Finding, ...]:
        """What is wrong with what follows `--`."""

    def notes(self, config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """Config keys that have no effect on this engine, and why."""

    def argv(self, step: StepFacts, config: Mapping[str, Any], arguments: Sequence[str]) -> tuple[str, ...]:
        """The command; `{run_dir}` stands for the run directory."""

    def environment(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Environment variables the command needs."""

    def checkpoint_layout(
        self, config: Mapping[str, Any], select: str, type_name: str
    ) -> tuple[str, str | None] | None:
        """Which of several checkpoints the artifact is, and where in its directory it lies; None where that
        has to be looked for.

        None for both where the path itself is the artifact. `best` is `latest` for a config that ranks none.
        """

    def code(self, step: StepFacts) -> tuple[Path, ...]:
        """Files and directories whose content decides the result."""

    def shape(
        self, step: StepFacts, config: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> Shape:
        """What the recipe needs; `environment` is what the profile and the command line give the job."""

    def placed(
        self, config: Mapping[str, Any], *, seconds: int | None, save_before: int | None
    ) -> Mapping[str, Any]:
        """Dotted keys of the trainer's config that the place decides; `{run_dir}` in a value is the run's.

        seconds: length of one allocation, None without an end. save_before: seconds before its end at which
        the state is to be on disk.
        """

    def check_place(
        self,
        step: StepFacts,
        config: Mapping[str, Any],
        *,
        nodes: int,
        gpus_per_node: int,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[Finding, ...]:
        """What is wrong with running this config on so many nodes with so many GPUs each."""

    def prefetch(self, config: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
        """Commands that fetch what the job would download, for a machine without GPUs; argument lists."""

    def planned_steps(self, config: Mapping[str, Any], rows: Mapping[str, int]) -> int | None:
        """Training steps until the run is done, None where nobody can tell. rows: by port, where known."""


def find_engine(name: str) -> Engine:
    """The engine of this name. Raises UsageError for an unknown one."""
    if name not in _ENGINES:
        raise UsageError(
            f"there is no engine {name!r}", nearest=nearest(name, _ENGINES), valid=tuple(_ENGINES)
        )
    engine: Engine = importlib.import_module(_ENGINES[name]).ENGINE
    return engine


def place_findings(shape: Shape, *, nodes: int, gpus_per_node: int) -> tuple[Finding, ...]:
    """Errors where a place is not of the shape that a recipe needs; too many GPUs for one node are fine."""
    found = []
    if nodes != shape.nodes:
        found.append(
            Finding(
                "place.nodes",
                "error",
                f"the allocation has {nodes} nodes, the step needs {shape.nodes} ({shape.why['nodes']})",
                where="nodes",
                valid=str(shape.nodes),
                fix=f"run.env.nodes={shape.nodes}",
            )
        )
    if gpus_per_node < shape.gpus_per_node:
        found.append(
            Finding(
                "place.gpus_per_node",
                "error",
                f"a node has {gpus_per_node} GPUs, the step needs {shape.gpus_per_node} "
                f"({shape.why['gpus_per_node']})",
                where="gpus_per_node",
                valid=str(shape.gpus_per_node),
                fix=f"run.env.gpus_per_node={shape.gpus_per_node}",
            )
        )
    return tuple(found)


def ranked(config: Mapping[str, Any], select: str) -> str:
    """`select`, but `latest` where `checkpointing.metric_name` is null: no checkpoint is the best then."""
    section = config.get("checkpointing")
    named = isinstance(section, Mapping) and section.get("metric_name") is not None
    return select if named or select != "best" else "latest"


def installed_version(*packages: str) -> str | None:
    """Versions of installed packages as `name version, ...`, None when one is missing.

    Read from the directory names of `*.dist-info`, which takes a millisecond; importlib.metadata takes 40.
    """
    found = _installed(tuple(sys.path))
    if any(p not in found for p in packages):
        return None
    return ", ".join(f"{p} {found[p]}" for p in packages)


@functools.cache
def _installed(places: tuple[str, ...]) -> Mapping[str, str]:
    """Version by name of everything installed in some directories, the first of which counts."""
    found: dict[str, str] = {}
    for entry in places:
        try:
            names = [path.name for path in Path(entry or ".").iterdir()]
        except OSError:
            continue
        for name in names:
            if name.endswith(".dist-info"):
                package, _, version = name.removesuffix(".dist-info").partition("-")
                found.setdefault(package.lower().replace("_", "-"), version)
    return found
