"""The `run_config.yaml` of Megatron-Bridge: written for a model, and read back into a Hugging Face config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nemotron.artifacts.history.files import Folder
from nemotron.artifacts.paths import printable
from nemotron.checkpoints.families import ARCHITECTURES, LLAMA3_ROPE, Model
from nemotron.checkpoints.places import RUN_CONFIG
from nemotron.checkpoints.torch_files import DTYPES
from nemotron.errors import CheckFailed

_BRIDGE = "megatron.bridge"
_PROVIDERS = MappingProxyType(
    {
        "llama": f"{_BRIDGE}.models.llama.llama_provider.LlamaModelProvider",
        "mistral": f"{_BRIDGE}.models.mistral.mistral_provider.MistralModelProvider",
        "qwen2": f"{_BRIDGE}.models.qwen.qwen_provider.Qwen2ModelProvider",
        "qwen3": f"{_BRIDGE}.models.qwen.qwen_provider.Qwen3ModelProvider",
    }
)
# Sections without which Megatron-Bridge does not build its config; it takes null for all but two of them.
_EMPTY = ("train", "optimizer", "scheduler", "dataset", "logger", "tokenizer")
_ORIGIN = "name the model it was made from: -i origin=PATH to convert/megatron_to_hf"


def run_config_text(model: Model, dtype: str, padding: int | None) -> str:
    """The YAML that describes `model` to Megatron-Bridge and to NeMo-RL.

    dtype: of most weights, as safetensors names it. padding: what the vocabulary was padded to a multiple
    of, None when it was not.
    """
    import yaml

    provider = {
        "_target_": _PROVIDERS[model.family],
        "num_layers": model.layers,
        "hidden_size": model.hidden,
        "ffn_hidden_size": model.ffn,
        "num_attention_heads": model.heads,
        "num_query_groups": model.groups,
        "kv_channels": model.head_dim,
        "vocab_size": model.vocab,
        "make_vocab_size_divisible_by": padding or _power_of_two(model.vocab),
        "should_pad_vocab": padding is not None,
        "seq_length": model.positions,
        "layernorm_epsilon": model.norm_eps,
        "init_method_std": model.init_std,
        "rotary_base": _whole(model.rope_theta),
        "rope_scaling": model.rope_factor is not None,
        "rope_scaling_factor": model.rope_factor if model.rope_factor is not None else 1.0,
        "normalization": "RMSNorm",
        "gated_linear_unit": True,
        "position_embedding_type": "rope",
        "add_bias_linear": False,
        "add_qkv_bias": model.qkv_bias,
        "qk_layernorm": model.qk_norm,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "share_embeddings_and_output_weights": model.tied,
        "bf16": dtype == "BF16",
        "fp16": dtype == "F16",
        "params_dtype": {"_target_": f"torch.{DTYPES[dtype][0]}", "_call_": False},
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
    }
    if model.window is not None:
        provider |= {"window_size": [model.window, 0], "cp_comm_type": "a2a"}
    saved = {"ckpt_format": "torch_dist", "save_optim": False, "save_rng": False, "fully_parallel_save": True}
    config: dict[str, Any] = {
        "_target_": f"{_BRIDGE}.training.config.ConfigContainer",
        "model": provider,
        "checkpoint": {"_target_": f"{_BRIDGE}.training.config.CheckpointConfig", **saved},
        **dict.fromkeys(_EMPTY),
    }
    text: str = yaml.safe_dump(config, sort_keys=False)
    return text


def hf_config_of(iteration: Path) -> dict[str, Any]:
    """The `config.json` of the model that the run config of an iteration describes.

    Raises CheckFailed when there is none, or when it describes a model that cannot be converted.
    """
    file = iteration / RUN_CONFIG
    folder = Folder(iteration)
    config = folder.yaml(file)
    if config is None:
        what = folder.findings[0].message if folder.findings else "no config of the model with it"
        raise CheckFailed(what, where=printable(file), next=_ORIGIN)
    model = config.get("model")
    if not isinstance(model, Mapping):
        raise CheckFailed("model is missing", where=printable(file), next=_ORIGIN)
    return _hf_config(_Fields(model, printable(file)))


class _Fields:
    """The fields of a model provider; what cannot be carried over is refused."""

    def __init__(self, model: Mapping[str, Any], where: str) -> None:
        self._model = model
        self.where = where

    def get(self, key: str, default: Any = None) -> Any:
        value = self._model.get(key)
        return default if value is None else value

    def need(self, key: str) -> Any:
        value = self._model.get(key)
        if value is None:
            raise CheckFailed(f"model.{key} is missing", where=self.where, next=_ORIGIN)
        return value

    def expect(self, key: str, wanted: Any, default: Any = None) -> None:
        value = self.get(key, default)
        if value != wanted:
            what = f"a model with {key} = {str(value)[:60]} cannot be converted"
            raise CheckFailed(what, where=self.where, valid=(f"{key} = {wanted}",))


def _hf_config(model: _Fields) -> dict[str, Any]:
    target = str(model.get("_target_", ""))
    model.expect("normalization", "RMSNorm", "RMSNorm")
    model.expect("gated_linear_unit", True, True)
    model.expect("position_embedding_type", "rope", "rope")
    model.expect("add_bias_linear", False, False)
    model.expect("rotary_percent", 1.0, 1.0)
    model.expect("num_moe_experts", None)
    model.expect("multi_latent_attention", False, False)
    family = _family(target, bool(model.get("add_qkv_bias")), bool(model.get("qk_layernorm")))
    hidden, heads = model.need("hidden_size"), model.need("num_attention_heads")
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": model.need("ffn_hidden_size"),
        "num_hidden_layers": model.need("num_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": model.get("num_query_groups", heads),
        "head_dim": model.get("kv_channels", hidden // heads if isinstance(hidden, int) else None),
        "vocab_size": model.need("vocab_size"),
        "max_position_embeddings": model.get("seq_length", 2048),
        "rms_norm_eps": model.get("layernorm_epsilon", 1e-6),
        "initializer_range": model.get("init_method_std", 0.02),
        "tie_word_embeddings": bool(model.get("share_embeddings_and_output_weights", False)),
        "rope_theta": float(model.get("rotary_base", 10000)),
        "torch_dtype": _dtype(model),
    }
    if model.get("rope_scaling"):
        scaling = {"rope_type": "llama3", "factor": model.get("rope_scaling_factor", 8.0), **LLAMA3_ROPE}
        config["rope_scaling"] = scaling
    window = model.get("window_size")
    if family == "mistral":
        config["sliding_window"] = window[0] if isinstance(window, list) and window else None
    return config


def _family(target: str, qkv_bias: bool, qk_norm: bool) -> str:
    """By the provider's class, which may be the plain one: then by what tells the families apart."""
    if qkv_bias or qk_norm:
        return "qwen3" if qk_norm else "qwen2"
    return "mistral" if "mistral" in target.lower() else "llama"


def _dtype(model: _Fields) -> str:
    named = model.get("params_dtype")
    name = str(named.get("_target_") if isinstance(named, Mapping) else named).removeprefix("torch.")
    if name in {dtype[0] for dtype in DTYPES.values()}:
        return name
    return "bfloat16" if model.get("bf16") else "float16" if model.get("fp16") else "float32"


def _power_of_two(vocab: int) -> int:
    """The largest power of two up to 128 that divides it, as Megatron-Bridge takes it."""
    return min(128, vocab & -vocab)


def _whole(number: float) -> float | int:
    return int(number) if number.is_integer() else number
