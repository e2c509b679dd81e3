"""Faults that configs in circulation have, each of which costs hours where nothing checks them."""

from __future__ import annotations

from nemo_rl_configs import COMPARE, GONE, JUDGE, config

from nemotron.engines.nemo_rl.contract import load_contract
from nemotron.engines.nemo_rl.rules import check
from nemotron.findings import Finding

GYM = "grpo_nemo_gym"
CONTRACT = load_contract("v0.6.0")


def errors(entry_point: str, edits: dict[str, object], **given: int) -> dict[str, Finding]:
    """Error findings of contract and rules, by id and key."""
    data = config(entry_point, edits)
    findings = (*CONTRACT.check(entry_point, data), *check(entry_point, data, nodes=given.get("nodes")))
    return {f"{f.id} {f.where}": f for f in findings if f.severity == "error"}


def test_flat_data_keys_over_the_default_set_would_train_on_squad() -> None:
    found = errors(
        "sft",
        {
            "data.dataset_name": "openai_format",
            "data.train_data_path": "/d/train.jsonl",
            "data.val_data_path": "/d/val.jsonl",
            "data.chat_key": "messages",
            "data.train": {"dataset_name": "squad", "split": "train"},
            "data.validation": {"dataset_name": "squad", "split": "validation"},
            "checkpointing.metric_name": "val:loss",
        },
    )
    legacy = {key.split()[1] for key in found if key.startswith("nemo_rl.legacy_data_key")}
    assert legacy == {"data.dataset_name", "data.train_data_path", "data.val_data_path", "data.chat_key"}
    assert "nemo_rl.metric_name checkpointing.metric_name" in found


def test_16_prompts_of_8_generations_are_no_on_policy_batch_of_32() -> None:
    found = errors(GYM, {"policy.train_global_batch_size": 32})
    assert list(found) == ["nemo_rl.on_policy_batch policy.train_global_batch_size"]


def test_a_cohort_size_under_the_name_of_the_kind_leaves_16_and_hangs() -> None:
    found = errors(
        GYM,
        {
            "env.nemo_gym.genrm_compare_resources_server": GONE,
            "env.nemo_gym.genrm_compare.resources_servers.genrm_compare": {
                "entrypoint": "app.py",
                "num_rollouts_per_prompt": 8,
            },
        },
    )
    assert "nemo_rl.genrm_compare_server env.nemo_gym.genrm_compare" in found
    assert "16 rollouts" in found[f"nemo_rl.genrm_cohort {COMPARE}.num_rollouts_per_prompt"].message


def test_a_judge_of_kind_vllm_model_is_dropped() -> None:
    model = {"entrypoint": "app.py", "model": "/path/to/genrm/model", "spinup_server": True}
    found = errors(GYM, {JUDGE: {"vllm_model": model}})
    assert f"nemo_rl.genrm_judge_kind {JUDGE}.vllm_model" in found


def test_a_judge_node_that_nobody_allocates() -> None:
    found = errors(GYM, {}, nodes=1)
    assert list(found) == ["nemo_rl.node_count cluster.num_nodes"]


def test_validation_that_repeats_twice_for_a_cohort_of_eight() -> None:
    found = errors(GYM, {"data.validation.repeat": 2})
    assert list(found) == ["nemo_rl.genrm_validation_repeat data.validation.repeat"]


def test_a_dpo_config_of_knobs_alone_lacks_what_nemo_rl_reads() -> None:
    found = errors(
        "dpo",
        {
            "policy.dtensor_cfg": GONE,
            "policy.megatron_cfg": GONE,
            "policy.dynamic_batching": GONE,
            "policy.sequence_packing": GONE,
            "policy.make_sequence_length_divisible_by": GONE,
            "policy.optimizer": {"name": "adamw", "lr": 5.0e-7},
            "data.train": GONE,
            "data.validation": GONE,
            "data.dataset_name": "HelpSteer3",
        },
    )
    missing = {key.split()[1] for key in found if key.startswith("nemo_rl.missing_key")}
    assert {
        "policy.dtensor_cfg",
        "policy.dynamic_batching",
        "policy.sequence_packing",
        "policy.make_sequence_length_divisible_by",
        "policy.optimizer.kwargs",
        "data.train",
    } <= missing
    assert "nemo_rl.one_backend policy.dtensor_cfg.enabled" in found
    assert "nemo_rl.legacy_data_key data.dataset_name" in found
