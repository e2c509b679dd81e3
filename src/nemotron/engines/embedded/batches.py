"""From NeMo-RL's batch keys to those of trl, with the arithmetic a config must satisfy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemotron.engines.embedded.reading import lookup
from nemotron.errors import CheckFailed

GLOBAL_BATCH, MICRO_BATCH = "policy.train_global_batch_size", "policy.train_micro_batch_size"


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer step is cut into micro batches, and how many steps there are.

    per_device: samples a forward pass sees. accumulation: micro batches in an optimizer step.
    optimizer_steps_per_step: optimizer steps in one step of the config; above 1 only for GRPO whose
    rollouts outnumber the global batch. steps: steps of the config.
    """

    per_device: int
    accumulation: int
    optimizer_steps_per_step: int
    steps: int

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps in the whole run."""
        return self.steps * self.optimizer_steps_per_step


def supervised_batches(config: Mapping[str, Any], section: str, rows: int) -> BatchPlan:
    """Batches of SFT, reward-model and DPO training over `rows` rows.

    Raises CheckFailed when the micro batch does not divide the global batch or there are fewer rows than
    one global batch (NeMo-RL drops the incomplete batch and trains nothing).
    """
    size, micro = _sizes(config)
    if rows < size:
        raise CheckFailed(f"{rows} rows are fewer than one batch of {size}", where=GLOBAL_BATCH)
    return BatchPlan(micro, size // micro, 1, _steps(config, section, per_epoch=rows // size))


def grpo_batches(config: Mapping[str, Any], rows: int) -> BatchPlan:
    """Batches of GRPO over `rows` prompts. Raises CheckFailed when the numbers do not divide."""
    prompts = _positive(config, "grpo.num_prompts_per_step")
    group = _positive(config, "grpo.num_generations_per_prompt")
    size, micro = _sizes(config)
    rollouts = prompts * group
    if rollouts % size:
        raise CheckFailed(
            f"{prompts} prompts x {group} generations = {rollouts} rollouts, no multiple of {size}",
            where=GLOBAL_BATCH,
        )
    if rows < prompts:
        raise CheckFailed(
            f"{rows} prompts are fewer than one step of {prompts}", where="grpo.num_prompts_per_step"
        )
    return BatchPlan(
        micro, size // micro, rollouts // size, _steps(config, "grpo", per_epoch=rows // prompts)
    )


def _sizes(config: Mapping[str, Any]) -> tuple[int, int]:
    """The global and the micro batch."""
    size, micro = _positive(config, GLOBAL_BATCH), _positive(config, MICRO_BATCH)
    if size % micro:
        raise CheckFailed(f"{size} is no multiple of {MICRO_BATCH} {micro}", where=GLOBAL_BATCH)
    return size, micro


def _positive(config: Mapping[str, Any], key: str) -> int:
    value = lookup(config, key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckFailed(f"{value!r} is no number of 1 or more", where=key)
    return value


def _steps(config: Mapping[str, Any], section: str, per_epoch: int) -> int:
    """The smaller of the step limit and what the epochs hold; -1 and absent mean no limit."""
    limits = []
    for key, length in ((f"{section}.max_num_steps", 1), (f"{section}.max_num_epochs", per_epoch)):
        if lookup(config, key, -1) != -1:
            limits.append(_positive(config, key) * length)
    if not limits:
        raise CheckFailed(
            f"neither {section}.max_num_steps nor {section}.max_num_epochs limits the run", where=section
        )
    return min(limits)
