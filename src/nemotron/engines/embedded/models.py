"""Loading and preparing models and tokenizers from what a config names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nemotron.engines.embedded.reading import lookup
from nemotron.errors import CheckFailed, NotFound, UsageError

# Concatenates the messages as they are; the markers tell the trainer which part is the answer.
PASSTHROUGH_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
)
DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


def device_of(config: Mapping[str, Any]) -> str:
    """`embedded.device`: `cpu`, `cuda`, or `auto` (the default), which takes a GPU where there is one."""
    wanted = str(lookup(config, "embedded.device", "auto"))
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"{wanted!r} is no device", where="embedded.device", valid=("auto", "cpu", "cuda"))
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UsageError("there is no CUDA device here", where="embedded.device", next="embedded.device=cpu")
    return "cuda" if available and wanted != "cpu" else "cpu"


def dtype_of(config: Mapping[str, Any]) -> torch.dtype:
    """`policy.precision` as a torch type."""
    name = str(lookup(config, "policy.precision", "float32"))
    if name not in DTYPES:
        raise UsageError(f"{name!r} is no precision here", where="policy.precision", valid=tuple(DTYPES))
    return DTYPES[name]


def load_tokenizer(config: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer with the chat template of the config's mode.

    `policy.tokenizer.chat_template`: absent or `default` keeps the tokenizer's own, null concatenates the
    messages, another string is a Jinja template.
    """
    section = lookup(config, "policy.tokenizer", {})
    name = section.get("name") or lookup(config, "policy.model_name")
    tokenizer = from_pretrained(AutoTokenizer, str(name), "policy.tokenizer.name")
    if "chat_template" in section:
        template = section["chat_template"]
        if template is None:
            tokenizer.chat_template = PASSTHROUGH_TEMPLATE
        elif template != "default":
            tokenizer.chat_template = str(template)
    if tokenizer.chat_template is None:
        raise CheckFailed(
            "the tokenizer has no chat template",
            where=str(name),
            next="set policy.tokenizer.chat_template: null (plain concatenation) or a Jinja string",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_causal(config: Mapping[str, Any], name: str, where: str) -> PreTrainedModel:
    """A causal language model in the config's precision, on the config's device."""
    model = from_pretrained(AutoModelForCausalLM, name, where, dtype=dtype_of(config))
    # Training code switches the cache off and would save it so; generation needs it.
    model.config.use_cache = True
    return model.to(device_of(config))


def load_classifier(
    config: Mapping[str, Any], name: str, where: str, pad_token_id: int | None
) -> PreTrainedModel:
    """A sequence classifier with one label (a Bradley-Terry reward model)."""
    model = from_pretrained(
        AutoModelForSequenceClassification, name, where, dtype=dtype_of(config), num_labels=1
    )
    if pad_token_id is not None:
        model.config.pad_token_id = pad_token_id
    return model.to(device_of(config))


def is_classifier(name: str, where: str) -> bool:
    """Whether a checkpoint is a sequence classifier rather than a generative model."""
    architectures = from_pretrained(AutoConfig, name, where).architectures or []
    return any(a.endswith("ForSequenceClassification") for a in architectures)


def from_pretrained(kind: Any, name: str, where: str, **kwargs: Any) -> Any:
    name = name.removeprefix("hf://")
    local = Path(name).is_dir()
    if not local and (name.startswith(("/", ".")) or (os.sep in name and name.count("/") != 1)):
        raise NotFound(f"there is no model directory {name}", where=where)
    try:
        return kind.from_pretrained(name, trust_remote_code=False, **kwargs)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as problem:
        first = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise CheckFailed(f"{name} cannot be loaded: {first}", where=where) from problem
