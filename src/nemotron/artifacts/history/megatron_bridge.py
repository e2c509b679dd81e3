"""Megatron-Bridge checkpoints: the `run_config.yaml` in `iter_*`. Its `_target_` entries are words here."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
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
    telling,
    text_at,
)

_CONFIG, _TRACKER = "run_config.yaml", "latest_checkpointed_iteration.txt"
_ITERATION = re.compile(r"iter_(\d{1,12})")
_ENTRIES = 100_000
_BLEND = 200
_TELLING = (
    *("train.train_iters", "train.global_batch_size", "train.micro_batch_size", "model.seq_length"),
    *("model.num_layers", "model.hidden_size", "model.vocab_size", "model.tensor_model_parallel_size"),
    *("model.pipeline_model_parallel_size", "optimizer.lr", "optimizer.min_lr", "optimizer.weight_decay"),
    *("scheduler.lr_decay_style", "dataset.seq_length", "dataset.sequence_length", "dataset.random_seed"),
    *("dataset.mock", "checkpoint.finetune", "peft._target_", "peft.dim", "peft.alpha", "model._target_"),
)
_DATA_KEYS = (
    *("dataset.dataset_root", "dataset.dataset_name", "dataset.path_or_dataset_name", "dataset.data_path"),
    *("dataset.packed_sequence_specs.packed_train_data_path", "dataset.train_data_path"),
)


def iteration_directory(path: Path) -> Path:
    """The `iter_N` that `path` is or holds: the one its tracker names, else the highest; else `path`."""
    if _ITERATION.fullmatch(path.name):
        return path
    try:
        names = [entry.name for entry in islice(path.iterdir(), _ENTRIES)]
    except OSError:
        return path
    steps = {int(m[1]): path / name for name in names if (m := _ITERATION.fullmatch(name))}
    tracked = Folder(path).text(path / _TRACKER) if _TRACKER in names else None
    number = int(tracked) if tracked and re.fullmatch(r"\s*\d{1,12}\s*", tracked) else None
    if number is not None and number in steps:
        return steps[number]
    return steps[max(steps)] if steps else path


def read_megatron_bridge(folder: Folder) -> Told | None:
    """What the `run_config.yaml` in the folder tells, None when there is none."""
    config = folder.yaml(folder.root / _CONFIG)
    if config is None:
        return None
    told = Told("megatron_bridge")
    named = _ITERATION.fullmatch(folder.root.name)
    # Iteration 0 is what imports and NeMo-RL call every checkpoint.
    told.step_of_training = int(named[1]) if named and int(named[1]) > 0 else None
    told.config = {"digest": config_digest(config), "keys": telling(config, _TELLING)}
    batch = count_at(config, "train.global_batch_size")
    if told.step_of_training and batch:
        told.facts["counters"] = {"consumed_samples": told.step_of_training * batch}
    save, load = text_at(config, "checkpoint.save"), text_at(config, "checkpoint.load")
    told.add(model_parent("base", at(config, "checkpoint.pretrained_checkpoint"), _CONFIG))
    if load != save:
        told.add(model_parent("base", load, _CONFIG))
    if not told.parents:
        told.add(model_parent("base", at(config, "model.hf_model_id"), _CONFIG))
    tokenizer = at(config, "tokenizer.tokenizer_model") or at(config, "tokenizer.hf_tokenizer_path")
    told.add(model_parent("tokenizer", tokenizer, _CONFIG))
    for key in _DATA_KEYS:
        told.add(data_parent("data", at(config, key), _CONFIG))
    validation = at(config, "dataset.packed_sequence_specs.packed_val_data_path")
    told.add(data_parent("validation", validation, _CONFIG))
    for prefix in _blend(at(config, "dataset.blend")):
        told.add(data_parent("data", prefix, _CONFIG))
    return told


def _blend(blend: Any) -> list[str]:
    """The prefixes of a blend: `[[prefix, ...], [weight, ...]]`, or prefixes and weights in turn."""
    if not isinstance(blend, list) or not blend:
        return []
    prefixes = blend[0] if isinstance(blend[0], list) else blend
    texts = [text for each in prefixes[:_BLEND] if (text := clean_text(each)) is not None]
    return [text for text in texts if not re.fullmatch(r"[0-9.eE+-]+", text)]
