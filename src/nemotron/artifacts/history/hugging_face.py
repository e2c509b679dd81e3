"""Models in the Hugging Face format: the model card's front matter, adapter_config.json, trainer_state.json.

`training_args.bin` is a pickle and is never opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from nemotron.artifacts.history.files import Folder
from nemotron.artifacts.history.told import Told
from nemotron.artifacts.history.values import (
    at,
    clean_text,
    config_digest,
    count_at,
    data_parent,
    model_parent,
    number,
    telling,
    text_at,
)

_CARD, _ADAPTER, _STATE = "README.md", "adapter_config.json", "trainer_state.json"
_FRONT = re.compile(r"\A\s*---[ \t]*\r?\n(.*?\r?\n)---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_AXOLOTL = "See axolotl config</summary>"
_AXOLOTL_LONGEST = 200_000
_VERSION = re.compile(r"axolotl version: `([^`\n]{1,60})`")
_HYPERPARAMETER = re.compile(r"^- (\w{1,60}): (\S[^\n]{0,80})$", re.MULTILINE)
_MAX_MANY = 50
_RECIPE_TAGS = ("sft", "dpo", "orpo", "kto", "grpo", "ppo", "rloo", "reward-trainer", "gkd", "online-dpo")
_TELLING_AXOLOTL = (
    *("adapter", "sequence_len", "learning_rate", "num_epochs", "max_steps", "micro_batch_size"),
    *("gradient_accumulation_steps", "optimizer", "lr_scheduler", "lora_r", "lora_alpha", "rl", "seed"),
)
_TELLING_ADAPTER = ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora")
_HYPERPARAMETERS = (
    *("learning_rate", "train_batch_size", "eval_batch_size", "seed", "gradient_accumulation_steps"),
    *("total_train_batch_size", "lr_scheduler_type", "num_epochs", "training_steps", "num_devices"),
)


def read_card(folder: Folder) -> Told | None:
    """What a model or data card tells; None when there is none with a front matter."""
    text = folder.text(folder.root / _CARD)
    front = _FRONT.match(text) if text is not None else None
    if text is None or front is None:
        return None
    card = folder.yaml_in(front[1], folder.root / _CARD)
    if card is None:
        return None
    tags = [tag for each in _many(card.get("tags")) if (tag := clean_text(each))]
    told = Told(_tool(card, tags))
    relation = text_at(card, "base_model_relation")
    for name in _many(card.get("base_model")):
        told.add(model_parent("base", name, _CARD, revision=card.get("base_model_revision")))
    for name in (*_many(card.get("datasets")), *_many(card.get("source_datasets"))):
        told.add(data_parent("data", name, _CARD))
    told.facts |= telling(card, ("license", "license_name", "library_name", "pipeline_tag", "model_name"))
    recipes = [tag for tag in tags if tag in _RECIPE_TAGS]
    if relation is not None:
        told.facts["base_model_relation"] = relation
    if recipes:
        told.facts["algorithm"] = recipes[0].removesuffix("-trainer")
    results = list(islice(_results(card.get("model-index")), _MAX_MANY))
    if results:
        told.facts["results"] = results
    hyper = {k: v.strip() for k, v in _HYPERPARAMETER.findall(text) if k in _HYPERPARAMETERS}
    if hyper:
        told.config = {"keys": {k: v for k, v in hyper.items() if clean_text(v)}}
    _read_axolotl(told, text, folder)
    return told


def _tool(card: Mapping[str, Any], tags: list[str]) -> str:
    library = text_at(card, "library_name")
    if "trl" in tags or library == "trl":
        return "trl"
    return "transformers" if "generated_from_trainer" in tags else "model_card"


def _many(value: object) -> list[Any]:
    """A list of values, or the one value that stands where a list may."""
    return value[:_MAX_MANY] if isinstance(value, list) else [value]


def _results(index: object) -> Iterator[dict[str, Any]]:
    for model in _many(index):
        for result in _many(at(model, "results")):
            dataset = text_at(result, "dataset.name") or text_at(result, "dataset.type")
            for metric in _many(at(result, "metrics")):
                value = number(at(metric, "value"))
                name = text_at(metric, "type") or text_at(metric, "name")
                if value is not None and name is not None:
                    task = text_at(result, "task.type")
                    found = {"task": task, "dataset": dataset, "metric": name, "value": value}
                    yield {k: v for k, v in found.items() if v is not None}


def _read_axolotl(told: Told, text: str, folder: Folder) -> None:
    """The training config that axolotl writes into the cards of its models."""
    begin = text.find(_AXOLOTL)
    if begin < 0:
        return
    head, fence, rest = text[begin : begin + _AXOLOTL_LONGEST].partition("```yaml\n")
    block, end, _ = rest.partition("\n```")
    config = folder.yaml_in(block, folder.root / _CARD) if fence and end else None
    if config is None:
        return
    told.tool = "axolotl"
    told.config = {"digest": config_digest(config), "keys": telling(config, _TELLING_AXOLOTL)}
    version = _VERSION.search(head)
    if version:
        told.facts["tool_version"] = version[1]
    revision = config.get("revision_of_model")
    told.add(model_parent("base", config.get("base_model"), _CARD, revision=revision))
    for key, role in (("datasets", "data"), ("test_datasets", "validation"), ("val_datasets", "validation")):
        for each in _many(config.get(key)):
            told.add(data_parent(role, at(each, "path"), _CARD))


def read_adapter(folder: Folder) -> Told | None:
    """What an adapter tells of its base model, None when it is no adapter."""
    config = folder.json(folder.root / _ADAPTER, 4 << 20)
    if config is None:
        return None
    told = Told("peft")
    base = model_parent(
        "base", config.get("base_model_name_or_path"), _ADAPTER, revision=config.get("revision")
    )
    told.add(base)
    told.config = {"keys": telling(config, _TELLING_ADAPTER)}
    return told


def read_trainer_state(folder: Folder) -> Told | None:
    """How far the Trainer of transformers had come, None when it has left nothing."""
    state = folder.json(folder.root / _STATE)
    if state is None:
        return None
    told = Told("transformers", count_at(state, "global_step"))
    counters = {
        key: value
        for key in ("epoch", "max_steps", "num_train_epochs", "train_batch_size", "num_input_tokens_seen")
        if (value := number(state.get(key))) is not None
    }
    metrics: dict[str, Any] = {}
    history = state.get("log_history")
    for row in history if isinstance(history, list) else []:
        for key, value in islice(row.items(), _MAX_MANY) if isinstance(row, Mapping) else ():
            known = key in metrics or len(metrics) < _MAX_MANY
            if known and key not in ("step", "epoch") and number(value) is not None and clean_text(key):
                metrics[key] = value
    best = number(state.get("best_metric"))
    if best is not None:
        metrics["best_metric"] = best
    told.facts |= {name: found for name, found in (("counters", counters), ("metrics", metrics)) if found}
    return told


def read_named_base(folder: Folder) -> Told | None:
    """The model that a trained model's own config.json says it was loaded from."""
    config = folder.json(folder.root / "config.json", 4 << 20)
    name = text_at(config, "_name_or_path")
    if name is None:
        return None
    told = Told("transformers")
    told.add(model_parent("base", name, "config.json"))
    return told
