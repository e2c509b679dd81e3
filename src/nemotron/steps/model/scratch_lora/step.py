"""Writes a random LoRA adapter for a model: `step.py --config CONFIG`."""

from __future__ import annotations

import argparse
import array
import json
import random
import sys
from pathlib import Path
from typing import Any

import yaml

from nemotron.artifacts.checks.weights import ADAPTER
from nemotron.artifacts.failure_word import failed
from nemotron.checkpoints.hf_files import SafetensorsWriter, copy_small, read_weights, tokenizer_files
from nemotron.checkpoints.whole import whole_directory, write_synced
from nemotron.errors import CheckFailed, NemotronError


def main() -> None:
    """Draw both factors of every module that the config names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    config: dict[str, Any] = yaml.safe_load(parser.parse_args().config.read_text(encoding="utf-8"))
    base, rank = Path(config["base"]), int(config["rank"])
    factors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, tensor in read_weights(base).tensors.items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in config["target_modules"] and len(tensor.shape) == 2:
            rows, columns = tensor.shape
            factors[f"base_model.model.{module}.lora_A.weight"] = ("F32", (rank, columns))
            factors[f"base_model.model.{module}.lora_B.weight"] = ("F32", (rows, rank))
    if not factors:
        raise CheckFailed(f"none of its modules is in {config['target_modules']}", where="target_modules")
    draw = random.Random(int(config["seed"]))
    target = Path(config["output"])
    with whole_directory(target, 0) as root:
        with SafetensorsWriter(root, factors, sys.maxsize, names=ADAPTER) as writer:
            for name, (_, (rows, columns)) in factors.items():
                numbers = array.array("f", (draw.gauss(0.0, 0.02) for _ in range(rows * columns)))
                writer.write(name, 0, numbers.tobytes())
        copy_small(tokenizer_files(base), base, root)
        told = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(base),
            "r": rank,
            "lora_alpha": config["alpha"],
            "target_modules": config["target_modules"],
            "bias": "none",
        }
        write_synced(root / "adapter_config.json", json.dumps(told, indent=2).encode())
    print(f"{len(factors) // 2} modules of rank {rank} in {target}")


if __name__ == "__main__":
    try:
        main()
    except NemotronError as problem:
        sys.exit(failed(problem))
