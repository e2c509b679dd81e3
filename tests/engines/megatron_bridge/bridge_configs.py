"""Configs of the shipped step, resolved as an engine gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nemotron
from nemotron.config.compose import compose
from nemotron.engines.base import StepFacts

STEP = Path(nemotron.__file__).parent / "steps" / "sft" / "megatron_bridge"


def shipped(name: str = "default", **changes: Any) -> dict[str, Any]:
    """A shipped config with inputs bound; changes: dotted keys with `__` for the dots."""
    config = compose(STEP / "config" / f"{name}.yaml", ())
    data = config.without("run", "inputs").resolve({}).data
    data["checkpoint"]["pretrained_checkpoint"] = "in://model"
    data["dataset"]["packed_sequence_specs"]["packed_train_data_path"] = "in://packed"
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        node = data
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return data


def facts(world: int = 8, **more: Any) -> StepFacts:
    """The step on `world` GPUs of one node."""
    given = {"rows": {}, "bound": {}, **more}
    return StepFacts(
        step="sft/megatron_bridge",
        directory=STEP,
        script=STEP / "step.py",
        command=None,
        launch="torchrun",
        nodes=1,
        gpus_per_node=world,
        image="nvcr.io/nvidia/nemo:26.04",
        **given,
    )
