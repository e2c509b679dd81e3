"""Writes a Megatron checkpoint as a Hugging Face model: `step.py --config CONFIG [--with ENGINE]`."""

from __future__ import annotations

from pathlib import Path

from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf
from nemotron.checkpoints.converted import Converted, print_progress
from nemotron.checkpoints.step_main import OURS, Config, run_step


def convert(config: Config) -> Converted:
    """With our own converter."""
    return megatron_to_hf(
        Path(config["model"]),
        Path(config["output"]),
        progress=print_progress(),
        shard_bytes=config["shard_bytes"],
        config=Path(config["origin"]) if config["origin"] else None,
    )


def convert_with_bridge(config: Config) -> Converted | str:
    """With AutoBridge, in Megatron-Bridge's container; it cannot do without the model that was trained."""
    if not config["origin"]:
        print("origin is not given: our own converter runs in AutoBridge's place", flush=True)
        return convert(config)
    from nemotron.engines.megatron_bridge.convert import export_ckpt

    return export_ckpt(Path(config["model"]), Path(config["output"]), Path(config["origin"]))


if __name__ == "__main__":
    run_step({OURS: convert, "megatron_bridge": convert_with_bridge}, __doc__)
