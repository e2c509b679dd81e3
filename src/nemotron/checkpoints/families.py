"""The model families that can be converted, and what a Hugging Face config says of a model of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemotron.errors import CheckFailed, NemotronError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# What Megatron-Core computes with; a config cannot set these numbers there.
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_REFUSED = {
    "attention_bias": "biases of the attention",
    "mlp_bias": "biases of the feed-forward layers",
    "use_sliding_window": "a sliding window in some of the layers",
    "quantization_config": "quantized weights",
    "auto_map": "code of its own",
}
_LARGEST = 1 << 31
# What transformers assumes when a config says nothing.
_HEAD_DIM = {"qwen3": 128}
_ROPE_THETA = 10000.0
_ROPE_SECTIONS = ("rope_parameters", "rope_scaling")
_ROPE_OUTSIDE = ("rope_theta", "partial_rotary_factor")
_ROPE_FIX = "keep in config.json the one that the model was trained with"


@dataclass(frozen=True)
class Model:
    """What decides the tensors of a model and their arithmetic.

    groups: key and value heads. rope_factor: of llama3 rope scaling, None without any. window: tokens that
    attention looks back, None for all.
    """

    family: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    groups: int
    head_dim: int
    vocab: int
    tied: bool
    rope_theta: float = _ROPE_THETA
    rope_factor: float | None = None
    window: int | None = None
    norm_eps: float = 1e-6
    positions: int = 2048
    init_std: float = 0.02

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.family == "qwen2"

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalized."""
        return self.family == "qwen3"


def model_of(config: Mapping[str, Any], where: str) -> Model:
    """The model that a `config.json` describes.

    where: the file, for messages. Raises CheckFailed for another architecture, for settings that Megatron
    would compute in another way, and for numbers that are missing or make no sense.
    """
    family = config.get("model_type")
    named = config.get("architectures") or [ARCHITECTURES.get(str(family))]
    if family not in FAMILIES or named != [ARCHITECTURES[family]]:
        raise _unknown(family, named, where)
    problems = [words for key, words in _REFUSED.items() if config.get(key)]
    if problems:
        raise CheckFailed(f"a model with {' and '.join(problems)} cannot be converted", where=where)
    if config.get("hidden_act", "silu") != "silu":
        what = f"hidden_act {config['hidden_act']!r} cannot be converted"
        raise CheckFailed(what, where=where, valid=("silu",))
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and any(kind != "full_attention" for kind in kinds):
        raise CheckFailed("a model whose layers differ in attention cannot be converted", where=where)
    numbers = _Numbers(config, where)
    hidden, heads = numbers.count("hidden_size"), numbers.count("num_attention_heads")
    theta, factor = _rope(config, where)
    model = Model(
        family=family,
        layers=numbers.count("num_hidden_layers"),
        hidden=hidden,
        ffn=numbers.count("intermediate_size"),
        heads=heads,
        groups=numbers.count("num_key_value_heads", heads if family == "llama" else None),
        head_dim=numbers.count("head_dim", _HEAD_DIM.get(family, hidden // heads)),
        vocab=numbers.count("vocab_size"),
        tied=config.get("tie_word_embeddings") is True,
        rope_theta=theta,
        rope_factor=factor,
        window=numbers.count("sliding_window") if _has_window(config) else None,
        norm_eps=numbers.real("rms_norm_eps", 1e-6),
        positions=numbers.count("max_position_embeddings", 2048),
        init_std=numbers.real("initializer_range", 0.02),
    )
    if model.heads % model.groups:
        what = f"{model.heads} attention heads do not divide among {model.groups} key-value heads"
        raise CheckFailed(what, where=where)
    return model


def _unknown(family: object, named: object, where: str) -> NemotronError:
    """The error for an architecture of no family here, or of another than the config's."""
    first = named[0] if isinstance(named, list) and named else None
    valid = tuple(ARCHITECTURES.values())
    if first not in valid:
        return CheckFailed(f"{first or family} cannot be converted", where=where, valid=valid)
    if isinstance(named, list) and len(named) > 1:
        return CheckFailed(
            f"{len(named)} architectures are named: {str(named)[:80]}", where=where, valid=valid
        )
    pairs = tuple(f"{name} with {each}" for name, each in ARCHITECTURES.items())
    what = f"model_type {str(family)[:40]!r} and architecture {first} disagree"
    return CheckFailed(what, where=where, valid=pairs)


def _has_window(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "mistral" and config.get("sliding_window") is not None


class _Numbers:
    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._config = config
        self._where = where

    def count(self, key: str, default: int | None = None) -> int:
        value = self._config.get(key)
        value = default if value is None else value
        if type(value) is int and 0 < value < _LARGEST:
            return value
        raise self._error(key, value, "a whole number above 0")

    def real(self, key: str, default: float) -> float:
        value = self._config.get(key, default)
        if type(value) in (int, float) and 0 <= value < _LARGEST:
            return float(value)
        raise self._error(key, value, "a number")

    def _error(self, key: str, value: object, wanted: str) -> NemotronError:
        what = f"{key} is missing" if value is None else f"{key} is {str(value)[:40]!r}, not {wanted}"
        return CheckFailed(what, where=self._where, valid=(wanted,))


def _rope(config: Mapping[str, Any], where: str) -> tuple[float, float | None]:
    """Base and llama3 factor of the rotary embedding; transformers 4 and 5 write them in two places.

    Where both are written transformers reads the one and not the other: only what agrees is taken.
    """
    asked = {key: _rope_of(key, config, where) for key in _ROPE_SECTIONS if config.get(key)}
    if len(set(asked.values())) > 1:
        words = (f"{key} {_rope_words(*rope)}" for key, rope in asked.items())
        what = f"the rotary embedding is described twice, and not alike: {', '.join(words)}"
        raise CheckFailed(what, where=where, next=_ROPE_FIX)
    return next(iter(asked.values())) if asked else _rope_of(None, config, where)


def _rope_of(key: str | None, config: Mapping[str, Any], where: str) -> tuple[float, float | None]:
    """As `_rope`, by one of the two sections, or by what stands outside of them."""
    section = config[key] if key else {}
    if not isinstance(section, Mapping) or any(isinstance(value, Mapping) for value in section.values()):
        what = f"{key} is no table of numbers for all layers"
        raise CheckFailed(what, where=where, valid=("rope_type, rope_theta, factor, ...",))
    _refuse_two(f"{key}.rope_theta", section, "rope_theta", config, "rope_theta", where)
    _refuse_two(f"{key}.rope_type", section, "rope_type", section, "type", where)
    outside = {name: config[name] for name in _ROPE_OUTSIDE if config.get(name) is not None}
    found = outside | {name: value for name, value in section.items() if value is not None}
    numbers = _Numbers(found, where)
    if numbers.real("partial_rotary_factor", 1.0) != 1.0:
        raise CheckFailed("a rotary embedding of a part of each head cannot be converted", where=where)
    theta = numbers.real("rope_theta", _ROPE_THETA)
    kind = found.get("rope_type", found.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        what = f"rope scaling of type {str(kind)[:40]!r} cannot be converted"
        raise CheckFailed(what, where=where, valid=("default", "llama3"))
    other = [key for key, value in LLAMA3_ROPE.items() if found.get(key, value) != value]
    if other:
        what = f"Megatron-Core computes llama3 rope scaling with another {', '.join(other)}"
        valid = tuple(f"{key} = {value:g}" for key, value in LLAMA3_ROPE.items())
        raise CheckFailed(what, where=where, valid=valid)
    return theta, numbers.real("factor", 8.0)


def _refuse_two(
    name: str, section: Mapping[str, Any], key: str, other: Mapping[str, Any], old: str, where: str
) -> None:
    """Raise for a value that is written in two places and differs."""
    one, two = section.get(key), other.get(old)
    if one is not None and two is not None and one != two:
        what = f"{name} is {str(one)[:40]} and {old} {str(two)[:40]}"
        raise CheckFailed(what, where=where, next=_ROPE_FIX)


def _rope_words(theta: float, factor: float | None) -> str:
    return f"theta {theta:g} " + ("without scaling" if factor is None else f"scaled by {factor:g}")
