"""What our scripts ask of Megatron-Bridge in its container, with a stand-in in its place."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bridge_configs import STEP, shipped

from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.checkpoints.convert_megatron_to_hf import megatron_to_hf
from nemotron.engines.megatron_bridge.train import shape_differences

Start = Callable[..., subprocess.CompletedProcess[str]]
CONVERT = STEP.parents[1] / "convert"


@pytest.fixture
def checkpoint(made_model: Any, tmp_path: Path) -> Path:
    hf_to_megatron(made_model.path, tmp_path / "megatron")
    return tmp_path / "megatron"


def config_for(checkpoint: Path, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """The shipped config as the job's script reads it."""
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": []}\n')
    config = shipped(
        checkpoint__pretrained_checkpoint=str(checkpoint),
        checkpoint__save=str(tmp_path / "saved"),
        checkpoint__load=str(tmp_path / "saved"),
        dataset__packed_sequence_specs__packed_train_data_path=None,
        dataset__dataset_root=str(chats),
        train__train_iters=40,
    )
    return config | changes


def calls(tmp_path: Path, rank: int = 0) -> list[Any]:
    return json.loads((tmp_path / f"calls-{rank}.json").read_text())  # type: ignore[no-any-return]


def test_the_recipe_gets_the_config_on_top_and_is_trained(
    checkpoint: Path, tmp_path: Path, start_script: Start, train_script: Path
) -> None:
    done = start_script(train_script, config_for(checkpoint, tmp_path))
    assert done.returncode == 0, done.stderr
    ((name, given),) = calls(tmp_path)
    assert name == "finetune" and given["step"] == "forward_step"
    assert (given["iters"], given["seq_length"], given["tensor"]) == (40, 4096, 4)
    assert given["peft"] is None and given["precision"] == "bf16_mixed"
    # The checkpoint's own tokenizer, and a file of conversations under the name that is looked for.
    assert given["tokenizer"] == str(checkpoint / "iter_0000000" / "tokenizer")
    assert (Path(given["root"]) / "training.jsonl").read_text() == '{"messages": []}\n'


def test_packed_rows_are_read_where_they_are(
    checkpoint: Path, tmp_path: Path, start_script: Start, train_script: Path
) -> None:
    (tmp_path / "packed").mkdir()
    config = config_for(checkpoint, tmp_path)
    config["dataset"]["dataset_root"] = None
    config["dataset"]["packed_sequence_specs"]["packed_train_data_path"] = str(tmp_path / "packed")
    done = start_script(train_script, config)
    assert done.returncode == 0, done.stderr
    ((_, given),) = calls(tmp_path)
    assert given["packed"] == str(tmp_path / "packed")


def test_other_processes_wait_for_the_first_to_prepare_the_data(
    checkpoint: Path, tmp_path: Path, start_script: Start, train_script: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(config_for(checkpoint, tmp_path)))
    script = f"""
import os, runpy, sys
os.environ.update(RANK="1", TORCHELASTIC_RUN_ID="r", MASTER_PORT="1")
sys.argv = ["step.py", "--config", {str(config)!r}]
runpy.run_path({str(train_script)!r}, run_name="__main__")
"""
    import os

    stand_in = str(tmp_path / "stand_in")
    environ = {**os.environ, "PYTHONPATH": stand_in}
    second = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environ)
    first = start_script(
        train_script, yaml.safe_load(config.read_text()), RANK="0", TORCHELASTIC_RUN_ID="r", MASTER_PORT="1"
    )
    assert first.returncode == 0, first.stderr
    assert second.wait(timeout=60) == 0
    assert calls(tmp_path, 0)[0][1]["root"] == calls(tmp_path, 1)[0][1]["root"]


def test_one_that_left_early_stays_until_its_allocation_ends(
    checkpoint: Path, tmp_path: Path, start_script: Start, train_script: Path
) -> None:
    import os

    start_script(train_script, config_for(checkpoint, tmp_path))  # writes config.yaml
    (tmp_path / "plan.json").write_text('{"placement": {"save_before": 900}}')
    environ = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "stand_in"),
        "STAND_IN_ITERATION": "20",
        "STAND_IN_EXIT": "0",
    }
    words = [sys.executable, str(train_script), "--config", str(tmp_path / "config.yaml")]
    child = subprocess.Popen(words, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "iteration 20 of 40 is saved; waiting for the end of the allocation\n"
    time.sleep(0.2)
    assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=30) == -signal.SIGTERM


def test_one_that_left_early_without_an_allocation_fails_at_once(
    checkpoint: Path, tmp_path: Path, start_script: Start, train_script: Path
) -> None:
    done = start_script(train_script, config_for(checkpoint, tmp_path), STAND_IN_ITERATION="20")
    assert done.returncode == 1 and "it left at iteration 20 of 40" in done.stderr


def test_a_failure_of_the_framework_is_its_exit_code(
    checkpoint: Path, tmp_path: Path, start_script: Start, train_script: Path
) -> None:
    assert start_script(train_script, config_for(checkpoint, tmp_path), STAND_IN_EXIT="3").returncode == 3


@pytest.mark.parametrize(
    "target", ["os.system", "megatron.bridge.recipes.qwen.qwen3.gone_config", "os.path_config"]
)
def test_nothing_but_a_recipe_is_called(
    checkpoint: Path, tmp_path: Path, start_script: Start, train_script: Path, target: str
) -> None:
    config = config_for(checkpoint, tmp_path, recipe={"_target_": target})
    done = start_script(train_script, config)
    assert done.returncode == 2 and "recipe" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("calls-*"))


def test_a_recipe_for_another_model_is_refused_before_anything_is_loaded(
    checkpoint: Path, tmp_path: Path, start_script: Start, train_script: Path
) -> None:
    file = checkpoint / "iter_0000000" / "run_config.yaml"
    file.write_text(file.read_text().replace("hidden_size: 32", "hidden_size: 64"))
    done = start_script(train_script, config_for(checkpoint, tmp_path))
    assert done.returncode == 4 and "hidden_size 32 and 64" in done.stderr
    assert not list(tmp_path.glob("calls-*"))


def test_a_run_config_with_tags_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "run_config.yaml").write_text('model: !!python/object/apply:os.system ["false"]\n')
    assert shape_differences(object(), tmp_path) == []


@pytest.mark.parametrize("name", [".metadata", "common.pt", "train_state.pt"])
def test_a_hostile_checkpoint_never_reaches_the_framework(
    checkpoint: Path, tmp_path: Path, start_script: Start, train_script: Path, name: str
) -> None:
    hostile = b"\x80\x04cposix\nsystem\nX\x04\x00\x00\x00true\x85R."
    file = checkpoint / "iter_0000000" / name
    if name == ".metadata":
        file.write_bytes(hostile)
    else:
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("archive/data.pkl", hostile)
    done = start_script(train_script, config_for(checkpoint, tmp_path))
    assert done.returncode == 4 and "no whole checkpoint" in done.stderr
    config = {"model": str(checkpoint), "origin": str(tmp_path / "hf"), "output": "out", "shard_bytes": 1}
    export = start_script(CONVERT / "megatron_to_hf" / "step.py", config, "--with", "megatron_bridge")
    assert export.returncode == 4
    assert not list(tmp_path.glob("calls-*")) and not (tmp_path / "out").exists()


def test_a_model_is_imported_with_auto_bridge(
    made_model: Any, checkpoint: Path, tmp_path: Path, start_script: Start
) -> None:
    config = {"model": str(made_model.path), "vocab_pad": None, "shard_bytes": 5, "output": "out"}
    script = CONVERT / "hf_to_megatron" / "step.py"
    failed = start_script(
        script, config, "--with", "megatron_bridge", STAND_IN_RESULT=str(checkpoint), STAND_IN_FAILS="1"
    )
    assert failed.returncode != 0 and not (tmp_path / "out").exists()
    done = start_script(script, config, "--with", "megatron_bridge", STAND_IN_RESULT=str(checkpoint))
    assert done.returncode == 0, done.stderr
    assert "parameters in out" in done.stdout and (tmp_path / "out" / "iter_0000000").is_dir()
    name, given = calls(tmp_path)[-1]
    assert name == "import_ckpt" and given["hf_model_id"] == str(made_model.path)
    assert not list(tmp_path.glob(".out.*"))


def test_a_checkpoint_is_exported_with_auto_bridge(
    made_model: Any, checkpoint: Path, tmp_path: Path, start_script: Start
) -> None:
    megatron_to_hf(checkpoint, tmp_path / "back")
    config = {"model": str(checkpoint), "origin": str(made_model.path), "shard_bytes": 5, "output": "out"}
    script = CONVERT / "megatron_to_hf" / "step.py"
    done = start_script(script, config, "--with", "megatron_bridge", STAND_IN_RESULT=str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    name, given = calls(tmp_path)[-1]
    assert name == "export_ckpt" and given["model"] == str(made_model.path)
    assert given["megatron_path"] == str(checkpoint / "iter_0000000")


def test_without_the_model_that_was_trained_ours_converts(
    checkpoint: Path, tmp_path: Path, start_script: Start
) -> None:
    config = {"model": str(checkpoint), "origin": None, "shard_bytes": 5_000_000, "output": "out"}
    done = start_script(CONVERT / "megatron_to_hf" / "step.py", config, "--with", "megatron_bridge")
    assert done.returncode == 0 and "our own converter runs" in done.stdout
    assert (tmp_path / "out" / "model.safetensors").exists() and not list(tmp_path.glob("calls-*"))
