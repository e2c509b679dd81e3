"""What a `config.json` says of a model's tensors and arithmetic, as a digest that saving again keeps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Names, versions, settings of training and of sampling: two models that differ in them alone hold the same
# tensors and compute the same. Whether the output layer is stored or shared is told by the weights, and
# absent means either, depending on the model.
_NOT_ARCHITECTURE = frozenset(
    (
        "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path",
        "add_cross_attention", "architectures", "auto_map", "bad_words_ids", "begin_suppress_tokens",
        "chunk_size_feed_forward", "custom_pipelines", "diversity_penalty", "do_sample", "dtype",
        "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
        "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing",
        "id2label", "initializer_range", "is_decoder", "label2id", "length_penalty", "max_length",
        "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels",
        "num_return_sequences", "output_attentions", "output_hidden_states", "output_router_logits",
        "output_scores", "prefix", "problem_type", "remove_invalid_values", "repetition_penalty",
        "return_dict", "return_dict_in_generate", "router_aux_loss_coef", "suppress_tokens",
        "task_specific_params", "temperature", "tie_word_embeddings", "tokenizer_class", "top_k", "top_p",
        "torch_dtype", "torchscript", "transformers_version", "typical_p", "unsloth_fixed",
        "unsloth_version", "use_bfloat16", "use_cache",
    )
)  # fmt: skip
_NOT_ARCHITECTURE_ENDINGS = ("_token_id", "dropout", "_pdrop", "_dropout_prob")
# Written by newer versions of `transformers` where older ones left them out.
_DEFAULTS: tuple[tuple[str, object], ...] = (("pretraining_tp", 1), ("scale_attn_weights", True))
_ROPE = ("rope_theta", "partial_rotary_factor")
_ROPE_THETA = 10000


def architecture_digest(config: Mapping[str, Any]) -> str | None:
    """`sha256:<hex>` over what decides tensor shapes and arithmetic; None when the config is too deep.

    A value that is null or false is the same as none; so is one that follows from others (the size of a
    head, as many key heads as query heads) and one that newer versions write in another place (rope).
    """
    try:
        text = json.dumps(_kept(config), sort_keys=True, separators=(",", ":"))
    except RecursionError:
        return None
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def _kept(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: _plain(value) for key, value in config.items() if not _is_dropped(key)}
    kept |= {key: _kept(value) for key, value in config.items() if _is_part(key, value)}
    rope = _rope(config)
    for key in ("rope_scaling", "rope_parameters", *_ROPE):
        kept.pop(key, None)
    if rope:
        kept["rope"] = rope
    for key, default in _DEFAULTS:
        if kept.get(key) == default:
            del kept[key]
    _drop_what_follows(kept)
    return {key: value for key, value in kept.items() if value is not None and value is not False}


def _is_dropped(key: str) -> bool:
    return key in _NOT_ARCHITECTURE or key.endswith(_NOT_ARCHITECTURE_ENDINGS)


def _is_part(key: str, value: object) -> bool:
    """Whether it is the config of a part of the model: text, vision, audio."""
    return isinstance(value, dict) and key.endswith("_config") and key != "quantization_config"


def _plain(value: Any) -> Any:
    """1.0 as 1: one version writes a number as the user did, another as the class declares it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary embedding: three keys until `transformers` 4, one since."""
    rope = {key: config.get(key) for key in _ROPE}
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key)
        if isinstance(value, dict):
            rope |= value
    kind = rope.pop("type", None)
    rope.setdefault("rope_type", kind)
    rope = {key: _plain(value) for key, value in rope.items() if value is not None}
    if rope.get("rope_type") == "default":
        del rope["rope_type"]
    if rope.get("rope_theta") == _ROPE_THETA:
        del rope["rope_theta"]
    return rope


def _drop_what_follows(kept: dict[str, Any]) -> None:
    heads, hidden = kept.get("num_attention_heads"), kept.get("hidden_size")
    if heads and kept.get("num_key_value_heads") == heads:
        del kept["num_key_value_heads"]
    if type(heads) is int and type(hidden) is int and heads > 0 and kept.get("head_dim") == hidden // heads:
        del kept["head_dim"]
    layers = kept.get("layer_types")
    if isinstance(layers, list) and all(layer == "full_attention" for layer in layers):
        del kept["layer_types"]
    if not kept.get("use_sliding_window", True):
        kept.pop("sliding_window", None)
        kept.pop("max_window_layers", None)
