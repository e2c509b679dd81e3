"""Writes a Hugging Face model as a Megatron checkpoint: `step.py --config CONFIG`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints.converted import print_progress
from nemotron.errors import NemotronError


def main() -> None:
    """Convert what the config names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    config: dict[str, Any] = yaml.safe_load(parser.parse_args().config.read_text(encoding="utf-8"))
    done = hf_to_megatron(
        Path(config["model"]),
        Path(config["output"]),
        progress=print_progress(),
        vocab_pad=config["vocab_pad"],
        shard_bytes=config["shard_bytes"],
    )
    print(done.text())


if __name__ == "__main__":
    try:
        main()
    except NemotronError as problem:
        print(problem.render(), file=sys.stderr)
        sys.exit(problem.exit_code)
