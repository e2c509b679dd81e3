"""Models of the tests of checkpoints, and the stand-in of the framework."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bridge_configs import STEP
from bridge_stand_in import write_stand_in

sys.path.append(str(Path(__file__).parents[2] / "checkpoints"))


@pytest.fixture
def made_model(tmp_path: Path) -> Any:
    """A small Hugging Face model."""
    from small_models import Made, config_of, random_tensors, shapes_of

    made = Made(tmp_path / "hf")
    made.save(random_tensors(shapes_of("qwen3", tied=True)), config_of("qwen3", tied=True))
    (made.path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}')
    return made


@pytest.fixture
def start_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`start_script(script, config, "--with", "megatron_bridge", STAND_IN_EXIT="0")` beside the stand-in."""
    stand_in = write_stand_in(tmp_path / "stand_in")

    def start(script: Path, config: Any, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        return subprocess.run(
            [sys.executable, str(script), "--config", str(file), *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(stand_in), **environ},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return start


@pytest.fixture
def train_script() -> Path:
    """What torchrun starts."""
    return STEP / "step.py"
