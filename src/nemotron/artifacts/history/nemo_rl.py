"""NeMo-RL checkpoints: `step_N/config.yaml` and `step_N/training_info.json`, read from any place in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
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
    number,
    telling,
    text_at,
)
from nemotron.artifacts.records import timestamp

_STEP = re.compile(r"(tmp_)?step_(\d{1,12})")
_INFO, _CONFIG, _STATUS = "training_info.json", "config.yaml", "latest_checkpoint_status.json"
# A step of a sweep of checkpoints has siblings in the thousands at most.
_SIBLINGS = 100_000
_METRICS = 100
# What a checkpoint holds before its first validation.
_NO_REWARD = -99999999.0

# Section to algorithm; the first that is there counts.
_ALGORITHMS = ("distillation", "grpo", "ppo", "dpo", "rm", "sft")
_COUNTERS = (
    *("consumed_samples", "total_valid_tokens", "total_steps", "current_step", "current_epoch"),
    *("epoch", "step"),
)
_TELLING = (
    *("seed", "max_num_steps", "max_num_epochs", "num_prompts_per_step", "num_generations_per_prompt"),
    *("reference_policy_kl_penalty", "sft_loss_weight", "preference_loss"),
)
_TELLING_POLICY = (
    *("policy.train_global_batch_size", "policy.max_total_sequence_length", "policy.precision"),
    *("policy.optimizer.kwargs.lr", "policy.megatron_cfg.enabled", "policy.megatron_cfg.optimizer.lr"),
    *("policy.dtensor_cfg.enabled", "policy.dtensor_cfg.lora_cfg.enabled", "policy.generation.backend"),
    *("policy.reward_model_cfg.reward_model_type", "loss_fn.reference_policy_kl_penalty"),
    *("data.max_input_seq_length", "env.should_use_nemo_gym", "cluster.num_nodes", "cluster.gpus_per_node"),
)


def step_directory(path: Path) -> Path | None:
    """The `step_N` that `path` is, holds (the highest of several) or lies in, None when there is none."""
    for directory in (path, *list(path.parents)[:4]):
        inside = path.relative_to(directory).parts
        if inside and inside[0] not in ("policy", "value", "critic"):
            continue
        named = _STEP.fullmatch(directory.name)
        files = [name for name in (_INFO, _CONFIG) if _is_file(directory / name)]
        if len(files) == 2 or (named and files):
            return directory
    return latest_step(path)


def latest_step(root: Path) -> Path | None:
    """The highest finished `step_N` below a checkpoint directory."""
    try:
        names = [entry.name for entry in islice(root.iterdir(), _SIBLINGS)]
    except OSError:
        return None
    steps = [(int(m[2]), name) for name in names if (m := _STEP.fullmatch(name)) and not m[1]]
    for _, name in sorted(steps, reverse=True):
        if _is_file(root / name / _INFO) or _is_file(root / name / _CONFIG):
            return root / name
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_nemo_rl(folder: Folder) -> Told | None:
    """What the files of a step directory tell; None when they are not NeMo-RL's."""
    info = folder.json(folder.root / _INFO, 1 << 20)
    config = folder.yaml(folder.root / _CONFIG)
    named = _STEP.fullmatch(folder.root.name)
    if info is None and (config is None or not _looks_like_ours(config)):
        return None
    told = Told("nemo_rl")
    if named and named[1]:
        folder.report("unfinished", "this checkpoint was still being written when it was left")
    _read_info(told, info or {}, int(named[2]) if named else None, folder)
    if config is not None:
        _read_config(told, config)
    _read_time(told, folder)
    return told


def _looks_like_ours(config: Mapping[str, Any]) -> bool:
    return isinstance(at(config, "policy.model_name"), str) and "checkpointing" in config


def _read_info(told: Told, info: Mapping[str, Any], named: int | None, folder: Folder) -> None:
    counted = next((n for key in ("total_steps", "current_step", "step") if (n := count_at(info, key))), None)
    told.step_of_training = counted if named is None else named
    if named is not None and counted is not None and named != counted:
        folder.report("step", f"the directory says step {named}, {_INFO} says {counted}", folder.root / _INFO)
    counters: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    for key, value in islice(info.items(), _METRICS):
        amount = number(value)
        if amount is None or clean_text(key) is None or amount == _NO_REWARD:
            continue
        (counters if key in _COUNTERS else metrics)[key] = amount
    told.facts |= {name: found for name, found in (("counters", counters), ("metrics", metrics)) if found}


def _read_config(told: Told, config: Mapping[str, Any]) -> None:
    algorithm = next((name for name in _ALGORITHMS if isinstance(config.get(name), Mapping)), None)
    if algorithm is not None:
        told.facts["algorithm"] = algorithm
    keys = [f"{algorithm}.{key}" for key in _TELLING] if algorithm else []
    told.config = {"digest": config_digest(config), "keys": telling(config, (*keys, *_TELLING_POLICY))}
    metric = text_at(config, "checkpointing.metric_name")
    if metric is not None:
        told.facts["ranked_by"] = metric
    _read_models(told, config, algorithm)
    for section, role in (("train", "data"), ("validation", "validation")):
        for parent in _data_of(config, section, role):
            told.add(parent)


def _read_models(told: Told, config: Mapping[str, Any], algorithm: str | None) -> None:
    role = "base" if algorithm in ("sft", "rm", None) else "policy"
    start = at(config, "policy.pretrained_checkpoint.path")
    policy = model_parent(role, start or at(config, "policy.model_name"), _CONFIG)
    told.add(policy)
    if policy is not None and _has_reference(config, algorithm):
        told.add(model_parent("reference", policy.reference, _CONFIG))
    tokenizer = at(config, "policy.tokenizer.name")
    if tokenizer != at(config, "policy.model_name"):
        told.add(model_parent("tokenizer", tokenizer, _CONFIG))
    told.add(model_parent("teacher", at(config, "teacher.model_name"), _CONFIG))
    for name in _judges(config.get("env")):
        told.add(model_parent("reward_model", name, _CONFIG))


def _has_reference(config: Mapping[str, Any], algorithm: str | None) -> bool:
    """Whether the policy was held to the model it began as."""
    penalty = number(at(config, f"{algorithm}.reference_policy_kl_penalty"))
    penalty = number(at(config, "loss_fn.reference_policy_kl_penalty")) if penalty is None else penalty
    if algorithm == "dpo":
        return penalty is None or penalty > 0
    return algorithm in ("grpo", "ppo") and penalty is not None and penalty > 0


def _judges(env: object) -> Iterator[object]:
    """The models that gave rewards: of reward environments, and of the judges that NeMo-Gym serves."""
    for name, each in (env if isinstance(env, Mapping) else {}).items():
        if not isinstance(each, Mapping) or each.get("enabled") is False:
            continue
        if name == "nemo_gym":
            for server in each.values():
                models = at(server, "responses_api_models")
                for kind, model in (models if isinstance(models, Mapping) else {}).items():
                    if "genrm" in kind or "judge" in kind:
                        yield at(model, "model")
        else:
            yield at(each, "model_name")
            yield at(each, "judge_model_name")


def _data_of(config: Mapping[str, Any], section: str, role: str) -> Iterator[Any]:
    """The parents that `data.train` or `data.validation` names: a table or a list of tables."""
    data = config.get("data")
    if not isinstance(data, Mapping):
        return
    given = data.get(section)
    default = data.get("default")
    for table in given if isinstance(given, list) else [given]:
        if isinstance(table, Mapping):
            # An absent key is filled from the default, a null is not.
            full = {**default, **table} if isinstance(default, Mapping) else table
            yield from _set_of(full, role)
    flat = {"train": "train_data_path", "validation": "val_data_path"}[section]
    if given is None:
        yield data_parent(role, data.get(flat), _CONFIG)
        if section == "train" and flat not in data:
            yield data_parent(role, data.get("dataset_name"), _CONFIG)


def _set_of(table: Mapping[str, Any], role: str) -> Iterator[Any]:
    files = table.get("data_files")
    paths = [table.get("data_path"), *(files if isinstance(files, list) else [files])]
    named = [p for p in paths if clean_text(p)]
    for path in named:
        yield data_parent(role, path, _CONFIG)
    if not named and ("data_path" not in table or table["data_path"] is not None):
        # A set of the framework's own registry, or a hub id.
        yield data_parent(role, table.get("dataset_name"), _CONFIG)


def _read_time(told: Told, folder: Folder) -> None:
    """When it was saved, which is told of the latest checkpoint only."""
    file = folder.root.parent / _STATUS
    status = Folder(folder.root.parent).json(file, 1 << 20) or {}
    seconds = number(status.get("last_successful_ckpt_save_completion"))
    same = count_at(status, "last_checkpoint_step") == told.step_of_training
    # Of this century, and before the year 2100.
    if same and seconds is not None and 946_684_800 < seconds < 4_102_444_800:
        told.at = timestamp(datetime.fromtimestamp(seconds, UTC))
        folder.source.append(str(file))
