"""Megatron checkpoints of the embedded engine: what it reads, what it leaves, what it resumes from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from small_models import Made

from nemotron.checkpoints.compare_tensors import compare
from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.engines.embedded.checkpoints import CheckpointDirectory
from nemotron.engines.embedded.megatron import leaves_megatron, with_hf_models

Make = Callable[..., Made]


def written(model: Path, at: Path) -> Path:
    """What a trainer leaves: a model and its state in one directory."""
    shutil.copytree(model, at)
    (at / "optimizer.pt").write_bytes(b"state")
    return at


def test_a_step_is_kept_as_megatron_and_resumed_from(make_model: Make, tmp_path: Path) -> None:
    model = make_model("qwen3").path
    kept = CheckpointDirectory(tmp_path / "checkpoints", megatron=True)
    kept.adopt(written(model, tmp_path / "written"), 5, {"step": 5}, {"more.json": 1})
    step = kept.step_dir(5)
    assert sorted(p.name for p in step.iterdir()) == ["policy", "trainer", "training_info.json"]
    assert (step / "policy" / "weights" / "iter_0000000" / ".metadata").is_file()
    assert compare(model, step / "policy" / "weights").equal
    view = kept.resume_view(5, tmp_path / "resume")
    assert {"config.json", "optimizer.pt", "more.json"} <= {p.name for p in view.iterdir()}
    assert compare(model, kept.model(5, tmp_path / "loaded")).equal


def test_a_megatron_input_is_a_model_directory_for_the_trainer(make_model: Make, tmp_path: Path) -> None:
    model = make_model("llama").path
    hf_to_megatron(model, tmp_path / "megatron")
    given = {
        "policy": {
            "model_name": str(tmp_path / "megatron"),
            "tokenizer": {"name": str(tmp_path / "megatron")},
        },
        "checkpointing": {"checkpoint_dir": str(tmp_path / "megatron")},
        "other": [str(model), "text", 3],
    }
    (tmp_path / "work").mkdir()
    found = with_hf_models(given, tmp_path / "work")
    assert compare(model, Path(found["policy"]["model_name"])).equal
    assert found["policy"]["tokenizer"]["name"] == found["policy"]["model_name"], "converted once"
    assert found["checkpointing"] == given["checkpointing"], "where a run writes is no input"
    assert found["other"] == given["other"]


def test_the_plan_says_what_is_left(tmp_path: Path) -> None:
    assert not leaves_megatron(tmp_path)
    for name, expected in (("checkpoint_hf", False), ("checkpoint_megatron", True)):
        (tmp_path / "plan.json").write_text(json.dumps({"outputs": [{"type": name}]}))
        assert leaves_megatron(tmp_path) is expected
