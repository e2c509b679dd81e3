"""The shipped NeMo-RL configs with their inputs bound, and small edits to them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import nemotron
from nemotron.config.compose import compose
from nemotron.engines.nemo_rl.entry import trainer_config

STEPS = Path(nemotron.__file__).parent / "steps"
DEFAULTS = {
    "sft": "sft/nemo_rl",
    "rm": "rm/nemo_rl",
    "dpo": "rl/nemo_rl/dpo",
    "grpo_nemo_gym": "rl/nemo_rl/rlhf",
}
INPUTS = (
    "data.train.data_path=/d/train.jsonl",
    "data.validation.data_path=/d/val.jsonl",
    "policy.model_name=/m",
)
GONE = object()

COMPARE = "env.nemo_gym.genrm_compare_resources_server.resources_servers.genrm_compare"
JUDGE = "env.nemo_gym.genrm_model.responses_api_models"


@cache
def _composed(entry_point: str) -> dict[str, Any]:
    path = STEPS / DEFAULTS[entry_point] / "config" / "default.yaml"
    return trainer_config(compose(path, INPUTS).resolve({}).data)


def config(entry_point: str, edits: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The shipped config of an entry point with dotted keys set, or taken out where the value is GONE."""
    data = copy.deepcopy(plain_grpo() if entry_point == "grpo" else _composed(entry_point))
    return edited(data, edits or {})


def plain_grpo() -> dict[str, Any]:
    """The shipped RLHF config turned into plain GRPO on math, which no shipped step is."""
    return edited(
        copy.deepcopy(_composed("grpo_nemo_gym")),
        {
            "env": {"math": {"num_workers": 8}},
            "policy.draft": {"enabled": False},
            "grpo.max_val_samples": 64,
            "grpo.val_batch_size": 32,
            "checkpointing.metric_name": "val:accuracy",
            "data.validation.repeat": GONE,
            "data.default": {
                "dataset_name": "ResponseDataset",
                "env_name": "math",
                "processor": "math_hf_data_processor",
            },
        },
    )


def edited(data: dict[str, Any], edits: Mapping[str, object]) -> dict[str, Any]:
    """`data` with the edits made in place."""
    for key, value in edits.items():
        *parents, name = key.split(".")
        node = data
        for part in parents:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        if value is GONE:
            node.pop(name)
        else:
            node[name] = copy.deepcopy(value)
    return data
