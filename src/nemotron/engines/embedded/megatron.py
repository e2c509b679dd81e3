"""Megatron checkpoints for a trainer of Hugging Face models: converted where they come in.

What goes out as one is converted by `CheckpointDirectory`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nemotron.checkpoints.compare_tensors import is_megatron
from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf
from nemotron.engines.embedded.reading import MEGATRON

_WRITTEN = ("checkpointing", "logger")


def leaves_megatron(directory: Path) -> bool:
    """Whether the plan of a run says that what it leaves is a Megatron checkpoint."""
    try:
        plan = json.loads((directory / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False  # started by hand, with a config alone
    return any(output["type"] == MEGATRON for output in plan["outputs"])


def with_hf_models(config: dict[str, Any], work: Path) -> dict[str, Any]:
    """The config with a model directory in `work` in place of each Megatron checkpoint."""
    made: dict[str, str] = {}

    def converted(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: converted(each) for key, each in value.items()}
        if isinstance(value, list):
            return [converted(each) for each in value]
        if not isinstance(value, str) or not value.startswith("/") or not Path(value).is_dir():
            return value
        if value not in made and is_megatron(Path(value)):
            target = work / f"model_{len(made)}"
            megatron_to_hf(Path(value), target)
            made[value] = str(target)
        return made.get(value, value)

    # Where a run writes is no model to read, whatever lies there when it resumes.
    return {name: each if name in _WRITTEN else converted(each) for name, each in config.items()}
