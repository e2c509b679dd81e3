"""The steps of the catalog that convert, as their engine starts them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_models import Made, read_tensors

import nemotron
from nemotron.artifacts.checks import check_artifact

STEPS = Path(nemotron.__file__).parent / "steps"
Make = Callable[..., Made]


def start(step: str, where: Path, **config: object) -> subprocess.CompletedProcess[str]:
    """Run a step with its default config and these values."""
    default = yaml.safe_load((STEPS / step / "config" / "default.yaml").read_text())
    assert config.keys() <= default.keys()
    file = where / "config.yaml"
    file.write_text(yaml.safe_dump(default | {key: _plain(value) for key, value in config.items()}))
    command = [sys.executable, str(STEPS / step / "step.py"), "--config", str(file)]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=120)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def test_there_and_back_through_the_steps(make_model: Make, tmp_path: Path) -> None:
    made = make_model("qwen3", tied=True)
    there = start("convert/hf_to_megatron", tmp_path, model=made.path, vocab_pad=128)
    assert there.returncode == 0, there.stderr
    assert "100% of" in there.stdout and "note: vocabulary padded" in there.stdout
    assert check_artifact(tmp_path / "checkpoint", "checkpoint_megatron").ok
    back = start("convert/megatron_to_hf", tmp_path, model=tmp_path / "checkpoint", output="back")
    assert back.returncode == 0, back.stderr
    assert read_tensors(tmp_path / "back") == made.tensors


def test_a_refusal_is_an_exit_code_and_no_traceback(make_model: Make, tmp_path: Path) -> None:
    made = make_model(config={"model_type": "gemma3"})
    done = start("convert/hf_to_megatron", tmp_path, model=made.path)
    assert done.returncode == 4
    assert "error: model_type 'gemma3' and architecture" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "failure.json").exists(), "it is no run's directory"


def test_a_failure_leaves_its_word_with_the_run(
    world: Any, cli: Callable[..., Any], make_model: Make
) -> None:
    made = make_model(config={"rope_scaling": {"type": "linear", "factor": 4.0}})
    done = cli("steps", "run", "convert/hf_to_megatron", "-i", f"model={made.path}", "--json")
    assert done.code == 4, done.err
    error = done.json["error"]
    assert "rope scaling of type 'linear' cannot be converted" in error["what"]
    assert (error["where"], error["valid"]) == (str(made.path / "config.json"), ["default", "llama3"])
    run = world.runs()[-1].name
    shown = cli("runs", "show", run).out
    for part in ("failure  rope scaling of type 'linear'", f"at {made.path}/config.json", "valid: default"):
        assert part in shown
    assert cli("runs", "show", run, "--json").json["failure"]["exit_code"] == 4
    waited = cli("runs", "wait", run)
    assert waited.code == 4 and "rope scaling of type 'linear'" in waited.err


def test_a_made_adapter_is_merged(make_model: Make, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    made = make_model(dtype="F32")
    adapter = start("model/scratch_lora", tmp_path, base=made.path)
    assert adapter.returncode == 0, adapter.stderr
    assert check_artifact(tmp_path / "adapter", "checkpoint_lora").ok
    merged = start(
        "convert/merge_lora", tmp_path, base=made.path, adapter=tmp_path / "adapter", output="merged"
    )
    assert merged.returncode == 0, merged.stderr
    found = read_tensors(tmp_path / "merged")
    assert {name for name in found if found[name] != made.tensors[name]} == {n for n in found if "_proj" in n}
