"""What a Megatron-Bridge config needs of the place it runs at, and what the place decides in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from nemotron.engines.base import Shape, StepFacts
from nemotron.engines.megatron_bridge.contract import DEFAULT_IMAGE, RECIPE, contract_for_image
from nemotron.engines.megatron_bridge.rules import FILES, VALIDATION_DATA
from nemotron.engines.megatron_bridge.values import Values, trains
from nemotron.findings import Finding

EXIT_AFTER = "train.exit_duration_in_mins"
# Relative ones would lie in whatever directory the container starts in.
DIRECTORIES = ("checkpoint.save", "checkpoint.load", "logger.tensorboard_dir")
_OURS = ("run", "inputs", "artifacts", "embedded")
# Its clock starts with the training loop: processes meet and the model is loaded before. A tenth at most.
_START_SECONDS, _START_SHARE = 600, 10


def trainer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as the job's script gets it: no sections of ours, and no validation without data for it."""
    mine = {name: value for name, value in config.items() if name not in _OURS}
    values = Values(mine)
    # With files, validation.jsonl may lie beside training.jsonl.
    if trains(mine) and values.get(FILES) is None and values.get(VALIDATION_DATA) is None:
        mine["dataset"] = {**(mine.get("dataset") or {}), "do_validation": False}
    return mine


def needed_shape(step: StepFacts, config: Mapping[str, Any]) -> Shape:
    """Nodes and GPUs as the manifest, or the place, says; a conversion takes one GPU."""
    manifest = f"the manifest of {step.step}"
    why = dict.fromkeys(("launch", "nodes", "gpus_per_node", "image"), manifest)
    if step.image is None:
        why["image"] = "Megatron-Bridge is in NeMo's image"
    gpus = step.gpus_per_node
    if not trains(config):
        # AutoBridge sets a CUDA device before it loads a model, though the model stays on the CPU.
        gpus, why["gpus_per_node"] = max(1, gpus), "AutoBridge wants a GPU"
    return Shape(step.launch, step.nodes, gpus, step.image or DEFAULT_IMAGE, why)


def placed_values(
    config: Mapping[str, Any], *, seconds: int | None, save_before: int | None
) -> dict[str, Any]:
    """Dotted keys that the place decides: absolute directories, and when to save and leave."""
    if not trains(config):
        return {}
    values, found = Values(config), dict[str, Any]()
    for key in DIRECTORIES:
        written = values.text(key)
        if written is not None and not PurePosixPath(written).is_absolute():
            found[key] = f"{{run_dir}}/{PurePosixPath(written)}"
    if seconds is not None:
        start = min(_START_SECONDS, seconds // _START_SHARE)
        minutes = max(1, (seconds - (save_before or 0) - start) // 60)
        asked = values.whole(EXIT_AFTER)
        found[EXIT_AFTER] = minutes if asked is None else min(minutes, asked)
    return found


def place_findings(
    config: Mapping[str, Any], shape: Shape, *, nodes: int, gpus_per_node: int
) -> tuple[Finding, ...]:
    """A conversion is one process: more nodes stand idle. The sums of a training are among its rules."""
    if trains(config) or nodes == 1:
        return ()
    what = f"the allocation has {nodes} nodes, and a conversion is one process on one of them"
    return (Finding("place.nodes", "error", what, where="nodes", valid="1", fix="run.env.nodes=1"),)


def prefetch_commands(config: Mapping[str, Any], image: str | None) -> tuple[tuple[str, ...], ...]:
    """Config and tokenizer of the model whose shape the recipe takes; its weights are not needed."""
    contract, _ = contract_for_image(image or DEFAULT_IMAGE)
    name = contract.recipes.get(str(Values(config).get(RECIPE)))
    if name is None:
        return ()
    return (("hf", "download", name, "--exclude", "*.safetensors", "*.bin", "*.pth", "*.gguf", "original/*"),)


def data_rows(rows: Mapping[str, int]) -> int | None:
    """Rows of what is trained on, where they were counted."""
    return next((rows[port] for port in ("packed", "data") if port in rows), None)
