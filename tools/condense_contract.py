"""Condense an extracted NeMo-RL contract into the file the engine reads.

    python tools/condense_contract.py EXTRACTED.json src/nemotron/engines/nemo_rl/contracts/v0.6.0.json

The extracted contract lists every class a config can reach, with the evidence for each read. The
engine needs less: for five entry points, which keys a section may have, which it must have, and
where that is written. Classes become sections that refer to one another by name; a union without a
discriminating key (`data.train` is a response or a preference data set) becomes one section that
knows the keys of both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ENTRY_POINTS = ("sft", "rm", "dpo", "grpo", "grpo_nemo_gym")
GRPO = ("grpo", "grpo_nemo_gym")
EVERY = ENTRY_POINTS

# Reads the extraction files under "shared" (or below a loop that always runs): it cannot tell who
# calls the function, we can. key: (entry points, condition under which the read happens).
SHARED_READS: dict[str, tuple[tuple[str, ...], dict[str, object]]] = {
    "checkpointing.keep_top_k": (EVERY, {}),
    "checkpointing.save_optimizer": (EVERY, {}),
    "policy.sequence_packing": (EVERY, {}),
    "policy.max_grad_norm": (EVERY, {"policy.dtensor_cfg.enabled": True}),
    "policy.offload_optimizer_for_logprob": (EVERY, {"policy.megatron_cfg.enabled": True}),
    "policy.megatron_cfg.moe_permute_fusion": (EVERY, {"policy.megatron_cfg.enabled": True}),
    "policy.megatron_cfg.moe_router_bias_update_rate": (EVERY, {"policy.megatron_cfg.enabled": True}),
    "policy.megatron_cfg.moe_router_dtype": (EVERY, {"policy.megatron_cfg.enabled": True}),
    "policy.megatron_cfg.moe_router_load_balancing_type": (EVERY, {"policy.megatron_cfg.enabled": True}),
    "policy.generation.vllm_cfg.enforce_eager": (GRPO, {"policy.generation.backend": "vllm"}),
    "policy.generation.vllm_cfg.precision": (GRPO, {"policy.generation.backend": "vllm"}),
    "data.add_bos": (("sft",), {}),
    "data.add_eos": (("sft",), {}),
    "data.add_generation_prompt": (("sft",), {}),
}

# Unconditional inside a function that only some runs enter, or filled in by NeMo-RL itself.
NOT_THE_USERS = frozenset(
    {
        "grpo.async_grpo",  # only async_grpo_train reads it
        "policy.generation.model_name",  # setup() copies policy.model_name
        "policy.generation.vllm_cfg",  # declared by the vllm section, which the backend selects
    }
)

# Keys that are read by name and that no type declares: a config that has them is right.
DATA_SET_KEYS = (
    "chat_key", "system_key", "system_prompt", "tool_key", "use_preserving_dataset", "repeat",
    "media_data_dir", "data_files", "text_key", "characters_per_sample", "max_samples",
    "extract_answer", "verifiable_only", "require_valid",
)  # fmt: skip
READ_BY_NAME: dict[str, tuple[str, ...]] = {
    "data": ("val_data_paths",),
    "data.train": DATA_SET_KEYS,
    "policy": ("is_vlm", "offload_optimizer_for_logprob"),
    "policy.sequence_packing": ("sequence_length_round",),
    "policy.generation": ("mcore_generation_config",),
    "policy.generation.vllm_cfg": (
        "use_deep_gemm", "num_last_layers_in_bf16", "num_first_layers_in_bf16", "enable_expert_parallel",
        "enable_vllm_metrics_logger", "vllm_metrics_logger_interval",
    ),
    "policy.megatron_cfg": ("fp8_cfg", "converter_type", "train_iters", "checkpoint"),
    "policy.megatron_cfg.scheduler": ("override_opt_param_scheduler",),
}  # fmt: skip

# Null is an answer although the type says otherwise: (section, key, where null is asked for).
NULL_IS_AN_ANSWER = (
    ("policy.tokenizer", "chat_template", "docs/guides/sft.md: null concatenates the messages"),
    ("grpo", "max_val_samples", "run_grpo_nemo_gym.py refuses any other value"),
    ("grpo", "val_batch_size", "run_grpo_nemo_gym.py fills in the size of the validation set"),
)

SCALARS = {"int": "int", "float": "float", "bool": "bool", "str": "str", "None": "null", "os.PathLike": "str"}


def main(argv: list[str]) -> int:
    """Read `argv[0]`, write `argv[1]`."""
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    condensed = condense(json.loads(Path(argv[0]).read_text(encoding="utf-8")))
    Path(argv[1]).write_text(render(condensed), encoding="utf-8")
    print(
        f"{argv[1]}: {len(condensed['sections'])} sections, {Path(argv[1]).stat().st_size} bytes",
        file=sys.stderr,
    )
    return 0


def condense(source: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's contract for `source`, an extracted contract."""
    sections: dict[str, dict[str, Any]] = {}
    entry_points = {}
    for name in ENTRY_POINTS:
        entry = source["entry_points"][name]
        root = add_section((entry["root"],), source, sections)
        entry_points[name] = {
            "script": entry["script"],
            "root": root,
            "validated_at_start": entry["validated_at_start"],
            "resolvers": source["resolvers"][name],
        }
    add_keys_read_by_name(entry_points, sections, source)
    for path, key, reason in NULL_IS_AN_ANSWER:
        for section in sections_at(path, entry_points, sections):
            spec = sections[section].get(key)
            if spec and "null" not in spec["accepts"]:
                spec.update(accepts=[*spec["accepts"], "null"], null=reason)
    return {
        "format": 1,
        "framework": source["framework"],
        "version": source["version"],
        "commit": source["commit"],
        "entry_points": entry_points,
        "hard_indexed": hard_indexed(source),
        "sections": dict(sorted(sections.items())),
    }


def add_section(
    classes: tuple[str, ...], source: Mapping[str, Any], sections: dict[str, dict[str, Any]]
) -> str:
    """The name of the section for `classes` (several: their union), added with all it refers to."""
    name = "+".join(short_name(c, source) for c in classes)
    if name in sections:
        return name
    keys: dict[str, Any] = {}
    sections[name] = keys
    members = [source["classes"][c]["fields"] for c in classes]
    for member in members:
        for key, field in member.items():
            if key not in keys:
                keys[key] = key_spec(field, source, sections)
                keys[key]["required"] = all(m.get(key, {}).get("required", False) for m in members)
    for spec in keys.values():
        if not spec["required"]:
            del spec["required"]
    return name


def key_spec(
    field: Mapping[str, Any], source: Mapping[str, Any], sections: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """What the contract says of one key."""
    text = field["type"]
    classes = [a for a in alternatives(text) if a in source["classes"]]
    listed = [c for a in alternatives(text) if a.startswith("list[") for c in alternatives(a[5:-1])]
    listed = [c for c in listed if c in source["classes"]]
    spec: dict[str, Any] = {"type": shorten(text, source), "accepts": sorted(set(accepts(text, source)))}
    if field["nullable"] and "null" not in spec["accepts"]:
        spec["accepts"].append("null")
    if "choices" in field:
        spec["choices"] = field["choices"]
    backends = source["generation_backends"]
    if any(c.endswith(".GenerationConfig") for c in classes):
        spec["section"] = add_section(tuple(classes), source, sections)
        spec["by"] = "backend"
        spec["variants"] = {b: add_section((c,), source, sections) for b, c in sorted(backends.items())}
    elif "variants" in field:
        spec["by"] = field["variants"]["key"]
        spec["variants"] = {
            value: add_section((c,), source, sections)
            for value, c in sorted(field["variants"]["map"].items())
        }
    elif classes or listed:
        spec["section"] = add_section(tuple(dict.fromkeys([*classes, *listed])), source, sections)
    elif set(spec["accepts"]) & {"map", "any"}:
        spec["open"] = True
    spec["source"] = field["source"]
    return spec


def accepts(text: str, source: Mapping[str, Any]) -> Iterator[str]:
    """The kinds of value a type text lets through, in the contract's small vocabulary."""
    for part in alternatives(text):
        if part in SCALARS:
            yield SCALARS[part]
        elif part.startswith("list["):
            yield "list"
        elif part.startswith("dict[") or part in source["classes"]:
            yield "map"
        elif part.startswith("Literal["):
            yield "choice"
        elif part.startswith("Annotated["):
            yield from accepts(part[10:-1].split(",")[0], source)
        else:
            yield "any"


def alternatives(text: str) -> list[str]:
    """`A | list[B | C]` as `A` and `list[B | C]`."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if char == "|" and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()]


def short_name(qualified: str, source: Mapping[str, Any]) -> str:
    """The class name alone where one class has it, else with its module's last part."""
    module, _, name = qualified.rpartition(".")
    twins = [c for c in source["classes"] if c.rpartition(".")[2] == name]
    return name if len(twins) == 1 else f"{module.rpartition('.')[2]}.{name}"


def shorten(text: str, source: Mapping[str, Any]) -> str:
    """The type text with section names in place of qualified class names."""
    for qualified in sorted(source["classes"], key=len, reverse=True):
        text = text.replace(qualified, short_name(qualified, source))
    return text


def add_keys_read_by_name(
    entry_points: Mapping[str, Any], sections: dict[str, dict[str, Any]], source: Mapping[str, Any]
) -> None:
    """Give every section the keys upstream reads without declaring them."""
    named: dict[str, dict[str, str]] = {
        path: dict.fromkeys(keys, "read by name") for path, keys in READ_BY_NAME.items()
    }
    for read in source["hard_indexed_optional"]:
        parent, _, key = read["key"].rpartition(".")
        if read["kind"] == "undeclared" and read["evidence"]:
            named.setdefault(parent, {})[key] = read["evidence"][0]["at"]
    for path, keys in named.items():
        for section in sections_at(path, entry_points, sections):
            for key, where in keys.items():
                if not key.startswith("_"):
                    sections[section].setdefault(
                        key,
                        {
                            "type": "Any",
                            "accepts": ["any"],
                            "open": True,
                            "undeclared": True,
                            "source": where,
                        },
                    )


def sections_at(path: str, entry_points: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterable[str]:
    """The sections found at a dotted path, all variants and entry points."""
    found = {entry["root"] for entry in entry_points.values()}
    for part in path.split(".") if path else ():
        found = {s for name in found for s in referred(sections[name].get(part, {}))}
    return sorted(found)


def referred(spec: Mapping[str, Any]) -> Iterable[str]:
    """The sections a key's value may be; a disabled variant holds `enabled` alone and is left out."""
    variants = [s for value, s in spec.get("variants", {}).items() if value != "false"]
    return [*variants, *([spec["section"]] if "section" in spec else [])]


def hard_indexed(source: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Optional or undeclared keys that an entry point reads without a default."""
    found: dict[str, dict[str, Any]] = {}
    for read in source["hard_indexed_optional"]:
        key = read["key"]
        if key in NOT_THE_USERS or "[]" in key:
            continue
        certain = [e for e in read["evidence"] if not e["in_branch"]]
        if key in SHARED_READS:
            scope, when = SHARED_READS[key]
            source_line = (certain or read["evidence"])[0]["at"]
            entry: dict[str, Any] = {"key": key, "for": list(scope), "source": source_line}
            found[key] = {**entry, "when": when} if when else entry
            continue
        scope = tuple(n for n in ENTRY_POINTS if any(n in e["scope"] for e in certain))
        if scope:
            source_line = next(e["at"] for e in certain if set(scope) & set(e["scope"]))
            found[key] = {"key": key, "for": list(scope), "source": source_line}
    return [found[key] for key in sorted(found)]


def render(condensed: Mapping[str, Any]) -> str:
    """JSON with one key a line, so that two versions can be compared with diff."""
    lines = ["{"]
    for name in ("format", "framework", "version", "commit"):
        lines.append(f" {json.dumps(name)}: {json.dumps(condensed[name])},")
    lines.append(' "entry_points": {')
    lines.append(
        ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in condensed["entry_points"].items())
    )
    lines.append(' },\n "hard_indexed": [')
    lines.append(",\n".join(f"  {json.dumps(entry)}" for entry in condensed["hard_indexed"]))
    lines.append(' ],\n "sections": {')
    blocks = []
    for name, keys in condensed["sections"].items():
        body = ",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in keys.items())
        blocks.append(f"  {json.dumps(name)}: {{\n{body}\n  }}")
    lines.append(",\n".join(blocks))
    lines.append(" }\n}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
