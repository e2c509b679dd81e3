"""Extract what a Megatron-Bridge release expects of a config, without executing any of it.

    python tools/extract_megatron_bridge.py VERSION BRIDGE CORE \
        src/nemotron/engines/megatron_bridge/contracts/v0.4.0.json

BRIDGE and CORE are unpacked wheels of megatron-bridge and of the megatron-core in the same container. The
dataclasses that a `ConfigContainer` can hold are read with `ast`, those they inherit from included, and the
fine-tuning recipes with the model on the hub that each takes its shape from.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONFIG = "megatron.bridge.training.config"
# Sections of ConfigContainer, and the class that fine-tuning a GPT model puts there.
SECTIONS = {
    "model": ("megatron.bridge.models.gpt_provider", "GPTModelProvider"),
    "dataset": (CONFIG, "FinetuningDatasetConfig"),
    "rng": ("megatron.training.config.common_config", "RNGConfig"),
    "validation": ("megatron.training.config.training_config", "ValidationConfig"),
    "tokenizer": ("megatron.bridge.training.tokenizers.config", "TokenizerConfig"),
    "comm_overlap": ("megatron.bridge.training.comm_overlap", "CommOverlapConfig"),
    "mixed_precision": ("megatron.bridge.training.mixed_precision", "MixedPrecisionConfig"),
    "train": (CONFIG, "TrainingConfig"),
    "optimizer": (CONFIG, "OptimizerConfig"),
    "scheduler": (CONFIG, "SchedulerConfig"),
    "ddp": (CONFIG, "DistributedDataParallelConfig"),
    "logger": (CONFIG, "LoggerConfig"),
    "checkpoint": (CONFIG, "CheckpointConfig"),
    "dist": (CONFIG, "DistributedInitConfig"),
    "rerun_state_machine": (CONFIG, "RerunStateMachineConfig"),
    "profiling": (CONFIG, "ProfilingConfig"),
    "ft": (CONFIG, "FaultToleranceConfig"),
    "straggler": (CONFIG, "StragglerDetectionConfig"),
    "nvrx_straggler": (CONFIG, "NVRxStragglerDetectionConfig"),
    "tensor_inspect": (CONFIG, "TensorInspectConfig"),
    "inprocess_restart": (CONFIG, "InProcessRestartConfig"),
}
INNER = {
    ("dataset", "packed_sequence_specs"): (
        "megatron.bridge.data.datasets.packed_sequence",
        "PackedSequenceSpecs",
    ),
}
OPTIONAL = (
    "ft",
    "straggler",
    "nvrx_straggler",
    "comm_overlap",
    "tensor_inspect",
    "inprocess_restart",
    "peft",
)
KINDS = {"int": "int", "float": "float", "bool": "bool", "str": "str", "Path": "str", "None": "null"}
LISTS, TABLES = ("list", "List", "tuple", "Tuple", "Sequence"), ("dict", "Dict", "Mapping")
RECIPE = re.compile(r"\w+_sft_config")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Sources:
    """Modules of the two packages, parsed when they are asked for."""

    def __init__(self, bridge: Path, core: Path) -> None:
        self._roots = (bridge, core)
        self._trees: dict[str, ast.Module] = {}

    def file(self, module: str) -> Path | None:
        """The file of a module, None where neither package has it."""
        for root in self._roots:
            base = root / module.replace(".", "/")
            for path in (base.with_suffix(".py"), base / "__init__.py"):
                if path.is_file():
                    return path
        return None

    def tree(self, module: str) -> ast.Module:
        """The syntax tree of a module."""
        if module not in self._trees:
            file = self.file(module)
            assert file is not None, module
            self._trees[module] = ast.parse(file.read_text(encoding="utf-8"))
        return self._trees[module]

    def find(self, module: str, name: str) -> tuple[str, ast.ClassDef] | None:
        """The class that `name` means in a module, and the module that defines it."""
        for node in ast.walk(self.tree(module)):
            if isinstance(node, ast.ClassDef) and node.name == name:
                return module, node
            if isinstance(node, ast.ImportFrom):
                source = self._imported(module, node)
                for alias in node.names:
                    if (alias.asname or alias.name) == name and self.file(source):
                        return self.find(source, alias.name)
        return None

    def _imported(self, module: str, node: ast.ImportFrom) -> str:
        """The module that an import names, from within `module`."""
        if not node.level:
            return node.module or ""
        file = self.file(module)
        parts = module.split(".") if file and file.name == "__init__.py" else module.split(".")[:-1]
        return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def fields_of(sources: Sources, module: str, name: str) -> dict[str, dict[str, Any]]:
    """Key to what it takes, the bases' first."""
    found = sources.find(module, name)
    if found is None:
        return {}
    home, node = found
    fields: dict[str, dict[str, Any]] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name):
            fields |= fields_of(sources, home, base.id)
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            key = item.target.id
            text = ast.unparse(item.annotation)
            if key.startswith("_") or "ClassVar" in text:
                continue
            spec = spec_of(item.annotation)
            if isinstance(item.value, ast.Constant) and item.value.value is None:
                spec = nullable(spec)
            fields[key] = spec | computed(item.value)
    return fields


def spec_of(annotation: ast.expr) -> dict[str, Any]:
    """`accepts` and, for a Literal, `choices`."""
    accepts: list[str] = []
    choices: list[Any] = []
    for kind, values in _alternatives(annotation):
        if kind not in accepts:
            accepts.append(kind)
        choices += [value for value in values if value not in choices]
    plain = [kind for kind in accepts if kind not in ("literal", "null")]
    if choices and not plain:
        nullable = "null" in accepts
        return {"choices": [*choices, None] if nullable and None not in choices else choices}
    return {"accepts": ["any"] if "any" in accepts else [k for k in accepts if k != "literal"]}


def nullable(spec: dict[str, Any]) -> dict[str, Any]:
    """The same, null added: what a class has for a default may be written too."""
    key = "choices" if "choices" in spec else "accepts"
    null = None if key == "choices" else "null"
    return spec if null in spec[key] else {key: [*spec[key], null]}


def _alternatives(node: ast.expr) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield from _alternatives(ast.parse(node.value, mode="eval").body)
        else:
            yield ("null" if node.value is None else "any"), []
    elif isinstance(node, ast.BinOp):
        yield from _alternatives(node.left)
        yield from _alternatives(node.right)
    elif isinstance(node, ast.Subscript):
        name = ast.unparse(node.value).rpartition(".")[2]
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "Literal":
            yield "literal", [ast.literal_eval(part) for part in parts]
        elif name in ("Optional", "Union"):
            for part in parts:
                yield from _alternatives(part)
            if name == "Optional":
                yield "null", []
        else:
            yield "list" if name in LISTS else "map" if name in TABLES else "any", []
    else:
        name = ast.unparse(node).rpartition(".")[2]
        kind = "list" if name in LISTS else "map" if name in TABLES else KINDS.get(name, "any")
        yield kind, []


def computed(value: ast.expr | None) -> dict[str, Any]:
    """Whether the class fills the field in by itself."""
    is_call = isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] == "field"
    if is_call and any(
        k.arg == "init" and isinstance(k.value, ast.Constant) and k.value.value is False
        for k in value.keywords  # type: ignore[union-attr]
    ):
        return {"computed": True}
    return {}


def recipes_of(bridge: Path) -> dict[str, str | None]:
    """Dotted name of each recipe for fine-tuning on text, and the model on the hub it names.

    Models that see are left out: they are trained by another forward step.
    """
    found: dict[str, str | None] = {}
    package = bridge / "megatron" / "bridge" / "recipes"
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(bridge).with_suffix("").parts)
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef) or not RECIPE.fullmatch(node.name):
                continue
            if not ("_vl" in module or "glm_45v" in module or node.args.args or node.args.kwonlyargs):
                found[f"{module}.{node.name}"] = _hub_id(node)
    return found


def precisions_of(sources: Sources) -> list[str]:
    """The names of mixed precision that are registered; with `-` for `_` they are known too."""
    module, _ = SECTIONS["mixed_precision"]
    return [
        node.name
        for node in sources.tree(module).body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(each, ast.Name) and each.id == "register" for each in node.decorator_list)
    ]


def _hub_id(function: ast.FunctionDef) -> str | None:
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("from_hf_pretrained") and node.args:
            first = node.args[0]
            names = [first] if isinstance(first, ast.Constant) else _assigned(function, ast.unparse(first))
            for each in names:
                if isinstance(each.value, str) and HUB_ID.fullmatch(each.value):
                    return each.value
    return None


def _assigned(function: ast.FunctionDef, name: str) -> list[ast.Constant]:
    return [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    ]


def contract(version: str, bridge: Path, core: Path) -> dict[str, Any]:
    """The content of a contract file."""
    sources = Sources(bridge, core)
    sections: dict[str, Mapping[str, Any]] = {}
    for section, (module, name) in SECTIONS.items():
        fields = fields_of(sources, module, name)
        assert fields, section
        for (owner, key), inner in INNER.items():
            if owner == section:
                fields[key] = {"accepts": ["map", "null"], "section": key}
                sections[key] = fields_of(sources, *inner)
        sections[section] = fields
    dist_info = next(core.glob("megatron_core-*.dist-info")).name
    return {
        "format": 1,
        "framework": "megatron_bridge",
        "version": version,
        "core": dist_info.removeprefix("megatron_core-").removesuffix(".dist-info"),
        "optional": list(OPTIONAL),
        "mixed_precision": precisions_of(sources),
        "recipes": recipes_of(bridge),
        "sections": sections,
    }


def render(data: Mapping[str, Any]) -> str:
    """One line a key, so that a diff between versions can be read."""
    lines = ["{"]
    for name, value in data.items():
        if name in ("sections", "recipes"):
            continue
        lines.append(f" {json.dumps(name)}: {json.dumps(value)},")
    recipes = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in data["recipes"].items()]
    lines += [' "recipes": {', ",\n".join(recipes), " },", ' "sections": {']
    tables = []
    for name, fields in data["sections"].items():
        rows = ",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in fields.items())
        tables.append(f"  {json.dumps(name)}: {{\n{rows}\n  }}")
    return "\n".join([*lines, ",\n".join(tables), " }", "}"]) + "\n"


def main(argv: list[str]) -> int:
    """Read the packages, write the file that `argv[3]` names."""
    if len(argv) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    made = contract(argv[0], Path(argv[1]), Path(argv[2]))
    Path(argv[3]).write_text(render(made), encoding="utf-8")
    keys = sum(map(len, made["sections"].values()))
    print(f"{argv[3]}: {keys} keys, {len(made['recipes'])} recipes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
