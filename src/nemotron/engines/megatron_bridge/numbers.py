"""The least and the greatest that the numbers of a Megatron-Bridge config may be.

Megatron asserts some of them when its processes are up; the others divide by zero, or train nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from nemotron.engines.megatron_bridge.values import Values
from nemotron.findings import Finding

_COUNTS = (
    *("train.train_iters", "train.train_samples", "train.global_batch_size", "train.micro_batch_size"),
    *("train.exit_duration_in_mins", "checkpoint.save_interval"),
    *("dataset.seq_length", "model.seq_length", "rng.seed"),
    *("logger.log_interval", "logger.tensorboard_log_interval"),
    *("scheduler.lr_decay_iters", "scheduler.lr_decay_samples"),
    *("model.tensor_model_parallel_size", "model.pipeline_model_parallel_size"),
    *("model.context_parallel_size", "model.expert_model_parallel_size"),
    *("model.expert_tensor_parallel_size", "dataset.packed_sequence_specs.pad_seq_to_mult"),
)
_NOT_NEGATIVE = (
    *("optimizer.min_lr", "optimizer.weight_decay", "optimizer.clip_grad"),
    *("scheduler.lr_warmup_iters", "scheduler.lr_warmup_samples", "scheduler.lr_warmup_init"),
    *("scheduler.start_weight_decay", "scheduler.end_weight_decay"),
    *("validation.eval_interval", "validation.eval_iters", "dataset.num_workers"),
    "dataset.packed_sequence_specs.packed_sequence_size",
)
_POSITIVE = ("optimizer.lr", "optimizer.adam_eps")
_SHARES = ("optimizer.adam_beta1", "optimizer.adam_beta2", "scheduler.lr_warmup_fraction")
# Key, to the least and in words what is valid.
_LEAST = MappingProxyType(
    {
        **dict.fromkeys(_COUNTS, (1.0, "a whole number of 1 or more")),
        **dict.fromkeys(_NOT_NEGATIVE, (0.0, "a number of 0 or more")),
        **dict.fromkeys(_POSITIVE, (math.ulp(0.0), "a number above 0")),
        **dict.fromkeys(_SHARES, (0.0, "a number from 0 to below 1")),
        "checkpoint.most_recent_k": (-1.0, "-1 for all of them, or a number of 1 or more"),
    }
)
_BELOW: Mapping[str, float] = MappingProxyType(dict.fromkeys(_SHARES, 1.0))
# 0 has a rule of its own, which says more.
_TOLD_ELSEWHERE = frozenset({("checkpoint.save_interval", 0), ("train.global_batch_size", 0)})
_NEVER = frozenset({("checkpoint.most_recent_k", 0)})


def number_findings(values: Values) -> Iterator[Finding]:
    """An error for each number that cannot be; one of a wrong type is the contract's to tell."""
    for key, (least, valid) in _LEAST.items():
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or (key, value) in _TOLD_ELSEWHERE:
            continue
        if not least <= value < _BELOW.get(key, math.inf) or (key, value) in _NEVER:
            yield _out_of_range(key, value, valid)
    rate, lowest, first = (
        values.get(key) for key in ("optimizer.lr", "optimizer.min_lr", "scheduler.lr_warmup_init")
    )
    for key, value in (("optimizer.min_lr", lowest), ("scheduler.lr_warmup_init", first)):
        if isinstance(rate, int | float) and isinstance(value, int | float) and value > rate > 0:
            yield _out_of_range(key, value, f"optimizer.lr {rate:g} at most")


def _out_of_range(key: str, value: float, valid: str) -> Finding:
    what = f"{key} is {value}, and has to be {valid}"
    return Finding("megatron_bridge.out_of_range", "error", what, where=key, valid=valid)
