"""The optimizer and the schedule a config names, built exactly as named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from nemotron.engines.embedded.reading import lookup
from nemotron.errors import UsageError

OPTIMIZERS = {name: getattr(torch.optim, name) for name in ("AdamW", "Adam", "SGD", "Adafactor")}
# Share of the way from the lowest rate to the highest that is left after a share of the decay.
DECAY_STYLES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}
SCHEDULERS = {
    name: getattr(torch.optim.lr_scheduler, name)
    for name in ("LinearLR", "ConstantLR", "CosineAnnealingLR", "ExponentialLR", "PolynomialLR", "StepLR")
}


def build_optimizer(
    config: Mapping[str, Any], parameters: Sequence[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """`policy.optimizer` over `parameters`; with Megatron enabled, its optimizer section translated."""
    if lookup(config, "policy.megatron_cfg.enabled", False):
        return torch.optim.AdamW(
            parameters, **_megatron_adam(lookup(config, "policy.megatron_cfg.optimizer", {}))
        )
    section = lookup(config, "policy.optimizer")
    if not isinstance(section, Mapping):
        raise UsageError("the config names no optimizer", where="policy.optimizer", valid=_names(OPTIMIZERS))
    kind = OPTIMIZERS.get(_last(section.get("name")))
    if kind is None:
        raise UsageError(
            f"{section.get('name')!r} is no optimizer here",
            where="policy.optimizer.name",
            valid=_names(OPTIMIZERS),
        )
    kwargs = dict(section.get("kwargs") or {})
    if "betas" in kwargs:
        kwargs["betas"] = tuple(kwargs["betas"])
    try:
        made: torch.optim.Optimizer = kind(parameters, **kwargs)
    except (TypeError, ValueError) as problem:
        raise UsageError(
            f"torch refuses the optimizer: {problem}", where="policy.optimizer.kwargs"
        ) from problem
    return made


def build_scheduler(
    config: Mapping[str, Any], optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """`policy.scheduler`: one schedule, a list of schedules with `milestones`, or none (constant)."""
    if lookup(config, "policy.megatron_cfg.enabled", False):
        highest = float(optimizer.param_groups[0]["lr"])
        lowest = float(lookup(config, "policy.megatron_cfg.optimizer.min_lr", 0.0))
        schedule = lookup(config, "policy.megatron_cfg.scheduler", {})
        return _megatron_schedule(schedule, optimizer, steps, (highest, lowest))
    section = lookup(config, "policy.scheduler")
    if section is None:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    if isinstance(section, Mapping):
        return _one_schedule(section, optimizer, "policy.scheduler")
    entries = [e for e in section if "name" in e]
    milestones = next((list(e["milestones"]) for e in section if "milestones" in e), [])
    parts = [_one_schedule(e, optimizer, f"policy.scheduler.{i}") for i, e in enumerate(entries)]
    if len(parts) == 1 and not milestones:
        return parts[0]
    if len(milestones) != len(parts) - 1:
        raise UsageError(
            f"{len(parts)} schedules need {len(parts) - 1} milestones, not {len(milestones)}",
            where="policy.scheduler",
        )
    return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=milestones)


def _one_schedule(
    section: Mapping[str, Any], optimizer: torch.optim.Optimizer, where: str
) -> torch.optim.lr_scheduler.LRScheduler:
    kind = SCHEDULERS.get(_last(section.get("name")))
    if kind is None:
        raise UsageError(
            f"{section.get('name')!r} is no schedule here", where=f"{where}.name", valid=_names(SCHEDULERS)
        )
    try:
        made: torch.optim.lr_scheduler.LRScheduler = kind(optimizer, **dict(section.get("kwargs") or {}))
    except (TypeError, ValueError) as problem:
        raise UsageError(f"torch refuses the schedule: {problem}", where=f"{where}.kwargs") from problem
    return made


def _megatron_adam(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "lr": float(section.get("lr", 1e-6)),
        "weight_decay": float(section.get("weight_decay", 0.01)),
        "betas": (float(section.get("adam_beta1", 0.9)), float(section.get("adam_beta2", 0.999))),
        "eps": float(section.get("adam_eps", 1e-8)),
    }


def _megatron_schedule(
    section: Mapping[str, Any], optimizer: torch.optim.Optimizer, steps: int, rates: tuple[float, float]
) -> torch.optim.lr_scheduler.LRScheduler:
    """Megatron's schedule: from `lr_warmup_init` linearly to the rate, then its decay style down to `min_lr`.

    rates: the highest and the lowest learning rate.
    """
    highest, lowest = rates
    warmup = int(section.get("lr_warmup_iters") or 0)
    first = float(section.get("lr_warmup_init") or 0.0)
    style = str(section.get("lr_decay_style", "constant"))
    decay_steps = int(section.get("lr_decay_iters") or steps)
    if style not in DECAY_STYLES:
        raise UsageError(
            f"{style!r} is no decay style here",
            where="policy.megatron_cfg.scheduler.lr_decay_style",
            valid=tuple(DECAY_STYLES),
        )

    def factor(step: int) -> float:
        if step < warmup:
            return (first + (highest - first) * step / warmup) / highest
        done = min(1.0, (step - warmup) / max(1, decay_steps - warmup))
        return (lowest + (highest - lowest) * DECAY_STYLES[style](done)) / highest

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _last(name: Any) -> str:
    return str(name).rsplit(".", 1)[-1]


def _names(table: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"torch.optim.{n}" if n in OPTIMIZERS else f"torch.optim.lr_scheduler.{n}" for n in table)
