"""Writes a Megatron checkpoint as a Hugging Face model: `step.py --config CONFIG`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf
from nemotron.checkpoints.converted import print_progress
from nemotron.errors import NemotronError


def main() -> None:
    """Convert what the config names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    config: dict[str, Any] = yaml.safe_load(parser.parse_args().config.read_text(encoding="utf-8"))
    done = megatron_to_hf(
        Path(config["model"]),
        Path(config["output"]),
        progress=print_progress(),
        shard_bytes=config["shard_bytes"],
        config=Path(config["origin"]) if config["origin"] else None,
    )
    print(done.text())


if __name__ == "__main__":
    try:
        main()
    except NemotronError as problem:
        print(problem.render(), file=sys.stderr)
        sys.exit(problem.exit_code)
