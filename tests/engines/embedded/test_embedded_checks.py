"""What the embedded engine refuses before anything is trained, each with its key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron.engines.base import StepFacts
from nemotron.engines.embedded.engine import ENGINE
from nemotron.engines.embedded.reading import COMPARE
from nemotron.findings import Finding

Config = Callable[..., dict[str, Any]]
COHORT = f"{COMPARE}.num_rollouts_per_prompt"


def found(config: dict[str, Any], **rows: int) -> tuple[Finding, ...]:
    facts = StepFacts("a/b", Path("a/b"), None, None, "python", 1, 0, None, rows, {})
    return ENGINE.check(config, facts)


def test_a_whole_config_passes(training_config: Config) -> None:
    for algorithm in ("sft", "rm", "dpo", "grpo"):
        assert found(training_config(algorithm)) == ()


def test_the_sections_of_the_launcher_are_not_the_trainers(training_config: Config) -> None:
    config = training_config("sft", {"run.engine": "embedded", "inputs.data": "x", "artifacts.name": "y"})
    assert found(config) == ()
    assert set(config) - set(ENGINE.training_config(config)) == {"run", "inputs", "artifacts"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("policy.dtensor_cfg.lora_cfg.enabled", True),
        ("policy.megatron_cfg.peft.enabled", True),
        ("grpo.use_dynamic_sampling", True),
        ("grpo.async_grpo.enabled", True),
        ("grpo.reward_shaping.stop_properly_penalty_coef", 0.5),
        ("policy.generation.stop_strings", ["END"]),
        (f"{COMPARE}.reasoning_bonus", 0.1),
        (f"{COMPARE}.answer_bonus", 0.1),
        (f"{COMPARE}.group_reasoning_length_penalty_coeff", 0.1),
        (f"{COMPARE}.group_answer_length_penalty_coeff", 0.1),
        (f"{COMPARE}.group_style_penalty_coeff", 0.1),
        ("checkpointing.enabled", False),
        ("env.should_use_nemo_gym", False),
    ],
)
def test_what_cannot_be_done_here_is_refused_and_its_fix_is_taken(
    training_config: Config, key: str, value: Any
) -> None:
    (finding,) = found(training_config("grpo", {key: value}))
    assert (finding.id, finding.severity, finding.where) == ("embedded.refused", "error", key)
    assert finding.fix is not None
    fixed = {"null": None, "true": True}[finding.fix.partition("=")[2]]
    assert found(training_config("grpo", {key: fixed})) == ()
    assert found(training_config("grpo", {key: not value})) == (), "the harmless value passes"


@pytest.mark.parametrize(
    ("algorithm", "keys", "finding_id", "where"),
    [
        (
            "grpo",
            {"grpo.num_generations_per_prompt": 1, "grpo.num_prompts_per_step": 4},
            "grpo.group_size",
            "grpo.num_generations_per_prompt",
        ),
        ("grpo", {COHORT: 16}, "genrm.cohort_size", COHORT),
        ("grpo", {"policy.generation.temperature": 0.0}, "grpo.temperature", "policy.generation.temperature"),
        ("grpo", {"grpo.reward_scaling": {"enabled": True}}, "grpo.reward_numbers", "grpo.reward_scaling"),
        (
            "grpo",
            {
                "grpo.reward_scaling": {
                    "enabled": True,
                    "source_min": 5.0,
                    "source_max": 5.0,
                    "target_min": 0,
                    "target_max": 1,
                }
            },
            "grpo.reward_numbers",
            "grpo.reward_scaling",
        ),
        (
            "grpo",
            {
                "grpo.reward_shaping": {
                    "enabled": True,
                    "overlong_buffer_length": 0,
                    "overlong_buffer_penalty": 1.0,
                    "max_response_length": 6,
                }
            },
            "grpo.reward_numbers",
            "grpo.reward_shaping",
        ),
        ("grpo", {"grpo.num_prompts_per_step": 3}, "embedded.batches", "policy.train_global_batch_size"),
        ("sft", {"policy.train_micro_batch_size": 3}, "embedded.batches", "policy.train_global_batch_size"),
        ("rm", {"policy.reward_model_cfg.reward_model_type": "prm"}, "rm.reward_model_type", None),
        ("dpo", {"policy.optimizer": None}, "config.missing_key", "policy.optimizer"),
        ("dpo", {"policy.max_total_sequence_length": None}, "config.missing_key", None),
        ("sft", {"optimizer.lr": 3}, "config.unknown_key", "optimizer.lr"),
    ],
)
def test_contradictions_are_found(
    training_config: Config, algorithm: str, keys: dict[str, Any], finding_id: str, where: str | None
) -> None:
    findings = found(training_config(algorithm, keys))
    assert [f.id for f in findings] == [finding_id]
    if where is not None:
        assert [f.where for f in findings] == [where]


def test_several_updates_a_step_are_off_policy(training_config: Config) -> None:
    keys = {"policy.train_global_batch_size": 2, "policy.train_micro_batch_size": 2}
    assert found(training_config("grpo", keys)) == ()
    (finding,) = found(training_config("grpo", {**keys, "loss_fn.force_on_policy_ratio": True}))
    assert finding.id == "grpo.on_policy_ratio"
    assert found(training_config("grpo", {"loss_fn.force_on_policy_ratio": True})) == ()


def test_rows_that_were_counted_are_compared_with_a_batch(training_config: Config) -> None:
    assert found(training_config("sft"), data=4) == ()
    (few,) = found(training_config("sft"), data=3)
    assert "3 rows are fewer than one batch of 4" in few.message
    (few,) = found(training_config("grpo"), prompts=1)
    assert "1 prompts are fewer than one step of 2" in few.message


def test_a_ranking_that_no_checkpoint_carries_is_told(training_config: Config) -> None:
    (warning,) = found(training_config("grpo", {"checkpointing.metric_name": "val:total_reward/mean"}))
    assert (warning.id, warning.severity) == ("embedded.metric_name", "warning")
    assert found(training_config("grpo", {"checkpointing.metric_name": "val:accuracy"})) == ()
    keys = {"checkpointing.metric_name": "val:warmth", "embedded.monitor": "nemotron.data.tiny_chat:warmth"}
    assert found(training_config("grpo", keys)) == ()


def test_a_config_without_algorithm_is_refused(training_config: Config) -> None:
    config = training_config("sft")
    del config["sft"]
    assert [f.id for f in found(config)] == ["config.no_algorithm"]


def test_threads_are_in_the_environment_before_torch_starts(training_config: Config) -> None:
    assert ENGINE.environment(training_config("sft", {"embedded.threads": 3}))["OMP_NUM_THREADS"] == "3"
    assert ENGINE.environment({})["OMP_NUM_THREADS"] == "1"
