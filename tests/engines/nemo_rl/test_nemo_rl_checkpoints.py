"""Rules that look at directories: the checkpoint a run starts from, and those it would resume from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nemo_rl_configs import config

from nemotron.engines.nemo_rl.rules import check
from nemotron.findings import Finding


def about(rule: str, edits: dict[str, object]) -> list[Finding]:
    return [f for f in check("sft", config("sft", edits)) if f.id == rule]


def saved(directory: Path, step: int, edits: dict[str, object] | None = None) -> dict[str, object]:
    """A checkpoint directory with one step, and the edit that points a config at it."""
    target = directory / f"step_{step}"
    target.mkdir(parents=True)
    # NeMo-RL has turned the one training set into a list by the time it saves.
    data = config("sft", edits or {})
    data["data"]["train"] = [{**data["data"]["default"], **data["data"]["train"]}]
    (target / "config.yaml").write_text(json.dumps(data), encoding="utf-8")
    return {"checkpointing.checkpoint_dir": str(directory)}


def test_a_run_of_the_same_config_says_that_it_resumes(tmp_path: Path) -> None:
    edits = saved(tmp_path, 20)
    (tmp_path / "tmp_step_40").mkdir()
    (tmp_path / "step_9").mkdir()
    [finding] = about("nemo_rl.resumes", edits)
    assert finding.severity == "warning"
    assert "step 20: the run resumes" in finding.message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("policy.model_name", "/other"),
        ("policy.megatron_cfg.tensor_model_parallel_size", 4),
        ("data.train.data_path", "/d/other.jsonl"),
    ],
)
def test_a_resume_with_another_model_layout_or_data_is_refused(
    tmp_path: Path, key: str, value: object
) -> None:
    edits = saved(tmp_path, 20, {key: value})
    errors = [f for f in about("nemo_rl.resumes", edits) if f.severity == "error"]
    assert [key.startswith(f.where or "-") for f in errors] == [True]
    assert str(value) in errors[0].message


def test_a_resume_that_has_nothing_left_to_do_is_refused(tmp_path: Path) -> None:
    edits = {**saved(tmp_path, 20), "sft.max_num_steps": 20}
    errors = [f for f in about("nemo_rl.resumes", edits) if f.severity == "error"]
    assert [f.where for f in errors] == ["sft.max_num_steps"]
    assert errors[0].fix == "sft.max_num_steps=40"


def test_a_checkpoint_without_a_readable_config_is_still_named(tmp_path: Path) -> None:
    edits = saved(tmp_path, 20)
    (tmp_path / "step_20" / "config.yaml").write_text("a: [", encoding="utf-8")
    [finding] = about("nemo_rl.resumes", edits)
    assert "cannot be read" in finding.message


def test_a_new_directory_and_a_relative_one_are_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "step_5").mkdir(parents=True)
    assert about("nemo_rl.resumes", {"checkpointing.checkpoint_dir": str(tmp_path / "new")}) == []
    assert about("nemo_rl.resumes", {}) == []


def test_a_megatron_checkpoint_is_no_policy_for_this_release(tmp_path: Path) -> None:
    (tmp_path / "iter_0000000").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("0", encoding="utf-8")
    [finding] = about("nemo_rl.policy_format", {"policy.model_name": str(tmp_path)})
    assert finding.severity == "error"
    assert "convert/megatron_to_hf" in (finding.fix or "")


def test_a_hugging_face_directory_is_a_policy(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert about("nemo_rl.policy_format", {"policy.model_name": str(tmp_path)}) == []
