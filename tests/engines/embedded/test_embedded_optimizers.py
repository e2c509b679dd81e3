"""Optimizers and schedules: built exactly as a config names them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nemotron.engines.embedded.optimizers import build_optimizer, build_scheduler
from nemotron.errors import UsageError


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(2))]


def megatron(optimizer: dict[str, Any], scheduler: dict[str, Any]) -> dict[str, Any]:
    return {"policy": {"megatron_cfg": {"enabled": True, "optimizer": optimizer, "scheduler": scheduler}}}


def named(name: str, scheduler: Any = None, **kwargs: Any) -> dict[str, Any]:
    return {"policy": {"optimizer": {"name": name, "kwargs": kwargs}, "scheduler": scheduler}}


def rates(config: dict[str, Any], steps: int) -> list[float]:
    """The learning rate of each step, the way a trainer steps the schedule."""
    optimizer = build_optimizer(config, parameters())
    scheduler = build_scheduler(config, optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_megatrons_schedule_warms_up_from_its_start_and_falls_to_its_floor() -> None:
    config = megatron(
        {"lr": 1e-3, "min_lr": 1e-4},
        {"lr_warmup_iters": 4, "lr_warmup_init": 2e-4, "lr_decay_iters": 14, "lr_decay_style": "cosine"},
    )
    got = rates(config, 18)
    assert got[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    assert got[9] == pytest.approx((1e-3 + 1e-4) / 2), "half way down after half of the decay"
    assert got[6] == pytest.approx(1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi * 0.2)))
    assert got[14:] == pytest.approx([1e-4] * 4), "and stays there"
    assert got[4:15] == sorted(got[4:15], reverse=True)


@pytest.mark.parametrize(
    ("style", "expected"),
    [("constant", [1.0, 1.0, 1.0, 1.0, 1.0]), ("linear", [1.0, 0.775, 0.55, 0.325, 0.1])],
)
def test_megatrons_other_decays(style: str, expected: list[float]) -> None:
    schedule = {"lr_decay_style": style, "lr_decay_iters": 4, "lr_warmup_iters": 0}
    assert rates(megatron({"lr": 1.0, "min_lr": 0.1}, schedule), 5) == pytest.approx(expected)


def test_without_its_length_the_decay_takes_the_whole_run() -> None:
    got = rates(megatron({"lr": 1.0, "min_lr": 0.0}, {"lr_decay_style": "linear"}), 5)
    assert got == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_megatrons_optimizer_is_adam_with_its_numbers() -> None:
    section = {"lr": 0.5, "weight_decay": 0.25, "adam_beta1": 0.7, "adam_beta2": 0.8, "adam_eps": 1e-5}
    made = build_optimizer(megatron(section, {}), parameters())
    assert isinstance(made, torch.optim.AdamW)
    group = made.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"], group["eps"]) == (0.5, 0.25, (0.7, 0.8), 1e-5)


def test_a_list_of_schedules_follows_its_milestones() -> None:
    entries = [
        {"name": "torch.optim.lr_scheduler.LinearLR", "kwargs": {"start_factor": 0.5, "total_iters": 4}},
        {"name": "torch.optim.lr_scheduler.ConstantLR", "kwargs": {"factor": 1.0, "total_iters": 99}},
        {"name": "torch.optim.lr_scheduler.CosineAnnealingLR", "kwargs": {"T_max": 4, "eta_min": 0.0}},
        {"milestones": [4, 6]},
    ]
    got = rates(named("torch.optim.AdamW", entries, lr=1.0), 10)
    assert got[:6] == pytest.approx([0.5, 0.625, 0.75, 0.875, 1.0, 1.0])
    assert got[6:] == pytest.approx([0.5 * (1 + math.cos(math.pi * n / 4)) for n in range(4)])


def test_one_schedule_may_stand_alone() -> None:
    one = {"name": "torch.optim.lr_scheduler.StepLR", "kwargs": {"step_size": 2, "gamma": 0.1}}
    expected = pytest.approx([1.0, 1.0, 0.1, 0.1])
    assert rates(named("AdamW", one, lr=1.0), 4) == expected
    assert rates(named("AdamW", [one], lr=1.0), 4) == expected


def test_without_a_schedule_the_rate_is_constant() -> None:
    assert rates(named("torch.optim.AdamW", lr=0.25), 3) == [0.25] * 3


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "Adafactor"])
def test_optimizers_go_by_their_torch_names(name: str) -> None:
    made = build_optimizer(named(f"torch.optim.{name}", lr=0.25), parameters())
    assert type(made) is getattr(torch.optim, name)
    assert made.param_groups[0]["lr"] == 0.25


def test_yaml_lists_become_the_tuples_torch_wants() -> None:
    made = build_optimizer(named("torch.optim.AdamW", lr=0.1, betas=[0.8, 0.9]), parameters())
    assert made.param_groups[0]["betas"] == (0.8, 0.9)


@pytest.mark.parametrize(
    ("config", "where", "valid"),
    [
        (named("torch.optim.Lion", lr=0.1), "policy.optimizer.name", "torch.optim.AdamW"),
        (named("os.system", lr=0.1), "policy.optimizer.name", "torch.optim.AdamW"),
        ({"policy": {"optimizer": None}}, "policy.optimizer", "torch.optim.AdamW"),
        (
            named("AdamW", {"name": "Cosine"}, lr=0.1),
            "policy.scheduler.name",
            "torch.optim.lr_scheduler.LinearLR",
        ),
        (
            named("AdamW", [{"name": "LinearLR"}, {"name": "Cosine"}, {"milestones": [2]}], lr=0.1),
            "policy.scheduler.1.name",
            "torch.optim.lr_scheduler.CosineAnnealingLR",
        ),
        (
            megatron({"lr": 0.1}, {"lr_decay_style": "inverse"}),
            "policy.megatron_cfg.scheduler.lr_decay_style",
            "cosine",
        ),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(
    config: dict[str, Any], where: str, valid: str
) -> None:
    with pytest.raises(UsageError) as caught:
        rates(config, 1)
    assert caught.value.where == where
    assert valid in caught.value.valid


@pytest.mark.parametrize(
    ("config", "where"),
    [
        (named("AdamW", lr=0.1, momentum=0.9), "policy.optimizer.kwargs"),
        (named("AdamW", lr=-1.0), "policy.optimizer.kwargs"),
        (named("AdamW", {"name": "StepLR", "kwargs": {}}, lr=0.1), "policy.scheduler.kwargs"),
        (named("AdamW", [{"name": "LinearLR"}, {"name": "LinearLR"}], lr=0.1), "policy.scheduler"),
        (named("AdamW", [{"name": "LinearLR"}, {"milestones": [2]}], lr=0.1), "policy.scheduler"),
    ],
)
def test_what_torch_refuses_names_the_key(config: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError) as caught:
        rates(config, 1)
    assert caught.value.where == where
