"""Hugging Face directories: checkpoints, reward models, adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .architecture import architecture_digest
from .directory import directory_names
from .files import read_json_object
from .report import Problem, Report, clipped, shown
from .tokenizer import check_tokenizer
from .weights import ADAPTER, MODEL, check_weights, expect

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
_CONFIG_LIMIT = 16 << 20
_CLASSIFIER = "ForSequenceClassification"
_GENERATIVE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_LISTED = 100
# What `transformers` assumes when a config says nothing.
_DEFAULT_LABELS = 2


def check_model(path: Path, report: Report) -> dict[str, Any]:
    """A model directory: config.json, weights as safetensors, a tokenizer.

    Facts: model_type, architectures, architecture_digest, vocab_size, token_ids, base_model if the config
    names it, num_labels for a classifier, and those of `check_weights` and `check_tokenizer`.
    """
    names = directory_names(path, report)
    if names is None:
        return {}
    facts: dict[str, Any] = {}
    if CONFIG in names:
        facts |= _config(path, report)
    else:
        fix = "it is an adapter: check it as checkpoint_lora" if ADAPTER_CONFIG in names else None
        report.add(Problem("checkpoint.no_config", "no config.json", fix=fix))
    facts |= check_weights(path, names, MODEL, report)
    facts |= check_tokenizer(path, names, report)
    size, vocabulary = facts.get("tokenizer_size"), facts.get("vocab_size")
    if size and vocabulary and size > vocabulary:
        what = f"the tokenizer knows ids up to {size - 1}, the model has {vocabulary} embeddings"
        report.add(Problem("checkpoint.vocabulary", what, "warning"))
    return facts


def _config(path: Path, report: Report) -> dict[str, Any]:
    config = read_json_object(path / CONFIG, limit=_CONFIG_LIMIT)
    if isinstance(config, Problem):
        report.add(config, file=CONFIG)
        return {}
    model_type = expect(config.get("model_type"), str, "model_type", report, CONFIG)
    listed = expect(config.get("architectures"), list, "architectures", report, CONFIG) or []
    architectures = [clipped(name) for name in listed if isinstance(name, str)]
    if len(architectures) != len(listed):
        what = "architectures holds something that is no string"
        report.add(Problem("data.wrong_type", what), file=CONFIG)
    if model_type is None:
        report.add(Problem("checkpoint.no_model_type", "model_type is missing"), file=CONFIG)
    if not architectures:
        what = "architectures is missing: inference servers cannot tell the model's class"
        report.add(Problem("checkpoint.no_architectures", what, "warning"), file=CONFIG)
    text = config.get("text_config")
    vocabulary = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    facts: dict[str, Any] = {
        "model_type": clipped(model_type or "") or None,
        "architectures": architectures[:_LISTED],
        "architecture_digest": architecture_digest(config),
        "vocab_size": expect(vocabulary, int, "vocab_size", report, CONFIG),
        "token_ids": {key: config[key] for key in _TOKEN_IDS if _is_token_id(config.get(key))},
    }
    base = config.get("_name_or_path")
    if isinstance(base, str) and base:
        facts["base_model"] = clipped(base)
    if _is_classifier(architectures):
        facts["num_labels"] = _labels(config)
    return facts


def check_reward_model(path: Path, report: Report) -> dict[str, Any]:
    """A model that judges: a sequence classifier with one label, or a causal model with a chat template.

    Facts: those of `check_model`, and kind: `classifier` or `generative`.
    """
    facts = check_model(path, report)
    architectures = facts.get("architectures")
    if not architectures:
        if architectures is not None:
            report.add(_no_judge("architectures is missing, so it cannot be known as a judge"))
        return facts
    if _is_classifier(architectures):
        facts["kind"] = "classifier"
        if facts["num_labels"] != 1:
            report.add(
                _no_judge(f"the classifier has {shown(facts['num_labels'])} labels, a reward model has 1")
            )
    elif architectures[0].endswith(_GENERATIVE):
        facts["kind"] = "generative"
        if not facts.get("chat_template"):
            what = "a generative judge without a chat template cannot be asked"
            fix = "save the tokenizer with its chat template into the directory"
            report.add(Problem("checkpoint.no_chat_template", what, fix=fix))
    else:
        report.add(_no_judge(f"{shown(architectures[0])} is neither a classifier nor a causal model"))
    return facts


def _is_token_id(value: object) -> bool:
    """One id, or the list of them that a model with several ends has."""
    ids = value if isinstance(value, list) else [value]
    return 0 < len(ids) <= _LISTED and all(type(each) is int and abs(each) < 1 << 63 for each in ids)


def _no_judge(what: str) -> Problem:
    valid = f"*{_CLASSIFIER} with num_labels 1, or *ForCausalLM with a chat template"
    return Problem("checkpoint.not_a_reward_model", what, valid=valid)


def _is_classifier(architectures: list[str]) -> bool:
    return bool(architectures) and architectures[0].endswith(_CLASSIFIER)


def _labels(config: Mapping[str, Any]) -> int:
    """The number of labels; `transformers` writes the names of the labels, not their number."""
    names, number = config.get("id2label"), config.get("num_labels")
    if type(number) is int:
        return number
    return len(names) if isinstance(names, dict) else _DEFAULT_LABELS


def looks_like_reward_model(path: Path) -> bool:
    """Whether the config in a model directory is that of a classifier with one label."""
    config = read_json_object(path / CONFIG, limit=_CONFIG_LIMIT)
    if isinstance(config, Problem):
        return False
    listed = config.get("architectures")
    architectures = [n for n in listed if isinstance(n, str)] if isinstance(listed, list) else []
    return _is_classifier(architectures) and _labels(config) == 1


def check_adapter(path: Path, report: Report) -> dict[str, Any]:
    """A LoRA adapter: adapter_config.json and safetensors weights.

    Facts: base (the model it was trained on), base_revision, rank, alpha, target_modules, and those of
    `check_weights`.
    """
    names = directory_names(path, report)
    if names is None:
        return {}
    facts: dict[str, Any] = {}
    if ADAPTER_CONFIG in names:
        facts |= _adapter_config(path, report)
    else:
        report.add(Problem("checkpoint.no_config", f"no {ADAPTER_CONFIG}"))
    return facts | check_weights(path, names, ADAPTER, report)


def _adapter_config(path: Path, report: Report) -> dict[str, Any]:
    config = read_json_object(path / ADAPTER_CONFIG, limit=_CONFIG_LIMIT)
    if isinstance(config, Problem):
        report.add(config, file=ADAPTER_CONFIG)
        return {}
    base = expect(
        config.get("base_model_name_or_path"), str, "base_model_name_or_path", report, ADAPTER_CONFIG
    )
    if not base:
        what = "base_model_name_or_path is missing: it is not known what the adapter adapts"
        report.add(Problem("checkpoint.no_base", what, "warning"), file=ADAPTER_CONFIG)
    rank = expect(config.get("r"), int, "r", report, ADAPTER_CONFIG)
    if rank is None or rank < 1:
        report.add(Problem("checkpoint.rank", "r is missing or below 1"), file=ADAPTER_CONFIG)
    revision = expect(config.get("revision"), str, "revision", report, ADAPTER_CONFIG)
    method = expect(config.get("peft_type"), str, "peft_type", report, ADAPTER_CONFIG)
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < 1e300:
        alpha = None
    return {
        "base": clipped(base) if base else None,
        "base_revision": clipped(revision) if revision else None,
        "peft_type": clipped(method) if method else None,
        "rank": rank,
        "alpha": alpha,
        "target_modules": _modules(config.get("target_modules")),
    }


def _modules(value: object) -> str | list[str] | None:
    """Names of the adapted modules, or the pattern that finds them."""
    if isinstance(value, str):
        return clipped(value)
    if not isinstance(value, list):
        return None
    # Saved from a set: in another order every time.
    return sorted(clipped(module) for module in value if isinstance(module, str))[:_LISTED]
