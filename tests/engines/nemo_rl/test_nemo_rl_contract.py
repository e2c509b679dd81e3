"""The condensed contracts: what they demand, what they let pass, what they call a slip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nemo_rl_configs import DEFAULTS, GONE, config

from nemotron.engines.nemo_rl import contract as contract_module
from nemotron.engines.nemo_rl.contract import (
    Contract,
    contract_for_image,
    known_versions,
    load_contract,
    looks_like_slip,
)
from nemotron.errors import NotFound, UsageError
from nemotron.findings import Finding

CONTRACT = load_contract("v0.6.0")
GYM = "grpo_nemo_gym"

# Keys NeMo-RL v0.6.0 reads without a default, by entry point.
READ = {
    "sft": (
        "policy.tokenizer.name", "policy.dtensor_cfg", "policy.sequence_packing", "data.num_workers",
        "data.add_bos", "data.add_eos", "data.add_generation_prompt", "sft.val_at_end", "logger.wandb",
        "checkpointing.keep_top_k", "checkpointing.save_optimizer", "checkpointing.checkpoint_must_save_by",
        "policy.megatron_cfg.moe_permute_fusion", "policy.megatron_cfg.optimizer.sgd_momentum",
        "policy.megatron_cfg.moe_per_layer_logging", "policy.offload_optimizer_for_logprob", "cluster",
    ),
    "rm": ("policy.reward_model_cfg", "policy.max_grad_norm", "policy.optimizer.kwargs", "rm.val_batches"),
    "dpo": ("dpo.sft_loss_weight", "policy.dynamic_batching", "data.train", "logger.monitor_gpus"),
    GYM: (
        "data.use_multiple_dataloader", "logger.num_val_samples_to_print", "policy.generation",
        "policy.generation.colocated", "policy.generation.stop_strings", "grpo.batch_multiplier", "env",
        "policy.generation.vllm_cfg.kv_cache_dtype", "policy.generation.vllm_cfg.precision",
        "policy.generation.vllm_cfg.enforce_eager", "loss_fn.ratio_clip_c", "grpo.max_val_samples",
    ),
    "grpo": ("policy.draft",),
}  # fmt: skip


def check(entry_point: str, edits: dict[str, object]) -> tuple[Finding, ...]:
    return CONTRACT.check(entry_point, config(entry_point, edits))


def only(findings: tuple[Finding, ...]) -> Finding:
    assert len(findings) == 1, [f.render() for f in findings]
    return findings[0]


@pytest.mark.parametrize("version", known_versions())
def test_every_contract_is_small_and_complete(version: str) -> None:
    path = Path(contract_module.__file__).parent / "contracts" / f"{version}.json"
    assert path.stat().st_size < 150_000
    assert load_contract(version).entry_points == ("sft", "rm", "dpo", "grpo", GYM)


@pytest.mark.parametrize(("entry_point", "key"), [(e, k) for e, keys in READ.items() for k in keys])
def test_a_key_that_is_read_without_default_is_demanded(entry_point: str, key: str) -> None:
    finding = only(check(entry_point, {key: GONE}))
    assert (finding.id, finding.severity, finding.where) == ("nemo_rl.missing_key", "error", key)
    assert "nemo_rl/" in finding.message or "examples/" in finding.message


def test_a_missing_section_is_one_finding() -> None:
    assert only(check("sft", {"checkpointing": GONE})).where == "checkpointing"


def test_a_value_that_was_never_set_is_missing() -> None:
    finding = only(check("sft", {"policy.model_name": "???"}))
    assert (finding.id, finding.fix) == ("nemo_rl.missing_key", "policy.model_name=...")


@pytest.mark.parametrize(
    ("key", "value", "takes"),
    [
        ("policy.train_global_batch_size", "128", "an integer"),
        ("policy.train_global_batch_size", 128.0, "an integer"),
        ("policy.train_global_batch_size", True, "an integer"),
        ("policy.train_global_batch_size", None, "an integer"),
        ("loss_fn.reference_policy_kl_penalty", "1e-4", "a number"),
        ("loss_fn.force_on_policy_ratio", "yes", "true or false"),
        ("policy.model_name", 3, "a string"),
        ("policy", "llama", "a table"),
        ("policy.generation.stop_token_ids", 7, "a list or null"),
        ("data.train", "prompts.jsonl", "a list or a table"),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error(key: str, value: object, takes: str) -> None:
    finding = only(check(GYM, {key: value}))
    assert (finding.id, finding.severity, finding.where) == ("nemo_rl.wrong_type", "error", key)
    assert takes in finding.message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loss_fn.reference_policy_kl_penalty", 0),
        ("policy.generation.top_k", 5),
        ("loss_fn.ratio_clip_c", 3.0),
        ("grpo.val_batch_size", None),
        ("policy.tokenizer.chat_template", None),
        ("logger.gpu_monitoring.flush_interval", 2.5),
        ("data.train.repeat", 4),
        ("policy.generation.vllm_kwargs.anything.at.all", [1]),
        ("env.nemo_gym.any_server", {"x": 1}),
        ("policy.train_global_batch_size", "${oc.env:BATCH}"),
    ],
)
def test_a_value_that_works_is_let_through(key: str, value: object) -> None:
    assert check(GYM, {key: value}) == ()


def test_a_bad_choice_names_the_good_ones() -> None:
    finding = only(check(GYM, {"policy.generation.vllm_cfg.kv_cache_dtype": "int8"}))
    assert (finding.id, finding.where) == ("nemo_rl.bad_choice", "policy.generation.vllm_cfg.kv_cache_dtype")
    assert "'fp8_e4m3'" in (finding.valid or "")


class TestUnknownKeys:
    def test_a_slip_is_an_error_that_names_the_key_meant(self) -> None:
        finding = only(check(GYM, {"grpo.num_promts_per_step": 4}))
        assert (finding.severity, finding.valid) == ("error", "grpo.num_prompts_per_step")
        assert finding.fix == "rename it to grpo.num_prompts_per_step"

    @pytest.mark.parametrize(
        "key",
        [
            "grpo.num_val_generations_per_prompt",
            "policy.generation.val_temperature",
            "policy.megatron_cfg.moe_aux_loss_coeff",
            "on_policy_distillation",
        ],
    )
    def test_a_key_of_another_release_is_a_warning(self, key: str) -> None:
        finding = only(check(GYM, {key: 1}))
        assert (finding.id, finding.severity, finding.where) == ("nemo_rl.unknown_key", "warning", key)

    def test_a_section_that_is_switched_off_may_hold_anything(self) -> None:
        assert check("sft", {"policy.dtensor_cfg.tensor_paralel_size": 2}) == ()
        assert check("sft", {"policy.dynamic_batching.train_mb_tokens": "many"}) == ()

    def test_data_sets_in_a_list_are_looked_into(self) -> None:
        finding = only(
            check("sft", {"data.train": [{"data_path": "/d/a.jsonl"}, {"data_pth": "/d/b.jsonl"}]})
        )
        assert (finding.where, finding.valid) == ("data.train.1.data_pth", "data.train.1.data_path")

    @pytest.mark.parametrize(
        ("word", "known"),
        [("tp_size", "dp_size"), ("top_k", "val_top_k"), ("env", "eps"), ("seed", "seeds_to_use")],
    )
    def test_what_is_no_slip(self, word: str, known: str) -> None:
        assert not looks_like_slip(word, known)

    @given(st.sampled_from(CONTRACT.keys("sft")), st.data())
    def test_one_letter_left_out_doubled_or_swapped_is_a_slip(self, key: str, data: st.DataObject) -> None:
        known = key.rpartition(".")[2]
        at = data.draw(st.integers(1, max(1, len(known) - 2)))
        left_out = known[:at] + known[at + 1 :]
        doubled = known[:at] + known[at] + known[at:]
        swapped = known[:at] + known[at : at + 2][::-1] + known[at + 2 :]
        for word in (left_out, doubled, swapped):
            if word != known and min(len(word), len(known)) >= 4:
                assert looks_like_slip(word, known), word


class TestVariants:
    def test_a_switch_that_is_missing_is_asked_for(self) -> None:
        finding = only(check("sft", {"policy.dynamic_batching": {}}))
        assert (finding.id, finding.where) == ("nemo_rl.missing_key", "policy.dynamic_batching.enabled")

    def test_a_switch_that_is_no_switch_is_refused(self) -> None:
        finding = only(check("sft", {"policy.dynamic_batching.enabled": "maybe"}))
        assert (finding.id, finding.where) == ("nemo_rl.wrong_type", "policy.dynamic_batching.enabled")

    def test_the_backend_selects_the_generation_section(self) -> None:
        edits: dict[str, object] = {
            "policy.generation.backend": "sglang",
            "policy.generation.sglang_cfg": {"model_path": 3},
            "policy.generation.vllm_cfg": GONE,
            "policy.generation.vllm_kwargs": GONE,
        }
        finding = only(check(GYM, edits))
        assert (finding.id, finding.where) == (
            "nemo_rl.wrong_type",
            "policy.generation.sglang_cfg.model_path",
        )


class TestReading:
    def test_an_unknown_version_names_the_known_ones(self) -> None:
        with pytest.raises(NotFound) as caught:
            load_contract("v0.6.1")
        assert caught.value.nearest[0] == "v0.6.0"
        assert set(caught.value.valid) == {"v0.5.0", "v0.6.0", "v0.7.0"}

    def test_a_path_is_no_version(self) -> None:
        with pytest.raises(NotFound):
            load_contract("../contracts/v0.6.0")

    def test_an_unknown_entry_point_names_the_nearest(self) -> None:
        with pytest.raises(UsageError) as caught:
            CONTRACT.check("gpro", {})
        assert "grpo" in caught.value.nearest

    @pytest.mark.parametrize(
        "image",
        ["nvcr.io/nvidia/nemo-rl:v0.7.0", "registry:5000/nemo-rl:v0.7.0", "nemo-rl:v0.7.0@sha256:ab12"],
    )
    def test_the_version_is_the_tag_of_the_image(self, image: str) -> None:
        found, findings = contract_for_image(image)
        assert (found.version, findings) == ("v0.7.0", ())

    @pytest.mark.parametrize(
        "image",
        ["nvcr.io/nvidia/nemo-rl:v0.5.0.nemotron_3_super", "/images/nemo-rl.sqsh", "registry:5000/nemo-rl"],
    )
    def test_an_unknown_tag_is_a_warning_that_names_the_contract_used(self, image: str) -> None:
        found, findings = contract_for_image(image)
        assert found.version == "v0.6.0"
        assert (findings[0].id, findings[0].severity) == ("nemo_rl.unknown_version", "warning")
        assert "v0.6.0" in findings[0].message

    def test_keys_reach_into_every_variant(self) -> None:
        keys = CONTRACT.keys(GYM)
        assert {
            "grpo.num_prompts_per_step",
            "policy.dtensor_cfg.lora_cfg.dim",
            "policy.megatron_cfg.optimizer.lr",
            "policy.generation.vllm_cfg.max_model_len",
            "policy.generation.sglang_cfg.mem_fraction_static",
            "data.train.data_path",
            "env",
        } <= set(keys)
        assert len(keys) == len(set(keys))
        assert not any(key.startswith(("sft.", "dpo.")) for key in keys)

    def test_resolvers_and_scripts_are_told_by_entry_point(self) -> None:
        assert CONTRACT.resolvers("dpo") == ()
        assert "mul" in CONTRACT.resolvers("sft")
        assert CONTRACT.script(GYM) == "examples/nemo_gym/run_grpo_nemo_gym.py"

    def test_releases_differ(self) -> None:
        later: Contract = load_contract("v0.7.0")
        data: dict[str, Any] = config(
            GYM, {"policy.pretrained_checkpoint": {"path": "/c", "format": "megatron_lm"}}
        )
        assert [f.where for f in CONTRACT.check(GYM, data)] == ["policy.pretrained_checkpoint"]
        assert not [f for f in later.check(GYM, data) if f.where == "policy.pretrained_checkpoint"]


@pytest.mark.parametrize("entry_point", DEFAULTS)
def test_a_config_without_anything_is_judged_without_a_crash(entry_point: str) -> None:
    assert {f.severity for f in CONTRACT.check(entry_point, {})} == {"error"}


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, nemotron.engines.nemo_rl.contract as c, nemotron.engines.nemo_rl.entry, "
        "nemotron.engines.nemo_rl.rules as r;"
        "c.load_contract('v0.6.0').check('sft', {}); r.check('sft', {});"
        "print(sorted(set(sys.modules) & {'yaml', 'omegaconf', 'pydantic', 'torch', 'ray', 'rich', 'typer'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
