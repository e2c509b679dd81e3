"""Reading values out of a training config by dotted key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lookup(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """The value at a dotted key, `default` where the key is absent or null."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return default
        node = node[part]
    return default if node is None else node


def algorithm_of(config: Mapping[str, Any]) -> str | None:
    """Which algorithm a config is for, told by its section: sft, rm, dpo or grpo; None without one."""
    return next(
        (name for name in ("sft", "rm", "dpo", "grpo") if isinstance(config.get(name), Mapping)), None
    )


def data_path(config: Mapping[str, Any], split: str) -> str | None:
    """The file a split (`train`, `validation`) is read from; None when the config names none."""
    section = lookup(config, f"data.{split}")
    path = section.get("data_path") if isinstance(section, Mapping) else None
    return str(path) if path else None


def reward_model_kind(config: Mapping[str, Any]) -> str:
    """What `rm` trains: `bradley_terry` (a classifier) or `generative` (a judge that writes verdicts)."""
    return str(lookup(config, "policy.reward_model_cfg.reward_model_type", "bradley_terry"))


# The type of what is left as a Megatron checkpoint, and where NeMo-RL keeps it in `policy`.
MEGATRON, WEIGHTS = "checkpoint_megatron", "weights"
JUDGE_MODEL = "env.nemo_gym.genrm_model.responses_api_models.genrm_model.model"
COMPARE = "env.nemo_gym.genrm_compare_resources_server.resources_servers.genrm_compare"
