"""A step and what its manifest says of it.

The records that every command makes are named tuples: a frozen dataclass takes 0.7 ms to define, and all of
`steps list` may take 20 ms beyond the start of Python and typer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nemotron.catalog.toml_table import TomlTable

if TYPE_CHECKING:
    from nemotron.catalog.advice import KnownError, ModelChoice, Parameter, Strategy
    from nemotron.findings import Finding

LAUNCHES = ("ray", "torchrun", "python")
SCRIPT_ENGINE = "script"
"""The engine of a step that is its own `step.py` and nothing else."""

TABLES = ("consumes", "produces", "parameters", "strategies", "errors", "models")
"""The arrays of tables of a manifest."""

_READ_LATER = ("parameters", "strategies", "errors", "models", "reference", "warnings")

MODEL_TYPES = ("checkpoint_hf", "checkpoint_megatron")
"""The types of a model that is trained or sampled from; a judge has a type of its own."""

RELATION_TYPES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "same_tokens_as": (MODEL_TYPES, MODEL_TYPES),
    "same_template_as": (("packed_parquet", *MODEL_TYPES), MODEL_TYPES),
    "adapts": (("checkpoint_lora",), MODEL_TYPES),
}
"""What an input may say of another (a key of `[[consumes]]`; its value is a port), and the types of both."""


class Port(NamedTuple):
    """A named input or output.

    type: the artifact types it takes or leaves, the first is the usual one.
    config: dotted config key that receives the artifact's path; None if the manifest does not bind it.
    select: which of several checkpoints the artifact is, such as `best`.
    engines: the engines that have this port; empty means every engine.
    same_tokens_as: the input port of a model with the same tokenizer, vocabulary and special tokens.
    same_template_as: the input port of a model with the same tokenizer and chat template.
    adapts: the input port of the model that this adapter adapts.
    """

    name: str
    type: tuple[str, ...]
    description: str = ""
    required: bool = True
    config: str | None = None
    select: str | None = None
    engines: tuple[str, ...] = ()
    same_tokens_as: str | None = None
    same_template_as: str | None = None
    adapts: str | None = None

    def is_of(self, engine: str | None) -> bool:
        """Whether a run with this engine has the port; None asks for any engine."""
        return engine is None or not self.engines or engine in self.engines

    def relations(self) -> tuple[tuple[str, str], ...]:
        """What the port says of other inputs: a key of `RELATION_TYPES`, and the other port."""
        said = ((name, getattr(self, name)) for name in RELATION_TYPES)
        return tuple((name, other) for name, other in said if other is not None)


class RunShape(NamedTuple):
    """What a step asks of the machine, before any config, profile or command line.

    engines: most preferred first; empty if nothing can run the step.
    launch: `ray`, `torchrun` or `python` (another word is kept as written; lint names it).
    cmd: command template with `{script}` and `{config}`, from the script's header.
    config_dir: where the configs are, relative to the step.
    """

    engines: tuple[str, ...] = ()
    image: str | None = None
    launch: str = "python"
    nodes: int = 1
    gpus_per_node: int = 0
    cmd: str | None = None
    workdir: str | None = None
    default_config: str = "default"
    config_dir: str = "config"


class BrokenStep(NamedTuple):
    """A manifest, or a whole root, that cannot be used, and why.

    id: the step's id as far as it is known; `ROOT:*` for a root, `ROOT:types.toml` for its types.
    """

    id: str
    path: Path
    line: int | None
    problem: str
    root: str

    @property
    def where(self) -> str:
        """`file:line`, or the file alone."""
        return f"{self.path}:{self.line}" if self.line else str(self.path)

    def as_dict(self) -> dict[str, object]:
        """The entry as `--json` prints it."""
        return {key: plain(value) for key, value in self._asdict().items()}


@dataclass(frozen=True, eq=False)
class Step:
    """One step of one catalog root; two are equal only if they are the same object.

    What a list shows is a field. What `show` adds (parameters, strategies, errors, models, reference,
    warnings, configs) is read from `manifest` when it is asked for.
    """

    id: str
    name: str
    category: str
    description: str
    tags: tuple[str, ...]
    consumes: tuple[Port, ...]
    produces: tuple[Port, ...]
    run: RunShape
    directory: Path
    root: str
    root_path: Path
    stack: str | None = None
    difficulty: str | None = None
    manifest: TomlTable = field(kw_only=True, repr=False)

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that run this step, the preferred one first."""
        return self.run.engines

    @property
    def path(self) -> Path:
        """The step's `step.toml`."""
        return self.manifest.source.path

    @property
    def script(self) -> Path | None:
        """The step's own `step.py`, if it has one."""
        path = self.directory / "step.py"
        return path if path.is_file() else None

    @functools.cached_property
    def configs(self) -> dict[str, Path]:
        """Every config by name, sorted; `.yaml` wins over a `.yml` of the same name."""
        found: dict[str, Path] = {}
        for suffix in (".yml", ".yaml"):
            for path in (self.directory / self.run.config_dir).glob(f"*{suffix}"):
                if not path.name.startswith("."):
                    found[path.stem] = path
        return dict(sorted(found.items()))

    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The documented config keys."""
        from nemotron.catalog.advice import read_parameters

        return read_parameters(self.manifest)

    @functools.cached_property
    def strategies(self) -> tuple[Strategy, ...]:
        """What to do when."""
        from nemotron.catalog.advice import read_strategies

        return read_strategies(self.manifest)

    @functools.cached_property
    def errors(self) -> tuple[KnownError, ...]:
        """The failures users meet, and how to recover."""
        from nemotron.catalog.advice import read_known_errors

        return read_known_errors(self.manifest)

    @functools.cached_property
    def models(self) -> tuple[ModelChoice, ...]:
        """Models known to work."""
        from nemotron.catalog.advice import read_models

        return read_models(self.manifest)

    @property
    def reference(self) -> Mapping[str, object]:
        """Where to read on; keys and values are the manifest's own."""
        return self.manifest.table("reference").values

    @functools.cached_property
    def warnings(self) -> tuple[Finding, ...]:
        """What a user of the step must know: entries left out, inputs that no config key receives."""
        strays = [finding for key in TABLES for finding in self.manifest.strays(key)]
        return (*strays, *self._unbound())

    def read_all(self) -> None:
        """Reads the rest of the manifest. Raises ManifestError for what is wrong there."""
        for name in _READ_LATER:
            getattr(self, name)

    def inputs(self, engine: str | None = None) -> tuple[Port, ...]:
        """What the step consumes when this engine runs it; None gives the ports of every engine."""
        return tuple(port for port in self.consumes if port.is_of(engine))

    def outputs(self, engine: str | None = None) -> tuple[Port, ...]:
        """What the step leaves when this engine runs it; None gives the ports of every engine."""
        return tuple(port for port in self.produces if port.is_of(engine))

    def as_dict(self) -> dict[str, object]:
        """Everything the manifest says, and where the files are, as `--json` prints it."""
        shown = [item.name for item in fields(self) if item.name != "manifest"]
        return {name: plain(getattr(self, name)) for name in (*shown, *_READ_LATER, "configs", "script")}

    def _unbound(self) -> list[Finding]:
        """One warning for all inputs without a config key: the existing format has no such key."""
        from nemotron.findings import Finding

        names = [port.name for port in self.consumes if not port.config]
        if not names:
            return []
        return [
            Finding(
                id="catalog.unbound",
                severity="warning",
                message=f"inputs are not bound to a config key: {', '.join(names)}",
                where=str(self.path),
                valid="config = the dotted key that receives the artifact's path, in each [[consumes]]",
                fix="until then give their paths as config overrides, key=path",
            )
        ]


def plain(value: object) -> object:
    """`value` as JSON has it: lists, dicts, strings and finite numbers."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    return value
