"""Merges a LoRA adapter into its base model: `step.py --config CONFIG`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from nemotron.checkpoints.convert_lora import merge_lora
from nemotron.checkpoints.converted import print_progress
from nemotron.errors import NemotronError


def main() -> None:
    """Merge what the config names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    config: dict[str, Any] = yaml.safe_load(parser.parse_args().config.read_text(encoding="utf-8"))
    done = merge_lora(
        Path(config["base"]),
        Path(config["adapter"]),
        Path(config["output"]),
        progress=print_progress(),
        shard_bytes=config["shard_bytes"],
    )
    print(done.text())


if __name__ == "__main__":
    try:
        main()
    except NemotronError as problem:
        print(problem.render(), file=sys.stderr)
        sys.exit(problem.exit_code)
