"""From NeMo-RL's batch keys to those of trl, with the arithmetic a config must satisfy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemotron.engines.embedded.reading import lookup


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

    Raises ValueError when the micro batch does not divide the global batch or there are fewer rows than
    one global batch (NeMo-RL drops the incomplete batch and trains nothing).
    """
    size = int(lookup(config, "policy.train_global_batch_size"))
    micro = int(lookup(config, "policy.train_micro_batch_size"))
    if size % micro:
        raise ValueError(
            f"policy.train_global_batch_size {size} is no multiple of train_micro_batch_size {micro}"
        )
    if rows < size:
        raise ValueError(f"{rows} rows are fewer than one batch of {size} (policy.train_global_batch_size)")
    steps = _steps(config, section, per_epoch=rows // size)
    return BatchPlan(micro, size // micro, 1, steps)


def grpo_batches(config: Mapping[str, Any], rows: int) -> BatchPlan:
    """Batches of GRPO over `rows` prompts. Raises ValueError when the numbers do not divide."""
    prompts = int(lookup(config, "grpo.num_prompts_per_step"))
    group = int(lookup(config, "grpo.num_generations_per_prompt"))
    size = int(lookup(config, "policy.train_global_batch_size"))
    micro = int(lookup(config, "policy.train_micro_batch_size"))
    rollouts = prompts * group
    if rollouts % size:
        raise ValueError(
            f"{prompts} prompts x {group} generations = {rollouts} rollouts, no multiple of "
            f"policy.train_global_batch_size {size}"
        )
    if size % micro:
        raise ValueError(
            f"policy.train_global_batch_size {size} is no multiple of train_micro_batch_size {micro}"
        )
    if rows < prompts:
        raise ValueError(f"{rows} prompts are fewer than one step of {prompts} (grpo.num_prompts_per_step)")
    return BatchPlan(
        micro, size // micro, rollouts // size, _steps(config, "grpo", per_epoch=rows // prompts)
    )


def _steps(config: Mapping[str, Any], section: str, per_epoch: int) -> int:
    """The smaller of the step limit and what the epochs hold; -1 and absent mean no limit."""
    limits = []
    limit = int(lookup(config, f"{section}.max_num_steps", -1))
    if limit > 0:
        limits.append(limit)
    epochs = int(lookup(config, f"{section}.max_num_epochs", -1))
    if epochs > 0:
        limits.append(epochs * per_epoch)
    if not limits:
        raise ValueError(f"neither {section}.max_num_steps nor {section}.max_num_epochs limits the run")
    return min(limits)
