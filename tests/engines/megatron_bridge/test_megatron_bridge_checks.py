"""What the Megatron-Bridge engine finds wrong with a config before it costs an allocation."""

from __future__ import annotations

from typing import Any

import pytest
from bridge_configs import facts, shipped

from nemotron.engines.base import find_engine
from nemotron.engines.megatron_bridge.contract import DEFAULT_IMAGE, contract_for_image
from nemotron.findings import Finding

PACKS = "dataset__packed_sequence_specs__"
PACKED_SIZE = "dataset.packed_sequence_specs.packed_sequence_size"


def found(world: int = 8, name: str = "default", **changes: Any) -> tuple[Finding, ...]:
    return find_engine("megatron_bridge").check(shipped(name, **changes), facts(world))


def errors(world: int = 8, **changes: Any) -> dict[str, Finding]:
    return {f.id: f for f in found(world, **changes) if f.severity == "error"}


def test_nothing_is_wrong_with_the_shipped_configs() -> None:
    assert found() == ()
    assert [f for f in found(1, "tiny", embedded=None) if f.severity == "error"][:1] == []


@pytest.mark.parametrize(
    ("change", "rule", "says"),
    [
        ({"train__train_iter": 5}, "unknown_key", "train.train_iters"),
        ({"trian": {}}, "unknown_key", "train"),
        ({"train_iters": 5}, "unknown_key", "train.train_iters"),
        ({f"{PACKS}packed_size": 5}, "unknown_key", "packed_sequence_size"),
        ({"train__train_iters": "many"}, "wrong_type", "a whole number"),
        ({"train__exit_signal_handler": 1}, "wrong_type", "true or false"),
        ({"optimizer__lr": "5e-6"}, "wrong_type", "a number"),
        ({"model": None}, "wrong_type", "a table"),
        ({"scheduler__lr_decay_style": "cosin"}, "bad_choice", "cosine"),
        ({"checkpoint__ckpt_format": "zarr"}, "bad_choice", "torch_dist"),
        ({"scheduler__lr_decay_steps": 5}, "computed_key", ""),
        ({"recipe": {}}, "recipe", "megatron.bridge.recipes"),
        ({"recipe__seq_length": 5}, "recipe", ""),
        ({"recipe___target_": "os.system"}, "recipe", ""),
        (
            {"recipe___target_": "megatron.bridge.recipes.qwen.qwen3.qwen3_8_sft_config"},
            "recipe",
            "qwen3.qwen3_8b_sft_config",
        ),
    ],
)
def test_the_contract(change: dict[str, Any], rule: str, says: str) -> None:
    finding = errors(**change)[f"megatron_bridge.{rule}"]
    assert says in (finding.valid or "")
    assert finding.where


@pytest.mark.parametrize(
    ("key", "value", "valid"),
    [
        ("optimizer.lr", -1, "a number above 0"),
        ("optimizer.lr", float("nan"), "a number above 0"),
        ("optimizer.min_lr", 1, "optimizer.lr 5e-06 at most"),
        ("optimizer.adam_beta2", 1.0, "from 0 to below 1"),
        ("logger.log_interval", 0, "1 or more"),
        ("train.train_iters", -5, "1 or more"),
        ("train.micro_batch_size", 0, "1 or more"),
        ("model.tensor_model_parallel_size", 0, "1 or more"),
        ("checkpoint.save_interval", -1, "1 or more"),
        ("checkpoint.most_recent_k", 0, "-1 for all"),
    ],
)
def test_numbers_that_cannot_be(key: str, value: float, valid: str) -> None:
    mine = {key.replace(".", "__"): value}
    (finding,) = (f for f in found(**mine) if f.severity == "error")
    assert (finding.id, finding.where) == ("megatron_bridge.out_of_range", key)
    assert str(value) in finding.message and valid in str(finding.valid)


def test_a_mixed_precision_that_there_is_not() -> None:
    finding = errors(mixed_precision="bf17_mixed")["megatron_bridge.bad_choice"]
    assert finding.where == "mixed_precision" and finding.fix == "mixed_precision=bf16_mixed"
    assert "fp16_mixed" in str(finding.valid)
    assert errors(mixed_precision="bf17")["megatron_bridge.bad_choice"].where == "mixed_precision"
    for known in ("bf16-mixed", "bf16_with_mxfp8_mixed", None):
        assert errors(mixed_precision=known) == {}


def test_a_recipe_of_another_size_than_the_checkpoint_is_told() -> None:
    check = find_engine("megatron_bridge").check
    scratch, whole = {"model": {"parameters": 330_000}}, {"model": {"parameters": 8_190_735_360}}
    (finding,) = check(shipped(), facts(facts=scratch))
    assert (finding.id, finding.severity) == ("megatron_bridge.recipe_size", "error")
    assert (
        "qwen3_8b_sft_config is for a model of 8B parameters, and the checkpoint has 330,000"
        in finding.message
    )
    assert check(shipped(), facts(facts=whole)) == ()
    moe = shipped(recipe___target_="megatron.bridge.recipes.qwen.qwen3_moe.qwen3_30b_a3b_sft_config")
    assert check(moe, facts(facts={"model": {"parameters": 30_532_122_624}})) == ()


def test_the_tiny_config_of_the_embedded_engine_is_told_before_its_model_is_made() -> None:
    told = [f for f in found(1, "tiny") if f.severity == "error"]
    assert [f.id for f in told] == ["megatron_bridge.recipe_size"]
    assert "--engine embedded" in str(told[0].fix)


@pytest.mark.parametrize(
    ("world", "change", "rule", "fix"),
    [
        (6, {}, "world_size", None),
        (8, {"model__expert_model_parallel_size": 3}, "expert_parallel", None),
        (8, {"train__global_batch_size": 31}, "global_batch", "train.global_batch_size=30"),
        (8, {"train__global_batch_size": 1}, "global_batch", "train.global_batch_size=2"),
        (8, {"train__micro_batch_size": 2}, "micro_batch", "train.micro_batch_size=1"),
        (8, {"model__seq_length": 2048}, "seq_length", "dataset.seq_length=2048"),
        (8, {f"{PACKS}packed_sequence_size": 8192}, "packed_length", f"{PACKED_SIZE}=4096"),
        (4, {"model__tensor_model_parallel_size": 1}, "sequence_parallel", "model.sequence_parallel=false"),
        (
            8,
            {"model__context_parallel_size": 2},
            "context_parallel",
            "dataset.packed_sequence_specs.pad_seq_to_mult=4",
        ),
        (8, {"train__train_iters": None}, "train_length", "train.train_iters=1000"),
        (8, {"train__train_samples": 64}, "train_length", "train.train_samples=null"),
        (8, {"scheduler__lr_decay_samples": 64}, "schedule_unit", None),
        (8, {"scheduler__lr_warmup_iters": 1000}, "warmup", "scheduler.lr_warmup_iters=100"),
        (8, {"scheduler__lr_warmup_fraction": 0.1}, "warmup", "scheduler.lr_warmup_fraction=null"),
        (8, {"checkpoint__save_interval": None}, "save_interval", "checkpoint.save_interval=100"),
        (8, {"checkpoint__load": "/elsewhere"}, "load", "checkpoint.load='${checkpoint.save}'"),
        (8, {"checkpoint__finetune": True}, "finetune", "checkpoint.finetune=false"),
        (8, {"checkpoint__ckpt_format": "fsdp_dtensor"}, "ckpt_format", "checkpoint.ckpt_format=torch_dist"),
        (8, {"checkpoint__pretrained_checkpoint": None}, "pretrained_checkpoint", "-i model=PATH"),
        (8, {"peft": {"dim": 8}}, "peft", "peft=null"),
        (8, {f"{PACKS}packed_train_data_path": None}, "no_data", None),
        (8, {"dataset__dataset_root": "chats.jsonl"}, "two_data", "dataset.dataset_root=null"),
        (8, {f"{PACKS}packed_sequence_size": 0}, "no_packing", f"{PACKED_SIZE}=4096"),
    ],
)
def test_sums_that_do_not_come_out(world: int, change: dict[str, Any], rule: str, fix: str | None) -> None:
    finding = errors(world, **change)[f"megatron_bridge.{rule}"]
    assert finding.fix == fix


def test_every_fix_that_sets_a_key_mends_what_it_was_found_for() -> None:
    for change in ({"train__global_batch_size": 31}, {"scheduler__lr_warmup_iters": 1000}):
        (finding,) = errors(**change).values()
        key, _, value = str(finding.fix).partition("=")
        assert not errors(**change | {key.replace(".", "__"): int(value)})


def test_context_parallelism_asks_for_four_things_and_is_content_with_them() -> None:
    wanted = {
        "model__context_parallel_size": 2,
        "model__tensor_model_parallel_size": 2,
        f"{PACKS}pad_seq_to_mult": 4,
    }
    assert errors(**wanted) == {}
    off = {"model__calculate_per_token_loss": False, "ddp__average_in_collective": True}
    found_now = [f for f in found(**wanted, **off) if f.id == "megatron_bridge.context_parallel"]
    assert {f.where for f in found_now} == {"model.calculate_per_token_loss", "ddp.average_in_collective"}


def test_data_packed_to_longer_rows_are_refused_and_few_rows_are_told() -> None:
    given = facts(8, rows={"packed": 20}, facts={"packed": {"pack_size": 8192, "rows": 20}})
    found_now = {f.id: f for f in find_engine("megatron_bridge").check(shipped(), given)}
    assert "8192" in found_now["megatron_bridge.packed_length"].message
    assert found_now["megatron_bridge.few_rows"].severity == "warning"


def test_warnings_do_not_stop_a_launch() -> None:
    changes = {
        "checkpoint__save_interval": 2000,
        "scheduler__lr_decay_iters": 500,
        "scheduler__start_weight_decay": 0.2,
        "checkpoint__load": None,
    }
    assert not errors(**changes)
    assert {f.id.partition(".")[2] for f in found(**changes)} == {
        "save_interval",
        "lr_decay",
        "weight_decay",
        "load",
    }


def test_an_image_of_another_release_is_told() -> None:
    assert contract_for_image(DEFAULT_IMAGE)[1] == ()
    assert contract_for_image("registry/nemo:26.04.01@sha256:ab")[1] == ()
    contract, (finding,) = contract_for_image("nvcr.io/nvidia/nemo:25.11")
    assert finding.severity == "warning" and contract.version == "v0.4.0"


def test_every_key_of_the_shipped_config_is_of_the_contract() -> None:
    contract, _ = contract_for_image(DEFAULT_IMAGE)
    known = contract.keys()
    assert len(known) == len(set(known)) > 600
    sections = shipped()
    assert all(
        f"{name}.{key}" in known
        for name, table in sections.items()
        if name != "mixed_precision"
        for key in table
    )


def test_a_training_that_ends_with_its_allocation_saves_before() -> None:
    engine = find_engine("megatron_bridge")
    placed = engine.placed(shipped(), seconds=4 * 3600, save_before=900)
    assert placed["train.exit_duration_in_mins"] == (4 * 3600 - 900 - 600) // 60
    assert placed["checkpoint.save"] == placed["checkpoint.load"] == "{run_dir}/checkpoints"
    short = engine.placed(shipped(train__exit_duration_in_mins=5), seconds=4 * 3600, save_before=900)
    assert short["train.exit_duration_in_mins"] == 5
    assert "train.exit_duration_in_mins" not in engine.placed(shipped(), seconds=None, save_before=None)


def test_without_validation_data_there_is_no_validation() -> None:
    engine = find_engine("megatron_bridge")
    assert engine.training_config(shipped())["dataset"]["do_validation"] is False
    with_data = shipped(**{f"{PACKS}packed_val_data_path": "in://validation"})
    assert engine.training_config(with_data)["dataset"]["do_validation"] is True
    assert "embedded" not in engine.training_config(shipped("tiny"))


def test_config_and_tokenizer_of_the_recipe_are_fetched_without_weights() -> None:
    (command,) = find_engine("megatron_bridge").prefetch(shipped())
    assert command[:3] == ("hf", "download", "Qwen/Qwen3-8B") and "*.safetensors" in command
