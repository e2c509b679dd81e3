"""A Megatron-Bridge config in the words of this engine, and what it refuses of one.

The engine trains by NeMo-RL's keys. Here each key of Megatron-Bridge that has a meaning in one process
becomes the key of NeMo-RL with that meaning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemotron.engines.base import StepFacts
from nemotron.engines.embedded.batches import BatchPlan
from nemotron.engines.embedded.reading import lookup
from nemotron.errors import CheckFailed
from nemotron.findings import Finding

ITERS, SAMPLES = "train.train_iters", "train.train_samples"
BATCH, MICRO = "train.global_batch_size", "train.micro_batch_size"
LENGTH = "dataset.seq_length"
FILES = "dataset.dataset_root"
PACKS = "dataset.packed_sequence_specs"
TRAIN_PACKS, VALIDATION_PACKS = f"{PACKS}.packed_train_data_path", f"{PACKS}.packed_val_data_path"
PRETRAINED = "checkpoint.pretrained_checkpoint"
# Where the translated config says what is read as packed rows.
PACKING = "data.packing"
DECAY_STYLES = ("constant", "linear", "cosine")
_NEEDED = (BATCH, MICRO, LENGTH, "optimizer.lr", "checkpoint.save", "checkpoint.save_interval")
_COUNT = "a whole number of 1 or more"
_OPTIMIZER = ("lr", "min_lr", "weight_decay", "adam_beta1", "adam_beta2", "adam_eps")


def is_bridge(config: Mapping[str, Any]) -> bool:
    """Whether a config is one of Megatron-Bridge."""
    return isinstance(config.get("recipe"), Mapping) and isinstance(config.get("train"), Mapping)


def iterations(config: Mapping[str, Any]) -> int | None:
    """Optimizer steps of the whole training; None where the config does not say."""
    samples, batch = lookup(config, SAMPLES), lookup(config, BATCH)
    if _is_count(samples) and _is_count(batch):
        return int(samples) // int(batch)
    found = lookup(config, ITERS)
    return int(found) if _is_count(found) else None


def bridge_batches(config: Mapping[str, Any]) -> BatchPlan:
    """How a step is cut. Raises CheckFailed where the micro batch does not divide the batch."""
    size, micro = lookup(config, BATCH), lookup(config, MICRO)
    length = ITERS if lookup(config, SAMPLES) is None else SAMPLES
    for key in (BATCH, MICRO, length):
        if not _is_count(lookup(config, key)):
            given = lookup(config, key)
            said = "not set" if given is None else repr(given)
            raise CheckFailed(f"{key} is {said}, and has to be {_COUNT}", where=key, valid=(_COUNT,))
    if size % micro:
        raise CheckFailed(f"{size} is no multiple of {MICRO} {micro}", where=BATCH)
    steps = iterations(config)
    if not steps:
        what = f"{SAMPLES} {lookup(config, SAMPLES)} are fewer than one batch of {size}"
        raise CheckFailed(what, where=SAMPLES, valid=(f"{size} or more",))
    return BatchPlan(micro, size // micro, 1, steps)


def bridge_findings(config: Mapping[str, Any], step: StepFacts) -> tuple[Finding, ...]:
    """What this engine cannot do of a Megatron-Bridge config, and what it needs of one."""
    found = [
        _error("config.missing_key", key, f"{key} is not set, and there is no recipe here to fill it in")
        for key in _NEEDED
        if lookup(config, key) is None
    ]
    if lookup(config, "peft") is not None:
        found.append(
            _error("embedded.refused", "peft", "the embedded engine trains all weights", "peft=null")
        )
    style = lookup(config, "scheduler.lr_decay_style", "linear")
    if style not in DECAY_STYLES:
        key, what = "scheduler.lr_decay_style", f"{style!r} is no decay style of the embedded engine"
        found.append(_error("embedded.refused", key, what, valid=", ".join(DECAY_STYLES)))
    if lookup(config, TRAIN_PACKS) is None and lookup(config, FILES) is None:
        what = "no data to train on are named"
        found.append(_error("embedded.no_data", TRAIN_PACKS, what, "-i packed=PATH, or -i data=PATH"))
    if lookup(config, TRAIN_PACKS) is not None and lookup(config, FILES) is not None:
        what = f"{FILES} and {TRAIN_PACKS} both name data, and only the packed rows would be trained on"
        found.append(_error("embedded.two_data", FILES, what, f"{TRAIN_PACKS}=null, or {FILES}=null"))
    packed, size = step.facts.get("packed", {}).get("pack_size"), lookup(config, LENGTH)
    if isinstance(packed, int) and _is_count(size) and packed > size:
        what = f"the data are packed to {packed} tokens a row, and {LENGTH} is {size}"
        found.append(_error("embedded.packed_length", LENGTH, what, f"{LENGTH}={packed}"))
    found += _numbers(config)
    if not found:
        try:
            bridge_batches(config)
        except CheckFailed as problem:
            valid = ", ".join(problem.valid) or None
            found.append(_error("embedded.batches", str(problem.where), problem.what, valid=valid))
    return tuple(found)


def _numbers(config: Mapping[str, Any]) -> list[Finding]:
    """Numbers that nothing can be trained with."""
    rate = lookup(config, "optimizer.lr")
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    wrong = (
        [] if rate is None or (is_number and 0 < rate < math.inf) else [("optimizer.lr", "a number above 0")]
    )
    for key in (LENGTH, "checkpoint.save_interval"):
        value = lookup(config, key)
        wrong += [] if value is None or _is_count(value) else [(key, _COUNT)]
    return [
        _error(
            "embedded.number", key, f"{key} is {lookup(config, key)!r}, and has to be {valid}", valid=valid
        )
        for key, valid in wrong
    ]


def translated(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as `Run` and the trainers read it. Raises CheckFailed for batches that do not divide."""
    batches = bridge_batches(config)
    model, size = lookup(config, PRETRAINED), int(lookup(config, BATCH))
    tokenizer = lookup(config, "tokenizer.tokenizer_model") or model
    interval = lookup(config, "validation.eval_interval", 0)
    kept = lookup(config, "checkpoint.most_recent_k", -1)
    return {
        "sft": {
            "max_num_steps": batches.steps,
            "seed": lookup(config, "rng.seed", 1234),
            "val_period": interval if _validation(config) else 0,
            "val_batches": lookup(config, "validation.eval_iters", -1),
            "val_global_batch_size": size,
            "val_micro_batch_size": batches.per_device,
        },
        "policy": {
            "model_name": model,
            "tokenizer": {"name": tokenizer},
            "train_global_batch_size": size,
            "train_micro_batch_size": batches.per_device,
            "max_total_sequence_length": lookup(config, LENGTH),
            "precision": "float32",
            "max_grad_norm": lookup(config, "optimizer.clip_grad", 1.0),
            "megatron_cfg": {
                "enabled": True,
                "optimizer": {
                    k: v for k in _OPTIMIZER if (v := lookup(config, f"optimizer.{k}")) is not None
                },
                "scheduler": _schedule(config, batches.steps),
            },
        },
        # The order is drawn when rows are repeated, as Megatron-Bridge draws it.
        "data": {
            "shuffle": False,
            "packing": {
                "size": lookup(config, f"{PACKS}.packed_sequence_size", 0),
                "seed": lookup(config, "dataset.seed", 1234),
                "train": lookup(config, TRAIN_PACKS),
                "validation": lookup(config, VALIDATION_PACKS),
            },
            **{split: {"data_path": path} for split, path in _files(config).items()},
        },
        "checkpointing": {
            "enabled": True,
            "checkpoint_dir": lookup(config, "checkpoint.save"),
            "save_period": lookup(config, "checkpoint.save_interval"),
            "keep_top_k": kept if _is_count(kept) else None,
            "metric_name": None,
        },
        "embedded": dict(lookup(config, "embedded", {})),
    }


def _schedule(config: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Megatron's schedule in iterations."""
    section: Mapping[str, Any] = lookup(config, "scheduler", {})
    size = int(lookup(config, BATCH))

    def count(name: str) -> int | None:
        samples = section.get(f"{name}_samples")
        found = samples // size if samples else section.get(f"{name}_iters")
        return int(found) if found else None

    decay = count("lr_decay") or steps
    share = section.get("lr_warmup_fraction")
    return {
        "lr_decay_style": section.get("lr_decay_style") or "linear",
        "lr_decay_iters": decay,
        "lr_warmup_iters": int(share * decay) if share is not None else count("lr_warmup") or 0,
        "lr_warmup_init": section.get("lr_warmup_init") or 0.0,
    }


def _files(config: Mapping[str, Any]) -> dict[str, str]:
    """The files of conversations by split: the one that is named, or those that Megatron-Bridge looks for."""
    root = lookup(config, FILES)
    if root is None or lookup(config, TRAIN_PACKS) is not None:
        return {}
    place = Path(str(root))
    if not place.is_dir():
        return {"train": str(place)}
    found = {"train": str(place / "training.jsonl")}
    held_out = place / "validation.jsonl"
    return found | ({"validation": str(held_out)} if held_out.is_file() else {})


def _validation(config: Mapping[str, Any]) -> bool:
    wanted = lookup(config, "dataset.do_validation", True)
    return bool(wanted) and (lookup(config, VALIDATION_PACKS) is not None or "validation" in _files(config))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _error(rule: str, key: str, what: str, fix: str | None = None, valid: str | None = None) -> Finding:
    return Finding(rule, "error", what, where=key, valid=valid, fix=fix)
