"""Writes a Hugging Face model as a Megatron checkpoint: `step.py --config CONFIG [--with ENGINE]`."""

from __future__ import annotations

from pathlib import Path

from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints.converted import Converted, print_progress
from nemotron.checkpoints.step_main import OURS, Config, run_step


def convert(config: Config) -> Converted:
    """With our own converter."""
    return hf_to_megatron(
        Path(config["model"]),
        Path(config["output"]),
        progress=print_progress(),
        vocab_pad=config["vocab_pad"],
        shard_bytes=config["shard_bytes"],
    )


def convert_with_bridge(config: Config) -> str:
    """With AutoBridge, in Megatron-Bridge's container."""
    from nemotron.engines.megatron_bridge.convert import import_ckpt

    return import_ckpt(Path(config["model"]), Path(config["output"]))


if __name__ == "__main__":
    run_step({OURS: convert, "megatron_bridge": convert_with_bridge}, __doc__)
