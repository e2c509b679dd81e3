"""Merges a LoRA adapter into its base model: `step.py --config CONFIG`."""

from __future__ import annotations

from pathlib import Path

from nemotron.checkpoints.convert_lora import merge_lora
from nemotron.checkpoints.converted import Converted, print_progress
from nemotron.checkpoints.step_main import OURS, Config, run_step


def merge(config: Config) -> Converted:
    """Merge what the config names."""
    return merge_lora(
        Path(config["base"]),
        Path(config["adapter"]),
        Path(config["output"]),
        progress=print_progress(),
        shard_bytes=config["shard_bytes"],
    )


if __name__ == "__main__":
    run_step({OURS: merge}, __doc__)
