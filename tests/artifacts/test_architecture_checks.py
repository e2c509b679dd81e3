from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemotron.artifacts.checks.architecture import architecture_digest

LLAMA: dict[str, Any] = {
    "_name_or_path": "org/base",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0",
    "vocab_size": 300,
}
QWEN2 = {
    **LLAMA,
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "attention_dropout": 0.0,
    "rope_scaling": None,
    "sliding_window": 4096,
    "max_window_layers": 2,
    "use_sliding_window": False,
}
QWEN3 = {**QWEN2, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 32}
MULTI_HEAD = {**LLAMA, "num_key_value_heads": 4, "rope_theta": 10000.0, "rope_scaling": None}


@pytest.mark.parametrize(
    "change",
    [
        {"_name_or_path": "elsewhere"},
        {"transformers_version": "5.0.0"},
        {"torch_dtype": None, "dtype": "float32"},
        {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "a"}, "num_labels": 1},
        {"eos_token_id": [1, 2], "pad_token_id": 0, "use_cache": False},
        {"attention_dropout": 0.1, "initializer_range": 1, "tie_word_embeddings": True},
        {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1, "head_dim": 16},
        {
            "rope_theta": None,
            "rope_scaling": None,
            "rope_parameters": {"factor": 8, "rope_type": "linear", "rope_theta": 500000},
        },
        {"rope_scaling": {"factor": 8, "type": "linear"}},
    ],
)
def test_what_changes_between_saves_does_not_count(change: dict[str, Any]) -> None:
    assert architecture_digest({**LLAMA, **change}) == architecture_digest(LLAMA)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 128},
        {"num_hidden_layers": 3},
        {"num_attention_heads": 8},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": None},
        {"head_dim": 32},
        {"intermediate_size": 256},
        {"vocab_size": 301},
        {"rms_norm_eps": 1e-06},
        {"hidden_act": "relu2"},
        {"rope_theta": 10000.0},
        {"rope_scaling": {"factor": 4.0, "rope_type": "linear"}},
        {"rope_scaling": None},
        {"partial_rotary_factor": 0.5},
        {"attention_bias": True},
        {"model_type": "qwen2"},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"sliding_window": 128},
        {"text_config": {"hidden_size": 64}},
    ],
)
def test_what_decides_tensors_or_arithmetic_counts(change: dict[str, Any]) -> None:
    assert architecture_digest({**LLAMA, **change}) != architecture_digest(LLAMA)


def test_the_parts_of_a_model_are_looked_into() -> None:
    one = {"model_type": "vlm", "text_config": LLAMA, "vision_config": {"depth": 2}}
    same = {**one, "text_config": {**LLAMA, "dtype": "float32", "mlp_bias": False}}
    assert architecture_digest(same) == architecture_digest(one)
    other = {**one, "text_config": {**LLAMA, "hidden_size": 128}}
    assert architecture_digest(other) != architecture_digest(one)


@pytest.mark.parametrize("config", [LLAMA, QWEN2, QWEN3, MULTI_HEAD])
def test_saving_again_keeps_the_digest(tmp_path: Path, config: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(config))
    transformers.AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert again != config
    assert architecture_digest(again) == architecture_digest(config)


def test_a_config_nested_too_deeply_has_none() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"a_config": deep}
    assert architecture_digest(deep) is None
